"""A package as a stranger would write it."""
