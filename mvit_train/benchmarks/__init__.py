"""What `task=benchmark` measures with: readers, loaders, other implementations, stopwatches."""
