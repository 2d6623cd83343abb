"""What is installed, and where it comes from."""

from __future__ import annotations

import pytest
from torch import nn

from flowlab.contracts import Model, Preset
from flowlab.engine.listings import LISTINGS, compile_presets
from flowlab.errors import FlowlabError
from flowlab.plugins import Brought, Catalogue, load


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


@pytest.mark.parametrize("kind", LISTINGS)
def test_every_row_says_where_it_comes_from_and_what_it_is(catalogue: Catalogue, kind: str) -> None:
    listing = LISTINGS[kind](catalogue)
    assert listing.rows
    for row in listing.rows:
        assert row["from"].startswith("flowlab")
        assert row["summary"]
    assert list(listing.to_json()) == [kind]
    lines = listing.lines()
    assert max(map(len, lines)) <= 100
    assert {f"from {row['from']}:" for row in listing.rows} == {line for line in lines if line.startswith("from ")}
    for row in listing.rows:
        assert sum(line.split()[0] == row["name"] for line in lines if line.strip()) == 1


def test_a_target_says_accelerator_core_memory_and_quantizers(catalogue: Catalogue) -> None:
    rows = {row["name"]: row for row in LISTINGS["targets"](catalogue).rows}
    assert rows["F28P55"]["accelerator"] == "NPU"
    assert rows["F28P55"]["flash_bytes"] == 1088 * 1024
    assert rows["F28P55"]["quantizers"] == {"PTQ": "tinpu_ptq", "QAT": "tinpu_qat"}
    assert (rows["F28P65"]["accelerator"], rows["F28P65"]["core"]) == ("none", "C28x-FPU64")
    assert (rows["F28P55"]["clock_hz"], rows["CC1354"]["clock_hz"]) == (150_000_000, None)  # no source gives the second
    shown = {line.split()[0]: line for line in LISTINGS["targets"](catalogue).lines()}
    assert "150 MHz" in shown["F28P55"] and "MHz" not in shown["CC1354"]


def test_one_target_says_what_each_of_its_compile_presets_changes(catalogue: Catalogue) -> None:
    found = compile_presets(catalogue, "F28P55")
    assert {one.name for one in found.presets} == {
        "default_preset", "forced_soft_npu_preset", "compress_npu_layer_data",
    }  # fmt: skip
    lines = found.lines()
    assert "forced_soft_npu_preset: every layer on the CPU; saves no bytes of weights" in lines
    assert "    c, ti-npu type=hard skip_normalize=true output_int=true opt_for_space=true" in lines
    document = found.to_json()
    assert document["target"]["name"] == "F28P55"
    assert all(one["values"]["target"] and one["task_type"] for one in document["presets"])
    assert {one.name for one in compile_presets(catalogue, "AM263").presets} == {"default_preset"}
    assert compile_presets(catalogue, "host").lines()[1:] == ["no compile presets"]
    with pytest.raises(FlowlabError, match=r"no target named 'F28P550'\. Did you mean 'F28P55'\?"):
        compile_presets(catalogue, "F28P550")


def test_features_are_extractors_and_presets(catalogue: Catalogue) -> None:
    rows = LISTINGS["features"](catalogue).rows
    assert {row["kind"] for row in rows} == {"extractor", "preset"}
    assert {row["name"] for row in rows if row["kind"] == "preset"} == set(catalogue.preset_names("feature_extraction"))


def test_a_name_that_two_bring_is_shown_as_a_user_must_write_it() -> None:
    rivals = tuple(Brought(Preset("feature_extraction", "wide", {}), dist) for dist in ("one", "two"))
    assert [row["name"] for row in LISTINGS["features"](Catalogue(rivals)).rows] == ["one:wide", "two:wide"]


def test_nothing_installed_is_said() -> None:
    assert LISTINGS["models"](Catalogue()).lines() == [
        "models: none is installed. `flowlab plugins` says what is, and what of it is broken"
    ]


def test_a_model_says_parameters_and_multiplications_for_a_stated_input(catalogue: Catalogue) -> None:
    listing = LISTINGS["models"](catalogue)
    rows = {row["name"]: row for row in listing.rows}
    assert rows["CLS_4k_NPU"]["parameters"] == 3692  # as `flowlab demo` says of the same input
    # CLS_100_NPU: 1x1 to 8 channels, 3x1 to 8 channels, both over 256 places, then 8 -> 2
    assert rows["CLS_100_NPU"]["macs"] == 8 * 256 + 8 * 8 * 3 * 256 + 8 * 2
    assert listing.lines()[0] == "Parameters and multiplications (MACs) for 1 channel, 256 features and 2 classes:"
    assert all(row["parameters"] and row["macs"] for row in listing.rows)


class Unbuildable(Model):
    """A stranger's network with a fault of its own."""

    name = "unbuildable"
    summary = "fails"

    def build(self, shape: tuple[int, int, int], outputs: int, options: object) -> nn.Module:
        raise KeyError("weights")


def test_a_network_that_cannot_be_built_is_listed_and_hides_no_other() -> None:
    (row,) = LISTINGS["models"](Catalogue((Brought(Unbuildable(), "stranger"),))).rows
    assert (row["name"], row["parameters"], row["macs"]) == ("unbuildable", None, None)


def test_a_feature_preset_says_samples_frames_and_features(catalogue: Catalogue) -> None:
    rows = {row["name"]: row for row in LISTINGS["features"](catalogue).rows}
    one = rows["Input256_FFTBIN_16Feature_8Frame_3InputChannel_removeDC_2D1"]
    assert (one["window"], one["frames"], one["features"]) == (2048, 8, [3, 128])
    assert "window" not in rows["Custom_Default"]  # nothing follows from its values


def test_a_quantizer_without_options_says_so(catalogue: Catalogue) -> None:
    header, *lines = LISTINGS["quantizers"](catalogue).lines()
    at = header.index("options")
    assert {line[at:].split()[0] for line in lines if not line.startswith("from ")} == {"none"}
