"""Checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from flowlab.learn import checkpoint
from flowlab.learn.checkpoint import dump, load_checkpoint, load_weights, save_checkpoint

STATE = {"identity": "a", "weights": {"w": torch.arange(5.0)}, "rows": [{"epoch": 1, "loss": 0.5}]}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", STATE)
    loaded = load_checkpoint(tmp_path / "c", "a")
    assert loaded is not None
    assert torch.equal(loaded["weights"]["w"], torch.arange(5.0))
    assert loaded["rows"] == STATE["rows"]


def test_another_identity_starts_from_the_beginning(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", STATE)
    assert load_checkpoint(tmp_path / "c", "b") is None


def test_no_file_starts_from_the_beginning(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", "a") is None
    assert load_checkpoint(None, "a") is None


def test_any_flipped_bit_starts_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, STATE)
    sound = path.read_bytes()
    for place in range(0, len(sound), 97):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        assert load_checkpoint(path, "a") is None
    path.write_bytes(sound[: len(sound) // 2])
    assert load_checkpoint(path, "a") is None
    path.write_bytes(b"")
    assert load_checkpoint(path, "a") is None


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, STATE)

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {**STATE, "rows": []})
    monkeypatch.undo()
    loaded = load_checkpoint(path, "a")
    assert loaded is not None and loaded["rows"] == STATE["rows"]


def test_equal_values_give_equal_bytes() -> None:
    assert dump({"w": torch.ones(3)}) == dump({"w": torch.ones(3)})


def test_weights_come_back_from_their_bytes(tmp_path: Path) -> None:
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    (tmp_path / "best_model.pt").write_bytes(dump(module.state_dict()))
    load_weights(other, tmp_path / "best_model.pt")
    assert torch.equal(module.weight, other.weight)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "whole.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_weights(torch.nn.Linear(3, 2), tmp_path / "whole.pt")
