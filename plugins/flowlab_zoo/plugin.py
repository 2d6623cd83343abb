"""What flowlab_zoo brings."""
