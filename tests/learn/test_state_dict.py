"""Weights on disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from flowlab.learn.checkpoint import dump
from flowlab.learn.state_dict import load_state


def test_weights_come_back_from_their_bytes(tmp_path: Path) -> None:
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    (tmp_path / "best_model.pt").write_bytes(dump(module.state_dict()))
    assert not load_state(other, tmp_path / "best_model.pt").training
    assert torch.equal(module.weight, other.weight)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "whole.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_state(torch.nn.Linear(3, 2), tmp_path / "whole.pt")
