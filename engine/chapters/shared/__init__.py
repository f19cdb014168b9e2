"""Cards that two chapters show, and which no chapter owns."""
