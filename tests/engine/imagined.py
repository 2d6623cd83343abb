"""Three small stages as one could write them, and a command that runs them: `python imagined.py STORE INPUT EPOCHS`.

Every start of a stage is one line in the file that IMAGINED_LOG names.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from flowlab.contracts import NoOptions, Plugin, Stage, StageJob, StageResult
from flowlab.faults import fault_point


@dataclass(frozen=True)
class TrainOptions:
    """How long."""

    training_epochs: int
    seed: int = 0


class Network(Plugin):
    """A plugin whose code counts."""

    kind = "model"
    name = "imagined"

    def step(self, state: bytes) -> bytes:
        return hashlib.sha256(state).digest()


def note(stage: str) -> None:
    log = os.environ.get("IMAGINED_LOG")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{stage}\n")


def ingest(job: StageJob) -> StageResult:
    note("ingest")
    lines = [f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in job.inputs["source"].items()]
    recordings = job.out / "recordings.txt"
    recordings.write_text("\n".join(sorted(lines)))
    splits = job.out / "splits.json"
    splits.write_text("{}")
    return StageResult(
        {"recordings": {"recordings.txt": recordings}, "splits": {"splits.json": splits}},
        metrics={"count": len(lines)},
        warnings=("imagined",),
    )


def train(job: StageJob) -> StageResult:
    note("train")
    checkpoint = job.scratch / "epoch.json"
    done, state = 0, job.input("recordings").read_bytes()
    if checkpoint.exists():
        read = json.loads(checkpoint.read_text())
        done, state = read["done"], bytes.fromhex(read["state"])
    for epoch in range(done, job.options.training_epochs):
        note(f"epoch {epoch}")
        time.sleep(0.005)
        state = job.plugins["model"].step(state)
        temporary = checkpoint.with_suffix(".new")
        temporary.write_text(json.dumps({"done": epoch + 1, "state": state.hex()}))
        temporary.replace(checkpoint)
        fault_point("epoch")
        job.progress("epoch", (epoch + 1) / job.options.training_epochs)
    model = job.out / "best_model.pt"
    model.write_bytes(state)
    return StageResult(
        {"float_model": {"best_model.pt": model}}, metrics={"accuracy": 0.1 + 0.2, "test": {"accuracy": 0.9}}
    )


def report(job: StageJob) -> StageResult:
    note("report")
    page = job.out / "report.html"
    page.write_bytes(job.input("float_model").read_bytes() + job.input("notes").read_bytes())
    return StageResult({"report": {"report.html": page}})


def stages(module: str = "imagined") -> tuple[Stage, ...]:
    return (
        Stage(
            "report",
            f"{module}:report",
            ("float_model", "notes"),
            ("report",),
            lambda config, catalogue: NoOptions(),
            optional=("agreement",),
        ),
        Stage(
            "ingest", f"{module}:ingest", ("source",), ("recordings", "splits"), lambda config, catalogue: NoOptions()
        ),
        Stage(
            "train",
            f"{module}:train",
            ("recordings",),
            ("float_model",),
            lambda config, catalogue: TrainOptions(config.training.training_epochs),
            plugins=lambda config, catalogue: {"model": (Network(), NoOptions())},
            libraries=("pytest",),
            torch=True,
        ),
    )


def fill(folder: Path) -> Path:
    """Write recordings."""
    for name, text in {"idle/1.csv": "1\n2\n", "arc/2.csv": "3\n4\n", ".hidden": "x"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def config(data: Path, epochs: int = 5, threads: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        dataset=SimpleNamespace(input_data_path=data, dataset_name="imagined", enable=True),
        training=SimpleNamespace(training_epochs=epochs, threads=threads, enable=True),
        warnings=(),
    )


def run(store: Path, data: Path, epochs: int) -> dict[str, dict[str, object]]:
    """Run all; what was cached, and the hashes of what was made."""
    from flowlab.engine.execute import silent
    from flowlab.engine.local import prepare, run_local
    from flowlab.store.store import Store

    prepared = prepare(stages(), config(data, epochs), None, Store(store))
    done = run_local(prepared, lambda node: silent)
    return {
        name: {
            "cached": one.cached,
            "files": {file: stored.sha256 for files in one.record.outputs.values() for file, stored in files.items()},
        }
        for name, one in done.items()
    }


if __name__ == "__main__":
    import imagined  # under its name, as any other importer sees it

    import flowlab.engine.local  # noqa: F401 - what takes long is done before the word

    print("ready", flush=True)
    print(json.dumps(imagined.run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
