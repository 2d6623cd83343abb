"""Magnitude pruning between training and quantization."""
