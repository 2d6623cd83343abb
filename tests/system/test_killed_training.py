"""A training that is killed with SIGKILL, anywhere, ends with the bytes of one that was not: float and quantized.

Each case kills float training at a point, then quantization-aware training at the same one, then lets both end.
Every run is a process of its own (`killed_training`).
"""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
EPOCHS, QUANTIZATION_EPOCHS, BATCHES = 5, 6, 6
GOES_ON = "goes on after epoch"
Answer = dict[str, Any]
Ask = Callable[..., Answer]

# weight bits and method of the config; 4 and 2 bits have norms that are live first, learned scales and a teacher
WIDTHS = {"8 bits": (2, 8), "4 bits": (2, 4), "2 bits": (2, 2), "generic 4 bits": (1, 4)}
# what is killed, as `FLOWLAB_FAULT` says it, and after how many whole epochs with a checkpoint every 1 or 2 of them
POINTS = {
    "epoch:1": (1, 0),
    "epoch:4": (4, 4),
    f"batch:{2 * BATCHES + 3}": (2, 2),
    "batch:2": (0, 0),
    "checkpoint-write:2": (1, 2),
    "checkpoint-rename:1": (1, 2),
    "checkpoint-write:1": (0, 0),
}


@dataclass(frozen=True)
class Case:
    widths: str
    seed: int
    point: str
    every: int = 1
    optimizer: str = "sgd"

    @property
    def config(self) -> Answer:
        mode, bits = WIDTHS[self.widths]
        return {
            "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
            "dataset": {"dataset_name": "tones", "input_data_path": "data"},
            "data_processing_feature_extraction": {
                "data_proc_transforms": ["SimpleWindow"],
                "frame_size": 32,
                "stride_size": 1.0,
                "variables": 1,
            },
            "training": {
                "model_name": "CLS_1k_NPU",
                "training_epochs": EPOCHS,
                "batch_size": 20,
                "optimizer": self.optimizer,
                "seed": self.seed,
                "quantization": mode,
                "quantization_weight_bitwidth": bits,
                "quantization_epochs": QUANTIZATION_EPOCHS,
                "checkpoint_every_epochs": self.every,
            },
        }


def cases() -> Iterator[Case]:
    """Every point, and with it all widths, three seeds, both distances, both optimizers."""
    for number, point in enumerate(POINTS):
        yield Case(
            widths=list(WIDTHS)[number % len(WIDTHS)],
            seed=number % 3,
            point=point,
            every=1 + number % 2,
            optimizer=("sgd", "adam")[number // len(WIDTHS)],
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of two tones in noise, as loud as each other."""
    folder, draw = tmp_path_factory.mktemp("killed"), random.Random(5)
    for name, waves in (("low", 3), ("high", 9)):
        for turn in range(6):
            path = folder / "data" / "classes" / name / f"{turn}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            angles = (math.tau * waves * step / 64 + turn for step in range(512))
            path.write_text("".join(f"{100 * math.sin(angle) + draw.gauss(0, 120):.1f}\n" for angle in angles))
    return folder


@pytest.fixture(scope="module")
def ask(folder: Path) -> Iterator[Ask]:
    """Lets a run come to its end, or to the point at which it is killed."""
    command = [sys.executable, str(HERE / "killed_training.py")]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        def ask(config: Answer, store: Path, fault: str = "") -> Answer:
            stdin.write(json.dumps({"config": config, "store": str(store), "fault": fault}) + "\n")
            stdin.flush()
            found: Answer = json.loads(stdout.readline())
            return found

        yield ask  # the child ends when its standard input does


@pytest.fixture(scope="module")
def undisturbed(ask: Ask, folder: Path) -> Callable[[Case], Answer]:
    """What a training that nobody kills ends with; asked once for each width, seed and optimizer."""
    known: dict[tuple[str, int, str], Answer] = {}

    def files(case: Case) -> Answer:
        key = (case.widths, case.seed, case.optimizer)
        if key not in known:
            store = folder / "undisturbed"
            known[key] = ended(ask(case.config, store))
            shutil.rmtree(store)
        return known[key]

    return files


def ended(answer: Answer) -> Answer:
    assert answer["code"] == 0, answer
    found: Answer = answer["lines"][-1]["files"]
    return found


def said(answer: Answer, stage: str) -> list[str]:
    return [one["said"] for one in answer["lines"] if one.get("stage") == stage and "epoch" in one["said"]]


def went_on(answer: Answer, stage: str) -> int:
    """After which epoch a stage went on; 0 where it began anew."""
    first = next(one for one in said(answer, stage) if not one.startswith("quantization-aware training"))
    return int(first.removeprefix(GOES_ON).split()[0]) if first.startswith(GOES_ON) else 0


@pytest.mark.parametrize("case", list(cases()), ids=lambda one: f"{one.point} {one.widths} every {one.every}")
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(
    case: Case, ask: Ask, undisturbed: Callable[[Case], Answer], tmp_path: Path
) -> None:
    whole = POINTS[case.point][case.every - 1]
    store = tmp_path / "store"
    assert ask(case.config, store, case.point)["code"] == -9
    assert not list(store.glob("records/train/*"))
    second, expected = ask(case.config, store), undisturbed(case)
    assert went_on(second, "train") == whole
    assert ended(second) == expected
    shutil.rmtree(next((store / "records" / "quantize").iterdir()).parent)
    assert ask(case.config, store, case.point)["code"] == -9, "quantization-aware training"
    last = ask(case.config, store)
    assert went_on(last, "quantize") == whole
    assert ended(last) == expected
    assert not list((store / "scratch").iterdir())


def test_many_kills_in_one_training(ask: Ask, undisturbed: Callable[[Case], Answer], tmp_path: Path) -> None:
    """Two batches more than an epoch a time: each kill is in another place of an epoch."""
    case, kills = Case("4 bits", 1, "epoch:1"), 0
    while (answer := ask(case.config, tmp_path, f"batch:{BATCHES + 2}"))["code"] == -9:
        kills += 1
        assert kills < 30
    assert kills >= EPOCHS - 1 + QUANTIZATION_EPOCHS - 1
    assert ended(answer) == undisturbed(case)


@pytest.mark.parametrize("damage", ["torn", "flipped"])
@pytest.mark.parametrize("stage", ["train", "quantize"])
def test_a_damaged_checkpoint_costs_an_epoch_and_no_bit(
    stage: str, damage: str, ask: Ask, undisturbed: Callable[[Case], Answer], tmp_path: Path
) -> None:
    case = Case("4 bits", 2, "epoch:3")
    if stage == "quantize":
        while not list(tmp_path.glob("records/train/*")):
            ask(case.config, tmp_path, f"epoch:{EPOCHS + 1}")
    ask(case.config, tmp_path, "epoch:3" if stage == "train" else "epoch:2")
    (path,) = tmp_path.glob("scratch/*/*.checkpoint")
    content = path.read_bytes()
    middle = len(content) // 2
    torn, flipped = content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes(torn if damage == "torn" else flipped)
    answer = ask(case.config, tmp_path)
    assert any(f"{path.name} is damaged, and is not used" in one for one in said(answer, stage))
    assert went_on(answer, stage) == 2
    assert ended(answer) == undisturbed(case)


def test_every_point_of_a_training_is_killed_at() -> None:
    assert {one.widths for one in cases()} == set(WIDTHS)
    assert {one.point for one in cases()} == set(POINTS)
    assert {one.every for one in cases()} == {1, 2}
    assert {one.seed for one in cases()} == {0, 1, 2}
    assert {one.point.partition(":")[0] for one in cases()} == {
        "batch",
        "epoch",
        "checkpoint-write",
        "checkpoint-rename",
    }
