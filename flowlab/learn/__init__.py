"""Learning: problems, the one training loop, layer tables, and the trace of a network to a float graph."""
