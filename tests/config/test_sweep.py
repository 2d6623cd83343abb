"""A sweep's file: what it may hold, and how what is wrong is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowlab.config import load as load_config
from flowlab.config.sweep import MAX_CELLS, Sweep, load_sweep, load_sweep_mapping
from flowlab.errors import ConfigError
from flowlab.plugins import Catalogue, load

BASE = """
common: {task_type: generic_timeseries_classification, target_device: F28P55}
dataset: {dataset_name: synfft}
training: {model_name: CLS_500_NPU, training_epochs: 3}
"""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """What is really installed."""
    return load()


def read(folder: Path, text: str, *sets: str) -> Sweep:
    path = folder / "trial.yaml"
    path.write_text(text)
    return load_sweep(path, sets)


def wrong(folder: Path, text: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder, text, *sets)
    return str(error.value)


def config(sweep: Sweep, number: int, catalogue: Any) -> Any:
    return sweep.config(sweep.cells[number], catalogue)


def test_every_combination_is_a_cell_and_the_last_axis_varies_fastest(tmp_path: Path, catalogue: Any) -> None:
    sweep = read(tmp_path, BASE + "matrix: {training.seed: [0, 1], training.batch_size: [8, 16, 32]}\n")
    trainings = [config(sweep, number, catalogue).training for number in range(6)]
    found = [(one.seed, one.batch_size) for one in trainings]
    assert found == [(0, 8), (0, 16), (0, 32), (1, 8), (1, 16), (1, 32)]
    assert [axis.repeats for axis in sweep.axes] == [True, False]
    assert str(sweep.cells[1]) == "seed=0, batch_size=16"


def test_a_choice_by_name_sets_several_keys(tmp_path: Path, catalogue: Any) -> None:
    float32, int4 = "{training.quantization: 0}", "{training.quantization_weight_bitwidth: 4}"
    text = f"matrix: {{precision: {{Float32: {float32}, INT4: {int4}}}}}\n"
    sweep = read(tmp_path, BASE + text)
    assert [cell.labels for cell in sweep.cells] == [{"precision": "Float32"}, {"precision": "INT4"}]
    assert config(sweep, 0, catalogue).training.quantization == 0
    assert config(sweep, 1, catalogue).training.quantization_weight_bitwidth == 4


def test_options_of_a_plugin_can_be_varied(tmp_path: Path, catalogue: Any) -> None:
    text = "matrix: {common.target_device.kernels: [speed, size]}\n"
    sweep = read(tmp_path, BASE.replace("F28P55", "MSPM33C32") + text)
    kernels = [config(sweep, n, catalogue).options_for("common", "target_device")["kernels"] for n in range(2)]
    assert kernels == ["speed", "size"]


def test_the_config_may_lie_in_files_of_its_own_and_paths_count_from_where_they_stand(
    tmp_path: Path, catalogue: Any
) -> None:
    (tmp_path / "deep" / "data").mkdir(parents=True)
    (tmp_path / "deep" / "base.yaml").write_text(BASE.replace("dataset_name: synfft", "input_data_path: data"))
    (tmp_path / "over.yaml").write_text("training: {training_epochs: 7}\n")
    text = "config: [deep/base.yaml, over.yaml]\ntraining: {batch_size: 5}\nmatrix: {training.seed: [1]}\n"
    found = config(read(tmp_path, text), 0, catalogue)
    assert found.dataset.input_data_path == str(tmp_path / "deep" / "data")
    assert (found.training.training_epochs, found.training.batch_size) == (7, 5)


def test_what_is_excluded_is_no_cell(tmp_path: Path) -> None:
    text = """
matrix: {training.seed: [0, 1, 2], training.quantization_weight_bitwidth: [8, 4]}
exclude:
  - {training.seed: [1, 2], training.quantization_weight_bitwidth: 4}
"""
    assert [str(cell) for cell in read(tmp_path, BASE + text).cells] == [
        "seed=0, quantization_weight_bitwidth=8",
        "seed=0, quantization_weight_bitwidth=4",
        "seed=1, quantization_weight_bitwidth=8",
        "seed=2, quantization_weight_bitwidth=8",
    ]


def test_set_lies_over_the_config(tmp_path: Path, catalogue: Any) -> None:
    sweep = read(tmp_path, BASE + "matrix: {training.seed: [0]}\n", "training.training_epochs=9")
    assert config(sweep, 0, catalogue).training.training_epochs == 9


def test_what_it_holds_as_json_is_the_same_sweep(tmp_path: Path, catalogue: Any) -> None:
    text = """
matrix:
  precision: {Float32: {training.quantization: 0}, INT8: {training.quantization: 2}}
  training.seed: [0, 1]
exclude: [{precision: Float32, training.seed: 1}]
baseline: {precision: Float32}
"""
    sweep = read(tmp_path, BASE + text)
    again = load_sweep_mapping(sweep.given)
    assert (again.given, again.name, again.baseline) == (sweep.given, "trial", {"precision": "Float32"})
    assert [cell.labels for cell in again.cells] == [cell.labels for cell in sweep.cells]
    for number in range(3):
        assert config(again, number, catalogue).given == config(sweep, number, catalogue).given


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("matrix: {training.sede: [0]}", "trial.yaml, training, line 6: no key 'sede'. Did you mean 'seed'?"),
        ("matrix: {trainin.seed: [0]}", "line 6: no section 'trainin'. Did you mean 'training'?"),
        ("matrix: {seed: [0]}", "line 6: 'seed' names no key; expected section.key"),
        ("matirx: {training.seed: [0]}", "line 6: no key 'matirx'. Did you mean 'matrix'?"),
        ("matrix: {training.seed: 0}", "matrix.training.seed, line 6: expected a list of values, or names"),
        ("matrix: {training.seed: [0, 0]}", "matrix.training.seed, line 6: '0' stands twice"),
        ("matrix: {training.seed: []}", "expected a list of values"),
        ("matrix: [1]", "matrix, line 6: expected axes"),
        ("training.seed: [0]", "no key 'training.seed'"),
        ("matrix: {training.seed: [0], training.seed: [1]}", "'training.seed' stands twice"),
        ("matrix: {training.seed: [0], a: {x: {training.seed: 1}}}", "'training.seed' is set by 'training.seed' too"),
        ("matrix: {a: {x: 3}}", "matrix.a.x, line 6: expected keys"),
        ("matrix: {training.seed: [0]}\nexclude: [{training.sed: 0}]", "line 7: no axis 'training.sed'. Did you"),
        ("matrix: {training.seed: [0]}\nexclude: [{training.seed: 3}]", "the axis has no '3'. Known: 0"),
        ("matrix: {training.seed: [0]}\nexclude: [{training.seed: 0}]", "every cell of the matrix is excluded"),
        ("matrix: {training.seed: [0]}\nexclude: {training.seed: 0}", "exclude, line 7: expected a list"),
        ("matrix: {training.seed: [0]}\nbaseline: {training.seed: 0}", "of an axis that is no seed"),
        ("matrix: {training.seed: [0]}\nname: ../up", "name, line 7: found '../up', expected a folder's name"),
        ("matrix: {training.seed: [0]}\nconfig: 3", "config, line 7: found 3, expected the name"),
        ("matrix: {training.seed: [0]}\nconfig: none.yaml", "none.yaml: cannot be read as a config"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert said in wrong(tmp_path, f"{BASE}\n{text}\n".replace("\n\n", "\n# \n", 1))


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    found = wrong(tmp_path, "trainin: {}\nmatrix: {training.sede: [0], training.seed: [1, 1]}\n")
    assert len(found.splitlines()) == 3


def test_a_matrix_has_a_bound(tmp_path: Path) -> None:
    numbers = list(range(40))
    found = wrong(tmp_path, BASE + f"matrix: {{training.seed: {numbers}, training.batch_size: {numbers[1:]}}}\n")
    assert f"1,560 cells, at most {MAX_CELLS:,}" in found


def test_a_key_of_the_matrix_cannot_be_set_besides(tmp_path: Path) -> None:
    found = wrong(tmp_path, BASE + "matrix: {training.seed: [0, 1]}\n", "training.seed=3")
    assert "--set training.seed: the matrix of" in found


def test_run_says_that_a_sweep_is_none_of_its_files(tmp_path: Path, catalogue: Any) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text(BASE + "matrix: {training.seed: [0]}\n")
    with pytest.raises(ConfigError, match=r"'matrix' makes many runs of one config; write: flowlab sweep .*trial.yaml"):
        load_config([path], [], catalogue)
