"""What flowlab_signal brings."""
