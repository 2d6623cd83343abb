"""Where a training stood after a whole epoch: a file that carries its digest, and the one before it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from flowlab.faults import fault_point

DIGEST = 32  # bytes of SHA-256 in front of the content
BEFORE = ".before"  # behind the name of the checkpoint before the last


def dump(value: object) -> bytes:
    """``torch.save`` into bytes: a file's name does not get into its content, so equal values give equal bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts, lists and dicts; the checkpoint before stays beside it.

    Wherever the process is killed, a reader finds a whole one: the new one, or the last one under one of two names.
    """
    content = dump(dict(state))
    content = hashlib.sha256(content).digest() + content
    temporary = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        half = len(content) // 2
        file.write(content[:half])
        file.flush()
        fault_point("checkpoint-write")
        file.write(content[half:])
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        path.replace(_before(path))
        fault_point("checkpoint-rename")
    temporary.replace(path)


def load_checkpoint(
    path: Path | None, identity: str, said: Callable[[str], None] = lambda text: None
) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote last, or before that where the last one is damaged; None where nothing fits.

    A checkpoint saves time and nothing else, so a bad one is no error: training goes on from the one before, or
    starts from its beginning.

    Args:
        path: the checkpoint's file; None is a training that keeps none.
        identity: of the training; a checkpoint of another one is not looked at.
        said: is told of each file that is damaged.
    """
    for file in () if path is None else (path, _before(path)):
        if not file.is_file():
            continue
        state = _read(file)
        if state is None:
            said(f"{file.name} is damaged, and is not used")
            file.unlink()  # or it would take the place of the one before
        elif state.get("identity") == identity:
            return state
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """What a file holds, or None where it is not as it was written."""
    content = path.read_bytes()
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    try:
        state = torch.load(io.BytesIO(content[DIGEST:]), weights_only=True)
    except Exception:  # noqa: BLE001 - torch raises whatever it meets; its digest fits: a hand, or another torch, wrote it
        return None
    return state if isinstance(state, dict) else None


def _before(path: Path) -> Path:
    return path.with_name(path.name + BEFORE)
