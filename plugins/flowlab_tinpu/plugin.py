"""What flowlab_tinpu brings."""
