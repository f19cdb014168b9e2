"""A loaded model: loading it, what can be read from it and what can be changed in it."""
