"""Which checkpoints there are, how their files come to this machine, and what is refused before they are read."""
