"""What `task=doctor` looks at before a run: the machine, the data, a sample of its videos, a forecast."""
