"""A figure together with what lets it prove itself."""
