"""What `task=serve` works with: its limits, what it finds out about a clip, the queue, the page."""
