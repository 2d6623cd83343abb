"""The sets of `flowlab bench quantization` are those that other quantizers were measured on, to the bit."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlab.plugins import load

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def sets() -> dict[str, Any]:
    (preset,) = (one.item for one in load().presets("bench"))
    return {one["dataset"]: one for one in preset.values["sets"]}


@pytest.mark.parametrize("name", ["synfft", "digits64"])
def test_the_arrays_are_those_of_the_reference(
    name: str, sets: dict[str, Any], shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    script = shared / "bench" / "spectra.py"
    if not script.exists():
        pytest.skip("no bench/spectra.py beside the real recordings")
    folder = tmp_path_factory.getbasetemp() / "spectra"
    if not folder.exists():
        spec = importlib.util.spec_from_file_location("spectra", script)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main(folder)
    wanted = np.load(folder / f"{name}.npz")
    made = list(load().get("dataset", name).recordings(sets[name]["seed"], None))
    classes = sorted({one.label for one in made})
    for split, end in (("train", "tr"), ("test", "te")):
        ones = [one for one in made if one.split == split]
        assert np.array_equal(np.stack([one.samples.T[:, :, None] for one in ones]), wanted[f"x{end}"])
        assert np.array_equal([classes.index(one.label) for one in ones], wanted[f"y{end}"])
