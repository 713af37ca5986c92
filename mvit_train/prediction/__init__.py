"""What `task=predict` works with: finding inputs, reading and scoring them, timelines, showing the answer."""
