"""Quantization: fake quantization, scales, QAT and PTQ, and the integer graph."""
