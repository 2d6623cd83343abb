"""What flowlab_generic brings."""
