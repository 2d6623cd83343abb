"""The compiler: a graph in single assignment, and what is done to it."""
