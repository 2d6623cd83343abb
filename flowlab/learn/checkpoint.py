"""Where a training stood after its last whole epoch: one file, replaced at once, never half of it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

DIGEST = 32  # bytes of SHA-256 in front of the content


def dump(value: object) -> bytes:
    """``torch.save`` into bytes: a file's name does not get into its content, so equal values give equal bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts, lists and dicts; a reader finds the old file or the new one, also after a kill."""
    content = dump(dict(state))
    temporary = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        file.write(hashlib.sha256(content).digest() + content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path | None, identity: str) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None: no file, a damaged one, or one whose ``identity`` is another.

    A checkpoint saves time and nothing else, so a bad one is no error: training starts from its beginning.
    """
    if path is None or not path.is_file():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    try:
        state = torch.load(io.BytesIO(content[DIGEST:]), weights_only=True)
    except Exception:  # noqa: BLE001 - torch raises whatever it meets; its digest fits: a hand, or another torch, wrote it
        return None
    return state if isinstance(state, dict) and state.get("identity") == identity else None
