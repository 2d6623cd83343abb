"""Wavelet packet energies for flowlab."""
