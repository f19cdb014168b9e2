"""Pure functions on numpy arrays: the arithmetic behind the figures."""
