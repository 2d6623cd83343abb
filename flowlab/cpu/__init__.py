"""Outside tools: the host's compiler, and C run on the host."""
