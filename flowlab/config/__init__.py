"""YAML to a checked, typed config; see `flowlab.config.loading`."""

from flowlab.config.loading import load, load_mapping
from flowlab.config.settings import Config, extractor_options

__all__ = ["Config", "extractor_options", "load", "load_mapping"]
