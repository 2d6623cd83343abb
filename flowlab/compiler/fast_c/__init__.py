"""C for cores whose ``char`` has 8 bits: layers specialised to their sizes, activations channels last."""
