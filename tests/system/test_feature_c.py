"""A feature extractor's C on this machine: what is sound passes, and each way to be wrong is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowlab.contracts import FeatureExtractor
from flowlab.cpu import host_compiler
from flowlab.testing import check_feature_c

SOUND = "void flowlab_features(const float *w, float *f) {{ for (int i = 0; i < {size}; i++) {{ f[i] = {value}; }} }}\n"


class Doubled(FeatureExtractor):
    """Twice the window, in C too."""

    name = "doubled"
    value = "w[i] * 2.0f"
    before = ""

    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        return (*window, 1)

    def extract(self, windows: np.ndarray, options: Any) -> np.ndarray:
        return (windows * 2)[..., None]

    def emit_c(self, shape: tuple[int, int], options: Any) -> str:
        return self.before + SOUND.format(size=shape[0] * shape[1], value=self.value)


def test_sound_c_passes(compiler: host_compiler.HostCompiler) -> None:
    check_feature_c(Doubled(), (2, 8))


@pytest.mark.parametrize(
    ("value", "before", "said"),
    [
        ("w[i] * 2.001f", "", "its C is off by 0.0005 of the largest feature"),
        ("w[0] * 2.0f", "", "its C is off by"),
        ("w[i] * 2.0f / 0.0f", "", "its C is off by"),
        ("w[i] * 2.0f", "static int never;\n", "never"),
        ("w[i] * 2.0f", "#error unbuilt\n", "unbuilt"),
        ("*(float *)malloc(4)", "#include <stdlib.h>\n", "calls malloc: a device has no heap"),
        ("*(volatile float *)0", "", "failed"),
    ],
)
def test_wrong_c_is_named(compiler: host_compiler.HostCompiler, value: str, before: str, said: str) -> None:
    wrong = Doubled()
    wrong.value, wrong.before = value, before
    with pytest.raises(AssertionError, match=f"feature extractor 'doubled'.*(?s:.*){said}"):
        check_feature_c(wrong, (2, 8))


def test_c_that_is_not_there_is_said() -> None:
    class Mute(Doubled):
        def emit_c(self, shape: tuple[int, int], options: Any) -> None:
            return None

    with pytest.raises(AssertionError, match="'doubled' has no C"):
        check_feature_c(Mute(), (2, 8))
