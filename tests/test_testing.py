"""The conformance checks accept a stranger's sound package and name what is wrong with an unsound one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlab import testing
from flowlab.contracts import Core, Dataset, FeatureExtractor, Preset, Reader, Recording

THIRD_PARTY = Path(__file__).parent / "third_party"
SOUND = Recording("a", "whole", np.zeros((4, 1), np.float32), ("x",))


@pytest.fixture
def gearbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import importlib

    monkeypatch.syspath_prepend(str(THIRD_PARTY / "gearbox"))
    yield importlib.import_module("flowlab_gearbox.plugin")
    for name in [name for name in sys.modules if name.startswith("flowlab_gearbox")]:
        del sys.modules[name]


def test_a_sound_package_passes_as_a_whole(gearbox: Any) -> None:
    names = {item.name for item in testing.check_package("flowlab_gearbox.plugin")}
    assert names == {"gearbox", "envelope", "gear_net", "gear-m0", "gear_envelope"}


def test_a_sound_dataset_extractor_and_model_pass(gearbox: Any) -> None:
    assert len(testing.check_dataset(gearbox.Gearbox())) == 4
    assert testing.check_feature_extractor(gearbox.Envelope(), (2, 16)).shape == (5, 2, 4, 1)
    testing.check_model(gearbox.TinyNet(), (1, 16, 1), 3)


def test_a_package_that_brings_nothing_fails() -> None:
    with pytest.raises(AssertionError, match="brings nothing"):
        testing.check_package("flowlab.errors")


def test_a_dataset_that_ignores_its_seed_fails() -> None:
    class Same(Dataset):
        name = "same"

        def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
            yield SOUND

    with pytest.raises(AssertionError, match="dataset 'same': the seed changes nothing"):
        testing.check_dataset(Same())


def test_a_dataset_that_draws_outside_its_seed_fails() -> None:
    class Wild(Dataset):
        name = "wild"
        calls = 0

        def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
            Wild.calls += 1
            yield replace(SOUND, samples=np.full((4, 1), Wild.calls, np.float32))

    with pytest.raises(AssertionError, match="seed 42 gives other bytes the second time"):
        testing.check_dataset(Wild())


@pytest.mark.parametrize(
    ("samples", "columns", "said"),
    [
        (np.zeros((4, 1)), ("x",), "float64, not float32"),
        (np.zeros(4, np.float32), ("x",), "not \\(time, column\\)"),
        (np.zeros((4, 2), np.float32), ("x",), "2 columns of samples, but 1 names"),
        (np.full((4, 1), np.nan, np.float32), ("x",), "NaN or infinity"),
    ],
)
def test_an_unsound_recording_is_named(samples: Any, columns: tuple[str, ...], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        testing.check_recording(Recording("a", "b", samples, columns))


def test_a_reader_without_suffixes_fails(tmp_path: Path) -> None:
    class Mute(Reader):
        name = "mute"

        def read(self, path: Path, shown: str, options: Any) -> Recording:
            return SOUND

    with pytest.raises(AssertionError, match="names no suffixes"):
        testing.check_reader(Mute(), tmp_path)


class Extractor(FeatureExtractor):
    name = "e"

    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        return (*window, 1)

    def extract(self, windows: Any, options: Any) -> Any:
        return windows[..., None].copy()


def test_an_extractor_whose_shape_lies_fails() -> None:
    class Liar(Extractor):
        def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
            return (1, 1, 1)

    with pytest.raises(AssertionError, match=r"shape\(\) says \(1, 1, 1\), extract\(\) gives \(2, 8, 1\)"):
        testing.check_feature_extractor(Liar(), (2, 8))


def test_an_extractor_that_looks_at_the_whole_batch_fails() -> None:
    class Peeking(Extractor):
        def extract(self, windows: Any, options: Any) -> Any:
            return (windows - windows.mean())[..., None]

    with pytest.raises(AssertionError, match="other windows of the batch change a feature"):
        testing.check_feature_extractor(Peeking(), (2, 8))


def test_an_extractor_that_writes_into_its_input_fails() -> None:
    class Writing(Extractor):
        def extract(self, windows: Any, options: Any) -> Any:
            windows *= 2
            return windows[..., None].copy()

    with pytest.raises(AssertionError, match="changes the windows"):
        testing.check_feature_extractor(Writing(), (2, 8))


@dataclass(frozen=True)
class NotJson:
    where: Any = Path("x")


def test_options_that_are_no_json_fail() -> None:
    class Odd(Core):
        name = "odd"
        Options = NotJson

    with pytest.raises(AssertionError, match=r"options\.where: PosixPath is no JSON value"):
        testing.check_plugin(Odd())


def test_code_and_libraries_that_are_not_there_fail() -> None:
    class Lost(Core):
        name = "lost"
        code = ("no_such_package_of_anyone",)

    with pytest.raises(AssertionError, match="code 'no_such_package_of_anyone' is not importable"):
        testing.check_plugin(Lost())
    lost = Lost()
    lost.code, lost.libraries = (), ("no-such-distribution-of-anyone",)
    with pytest.raises(AssertionError, match="is no installed distribution"):
        testing.check_plugin(lost)


def test_an_example_preset_with_a_key_that_is_no_section_fails() -> None:
    with pytest.raises(AssertionError, match="trainign is none"):
        testing.check_preset(Preset("example", "x", {"trainign": {}}))


def test_every_bundled_plugin_and_preset_conforms() -> None:
    from flowlab.plugins import load

    for one in load().brought:
        if isinstance(one.item, Preset):
            testing.check_preset(one.item)
        else:
            testing.check_plugin(one.item)


def test_a_stage_whose_function_is_not_there_is_refused() -> None:
    from flowlab.contracts import Stage
    from flowlab.testing import check_stage

    check_stage(Stage("join", "os.path:join", rewrites=("float_model",), section="joining", libraries=("numpy",)))
    with pytest.raises(AssertionError, match=r"stage 'join': os.path has no function jion"):
        check_stage(Stage("join", "os.path:jion", rewrites=("float_model",), section="joining"))
    with pytest.raises(AssertionError, match="no_such_library"):
        check_stage(Stage("join", "os.path:join", section="joining", libraries=("no_such_library",)))
