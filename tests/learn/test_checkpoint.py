"""Checkpoints."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from flowlab.learn import checkpoint
from flowlab.learn.checkpoint import dump, load_checkpoint, save_checkpoint

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


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty"])
def test_of_a_damaged_checkpoint_the_one_before_is_used_and_it_is_said(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {**STATE, "rows": [1]})
    save_checkpoint(path, {**STATE, "rows": [1, 2]})
    sound = path.read_bytes()
    middle = len(sound) // 2
    flipped = sound[:middle] + bytes([sound[middle] ^ 8]) + sound[middle + 1 :]
    path.write_bytes({"torn": sound[:middle], "flipped": flipped, "empty": b""}[damage])
    said: list[str] = []
    loaded = load_checkpoint(path, "a", said.append)
    assert loaded is not None and loaded["rows"] == [1]
    assert said == ["c is damaged, and is not used"]
    save_checkpoint(path, {**STATE, "rows": [1, 2, 3]})  # the damaged one does not take the place of the sound one
    path.write_bytes(b"")
    loaded = load_checkpoint(path, "a")
    assert loaded is not None and loaded["rows"] == [1]


@pytest.mark.parametrize(("call", "rows"), [("fsync", [1, 2]), ("first rename", [1, 2]), ("second rename", [1, 2])])
def test_a_kill_while_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, rows: list[int]
) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {**STATE, "rows": [1]})
    save_checkpoint(path, {**STATE, "rows": [1, 2]})
    left, real = {"first rename": 0, "second rename": 1}.get(call, 9), Path.replace

    def killed(*given: object) -> Path:
        nonlocal left
        if call == "fsync" or not left:
            raise KeyboardInterrupt
        left -= 1
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(*((checkpoint.os, "fsync") if call == "fsync" else (Path, "replace")), killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {**STATE, "rows": [1, 2, 3]})
    monkeypatch.undo()
    said: list[str] = []
    loaded = load_checkpoint(path, "a", said.append)
    assert loaded is not None and loaded["rows"] == rows
    assert said == []


def test_equal_values_give_equal_bytes() -> None:
    assert dump({"w": torch.ones(3)}) == dump({"w": torch.ones(3)})


class Trap:
    """Runs something where a pickle of it is opened."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize("content", [pickle.dumps(Trap()), dump({"identity": Trap()}), dump([1]), b""])
def test_what_a_hand_wrote_with_its_digest_runs_nothing_and_starts_from_the_beginning(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "c").write_bytes(hashlib.sha256(content).digest() + content)
    assert load_checkpoint(tmp_path / "c", "a") is None
