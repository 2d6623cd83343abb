"""Readers, feature chains and feature presets."""
