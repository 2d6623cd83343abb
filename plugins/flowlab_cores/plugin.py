"""What flowlab_cores brings."""
