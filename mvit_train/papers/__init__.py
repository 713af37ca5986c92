"""What the papers and the released files say, and how a configuration compares: `task=explain`, `task=complexity`."""
