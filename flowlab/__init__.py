"""flowlab: from sensor recordings to a checked program for a microcontroller's NPU."""

__version__ = "0.1.0"
