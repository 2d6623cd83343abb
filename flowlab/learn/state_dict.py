"""Load a trained network's weights: tensors only, never code."""

from __future__ import annotations

from pathlib import Path

import torch


def load_state(module: torch.nn.Module, path: Path) -> torch.nn.Module:
    """The module with the weights of a state dict file, in eval mode; torch's own errors where they do not fit."""
    module.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return module.eval()
