"""Models, the named datasets, and the example config."""
