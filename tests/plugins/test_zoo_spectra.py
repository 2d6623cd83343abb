from __future__ import annotations

import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from flowlab.errors import DataError
from flowlab.testing import check_dataset
from flowlab_zoo import spectra
from flowlab_zoo.datasets import Digits, Vibrations


def test_vibrations_conform_and_have_six_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "VIBRATIONS_SPLIT", (("train", 60), ("test", 20)))
    check_dataset(Vibrations())
    made = list(Vibrations().recordings(1, None))
    assert Counter(one.split for one in made) == {"train": 60, "test": 20}
    assert {one.label for one in made} == set(spectra.VIBRATIONS)
    assert all(one.samples.shape == (256, 1) for one in made)


def test_a_pure_tone_is_one_bin_of_its_log_spectrum() -> None:
    tone = np.cos(2 * np.pi * 101 * np.arange(spectra.FRAME) / spectra.FRAME)[None]
    found = spectra.log_spectra(tone)
    assert found.dtype == np.float32
    assert found.argmax() == 50  # bins 101 and 102 of the spectrum are the 51st pair behind the mean
    assert found[0, 50] == pytest.approx(10 * np.log(0.25 + 0.125), abs=0.01)


def test_digits_conform_and_keep_their_split() -> None:
    check_dataset(Digits())
    made = list(Digits().recordings(7, None))
    assert Counter(one.split for one in made) == {"train": 1347, "test": 450}
    assert made[0].samples.shape == (64, 1)


def test_missing_digits_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"flowlab\[bench\]"):
        list(islice(Digits().recordings(7, None), 1))
