"""Cards: a trace and a few choices in, a figure with its evidence out. One folder for each chapter."""

from engine import warm

warm()
