"""Archives of torch.export, and what is changed in them."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def exported(
    module: nn.Module, shape: tuple[int, ...], *, batch: int = 1, dynamic: bool = False, core: bool = False,
    training: bool = False,
) -> bytes:  # fmt: skip
    """What torch.export.save writes for a batch of this size, one that may change, or in core ATen."""
    sizes = ({0: torch.export.Dim("batch")},) if dynamic else None
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own calls of what it calls deprecated
        program = torch.export.export(module.train(training), (torch.randn(batch, *shape),), dynamic_shapes=sizes)
        torch.export.save(program.run_decompositions() if core else program, file)
    module.eval()
    return file.getvalue()


def changed(data: bytes, changes: dict[str, Callable[[bytes], bytes | None]]) -> bytes:
    """An archive with members changed by the ends of their names, or left out where the change gives None."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content: bytes | None = old.read(name)
            for end, change in changes.items():
                if name.endswith(end) and content is not None:
                    content = change(content)
            if content is not None:
                new.writestr(name, content)
    return file.getvalue()


def with_json(data: bytes, change: Callable[[Any], object], member: str = "models/model.json") -> bytes:
    """An archive with something changed in a JSON member."""

    def rewritten(content: bytes) -> bytes:
        values = json.loads(content)
        change(values)
        return json.dumps(values).encode()

    return changed(data, {member: rewritten})
