"""Processor cores as data."""
