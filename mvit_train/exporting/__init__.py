"""What `task=export` writes graphs with: the model with its pixels and scores, files, the comparison and the clock."""
