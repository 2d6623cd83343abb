"""The command line: errors without tracebacks, JSON without a second voice, gates, and what people read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowlab import __version__, cli
from flowlab.contracts import Core
from flowlab.errors import EXIT_CODES, AgreementError, ConfigError, FlowlabError, GateError, StageError
from flowlab.plugins import Brought, Catalogue

CHILD = Path(__file__).parent / "system" / "imagined_run.py"


def imagined(folder: Path, *words: str, epochs: int = 3, command: str = "run", **environment: str) -> Any:
    """Run `flowlab run` with imagined stages, on the local engine unless the words say otherwise."""
    data = folder / "data" / "idle"
    data.mkdir(parents=True, exist_ok=True)
    (data / "1.csv").write_text("1\n2\n")
    return subprocess.run(
        [sys.executable, str(CHILD), "data", str(epochs), command, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out == f"flowlab {__version__}\n"


@pytest.mark.parametrize("words", [[], ["no_such_command"], ["run", "--engine", "dask"], ["plan", "--no-such-word"]])
def test_a_wrong_command_line_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(words)
    assert raised.value.code == 2
    assert "usage: flowlab" in capsys.readouterr().err


def test_what_cannot_be_used_is_one_text_on_stderr_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "no_such_file.yaml"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("flowlab: no_such_file.yaml: ")
    assert "Traceback" not in found.err


def test_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert [code for code, _ in EXIT_CODES] == [0, 1, 2, 3, 130]
    assert all(f"  {code:<4}{meaning}" in shown for code, meaning in EXIT_CODES)


def test_run_without_a_config_says_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run"]) == 2
    assert "flowlab demo" in capsys.readouterr().err


def test_an_error_in_json_mode_leaves_stdout_empty(tmp_path: Path) -> None:
    done = imagined(tmp_path, "--engine", "local", "--json", IMAGINED_FAILURE="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "flowlab: stage simulate: broken on purpose. Unset IMAGINED_FAILURE\n"


def test_run_json_prints_one_object_with_the_promised_keys_and_nothing_else(tmp_path: Path) -> None:
    done = imagined(tmp_path, "--engine", "local", "--json", IMAGINED_NOISE="1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result) == [
        "run",
        "engine",
        "stages",
        "metrics",
        "quantization",
        "agreement",
        "sizes",
        "measured",
        "costs",
        "artifacts",
        "warnings",
        "report",
        "gates",
        "promotion",
    ]
    assert result["gates"] == []
    assert result["promotion"] is None
    assert set(result["costs"]) == {"model", "estimate"}
    assert set(result["stages"][0]) == {"name", "cached", "seconds"}
    assert set(result["metrics"]) == {"float", "quantized", "simulated"}
    assert set(result["agreement"]) == {"vectors", "mismatches", "comparison", "executions", "not_run"}
    assert result["agreement"]["not_run"] == [{"name": "host C", "reason": "no compiler"}]
    assert set(result["sizes"]) == {"float_bytes", "packed_bytes", "onnx_bytes", "program_bytes"}
    for files in result["artifacts"].values():
        for file in files:
            assert set(file) == {"name", "path", "sha256"}
            assert Path(file["path"]).is_file()
    assert Path(result["report"]).is_file()
    assert "a library speaks" in done.stderr


def test_the_second_run_is_cached_and_starts_no_engine(tmp_path: Path) -> None:
    imagined(tmp_path, "--engine", "local")
    done = imagined(tmp_path, "--json")
    result = json.loads(done.stdout)
    assert result["engine"] == "none"
    assert all(stage["cached"] for stage in result["stages"])


def test_people_get_a_line_a_stage_ten_lines_of_summary_and_the_report(tmp_path: Path) -> None:
    done = imagined(tmp_path, "--engine", "local")
    stages, _, summary = done.stdout.partition("\n\n")
    assert [line.split()[0] for line in stages.splitlines()] == ["ingest", "train", "simulate", "report"]
    lines = summary.splitlines()
    assert len(lines) == 11
    assert lines[-1].split()[0] == "report"
    assert (tmp_path / lines[-1].split()[1]).is_file()
    assert "0 mismatches in 7 vectors (simulator; host C not run: no compiler)" in summary


def test_a_training_that_goes_on_says_so_where_no_bar_moves(capsys: pytest.CaptureFixture[str]) -> None:
    with cli._watch() as watch:
        watch.progress("train", "goes on after epoch 12 of 30", 0.4)
        watch.progress("train", "epoch 13 of 30: loss 0.1", 13 / 30)
    assert capsys.readouterr().out == "train      goes on after epoch 12 of 30\n"


def test_files_and_report_are_both_shown_as_short_as_they_can_be_typed(tmp_path: Path) -> None:
    lines = imagined(tmp_path, "--engine", "local").stdout.splitlines()
    paths = {line.split()[0]: line.split()[1] for line in lines[-2:]}
    assert list(paths) == ["files", "report"]
    assert all(not Path(path).is_absolute() and (tmp_path / path).exists() for path in paths.values())


def test_what_the_first_lines_said_is_no_warning_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Result:
        warnings = ("the data are synthetic: made by a generator", "layer 3 runs on the CPU")
        folder = report = None

        def summary(self) -> tuple[tuple[str, str], ...]:
            return ()

    said = ("The data are synthetic: 'toy' is made by a generator, not measured.", "A path takes their place.")
    cli._print_result(Result(), said)  # type: ignore[arg-type]
    assert capsys.readouterr().err == "warning: layer 3 runs on the CPU\n"


def test_a_name_with_control_characters_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "a\x1b[2Jb\u202ec.yaml"]) == 2
    shown = capsys.readouterr().err
    assert "a\\x1b[2Jb\\u202ec.yaml" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def test_an_output_that_knows_only_ascii_gets_escapes_and_no_traceback() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "flowlab.cli", "run", "no_such_\u00fc.yaml"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert found.returncode == 2
    assert "no_such_\\xfc.yaml" in found.stderr


@pytest.mark.parametrize("words", [["run"], ["plan"], ["why", "train"], ["config", "show"]])
def test_a_command_without_a_config_says_what_to_write(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert f"Write `flowlab {' '.join(words)} config.yaml`" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("")
    assert cli.main(words) == 2
    assert f"Write `flowlab {' '.join(words)} mine.yaml`; `flowlab demo` needs none. Here lie: mine.yaml" in (
        capsys.readouterr().err
    )


def test_why_names_the_first_difference_with_both_values_and_what_waits(tmp_path: Path) -> None:
    imagined(tmp_path, "--engine", "local")
    first = json.loads(imagined(tmp_path, "--engine", "local", "--json").stdout)["run"]
    assert imagined(tmp_path, "train", command="why").stdout.startswith("train is cached: made 20")
    changed = imagined(tmp_path, "train", command="why", epochs=7).stdout.splitlines()
    assert changed[0] == f"train will run. Against run {first}, this differs first:"
    assert changed[1:] == ["  options.training_epochs: 3 -> 7"]
    waits = imagined(tmp_path, "report", command="why", epochs=7).stdout.splitlines()
    assert waits == [
        "report depends on stages that will run.",
        "It waits for train, which will run: options.training_epochs: 3 -> 7",
    ]
    (tmp_path / "data" / "idle" / "2.csv").write_text("5\n")
    said = imagined(tmp_path, "ingest", command="why").stdout.splitlines()
    assert said[1].startswith("  inputs.source: ") and "... -> " in said[1]
    found = json.loads(imagined(tmp_path, "report", "--json", command="why", epochs=7).stdout)
    assert (found["against"], found["waits_for"]) == (first, ["train", "simulate"])
    assert {cause["name"] for cause in found["causes"]} == {"ingest", "train"}


def test_why_may_compare_with_any_run_and_knows_its_stages(tmp_path: Path) -> None:
    first = json.loads(imagined(tmp_path, "--engine", "local", "--json").stdout)["run"]
    imagined(tmp_path, "--engine", "local", epochs=4)
    done = imagined(tmp_path, "train", "--run", first, command="why", epochs=4)
    assert done.stdout.splitlines()[1:] == [
        f"Against run {first}, this differs:",
        "  options.training_epochs: 3 -> 4",
    ]
    wrong = imagined(tmp_path, "trainn", command="why")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no stage named 'trainn'. Did you mean 'train'?" in wrong.stderr
    assert imagined(tmp_path, "train", "--run", "9999", command="why").returncode == 2


def test_a_dataset_that_never_ran_is_not_compared_with_another_one(tmp_path: Path) -> None:
    imagined(tmp_path, "--engine", "local")
    planned = imagined(tmp_path, command="plan", epochs=5, IMAGINED_DATASET="other").stdout.splitlines()
    assert planned[1] == "train      will run: it has not run in this store yet"


def test_runs_and_compare_tell_of_past_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.loads(imagined(tmp_path, "--engine", "local", "--json").stdout)["run"]
    second = json.loads(imagined(tmp_path, "--engine", "local", "--json", epochs=4).stdout)["run"]
    monkeypatch.chdir(tmp_path)
    listed = printed(["runs", "--json"])["runs"]
    assert {one["run"] for one in listed} == {first, second}
    assert listed[0]["state"] == "Completed"
    assert (listed[0]["model"], listed[0]["device"], listed[0]["engine"]) == ("imagined", "none", "local")
    assert listed[0]["finished"] >= listed[0]["started"]
    assert printed(["runs", "--json", "--dataset", "nobodys"]) == {"runs": []}
    found = printed(["compare", first, second, "--json"])
    assert found["config"] == [{"field": "training.training_epochs", "before": 3, "now": 4}]
    assert [one["name"] for one in found["stages"]] == ["train", "simulate", "report"]


def printed(words: list[str]) -> Any:
    """What a command prints as JSON, run in this process."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(words) == 0
    return json.loads(out.getvalue())


def test_a_killed_run_is_known_by_what_it_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = imagined(tmp_path, "--engine", "local", FLOWLAB_FAULT="epoch:2")
    assert killed.returncode < 0
    monkeypatch.chdir(tmp_path)
    (found,) = printed(["runs", "--json"])["runs"]
    assert (found["state"], found["finished"]) == ("Killed", None)
    (tmp_path / "data" / "idle" / "2.csv").write_text("5\n")
    said = imagined(tmp_path, "ingest", command="why").stdout.splitlines()
    assert said[0] == f"ingest will run. Against run {found['run']}, this differs first:"


def test_no_run_yet_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs"]) == 0
    assert (
        capsys.readouterr().out
        == "no runs in artifacts/.store. `flowlab run config.yaml` makes one, `flowlab demo` too\n"
    )
    assert cli.main(["compare", "a", "b"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["targets", "models", "features", "quantizers"])
def test_what_is_installed_is_listed_by_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([kind]) == 0
    assert any(line.startswith("name ") for line in capsys.readouterr().out.splitlines()[:2])
    assert list(printed([kind, "--json"])) == [kind]


def test_config_show_prints_values_with_their_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "common:\n  task_type: generic_timeseries_classification\n  target_device: F28P55\n"
        "dataset:\n  dataset_name: dc_arc_fault_example_dsk\ntraining:\n  model_name: CLS_4k_NPU\n"
    )
    found = printed(["config", "show", "mine.yaml", "--changed", "--json", "--set", "training.seed=3"])["values"]
    tiers = {f"{one['section']}.{one['key']}": one["tier"] for one in found}
    assert tiers["training.seed"] == "--set training.seed"
    assert tiers["common.target_device"] == "mine.yaml, line 3"
    assert "training.optimizer" not in tiers


def test_config_parameters_prints_what_a_deployments_run_takes_or_refuses_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "common: {task_type: generic_timeseries_classification, target_device: F28P55}\n"
        "dataset: {dataset_name: mine, input_data_path: 'https://me:pw@host/a.zip'}\n"
        "training: {model_name: CLS_4k_NPU}\n"
    )
    where = "dataset.input_data_path=https://${USER}:${PASSWORD}@host/a.zip"
    config = printed(["config", "parameters", "mine.yaml", "--set", "training.seed=3", "--set", where])["config"]
    assert config["training"] == {"model_name": "CLS_4k_NPU", "seed": 3}
    assert config["dataset"]["input_data_path"] == where.partition("=")[2]
    assert cli.main(["config", "parameters", "mine.yaml"]) == 2
    assert "pw" not in "".join(capsys.readouterr())


def test_doctor_is_exit_code_0_unless_something_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    assert "prefect      ok" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--store", "file"]) == 2
    assert "unusable" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["runs"], ["targets"], ["features"], ["quantizers"], ["doctor"]])
def test_looking_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from flowlab import cli\n"
        f"cli.main({words!r})\n"
        "heavy = {'numpy', 'torch', 'pyarrow', 'onnx', 'prefect', 'scipy', 'fsspec', 'pydantic', 'rich', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_latest_leads_to_the_run(tmp_path: Path) -> None:
    result = json.loads(imagined(tmp_path, "--engine", "local", "--json").stdout)
    latest = tmp_path / "artifacts" / "imagined" / "latest"
    assert latest.is_symlink()
    assert latest.resolve().name == result["run"]
    assert (latest / "report.html").is_file()


def test_a_failed_run_moves_latest_nowhere_and_says_so_in_the_store(tmp_path: Path) -> None:
    first = json.loads(imagined(tmp_path, "--engine", "local", "--json").stdout)
    assert imagined(tmp_path, "--engine", "local", epochs=4, IMAGINED_FAILURE="1").returncode == 1
    assert (tmp_path / "artifacts" / "imagined" / "latest").resolve().name == first["run"]
    states = [
        json.loads(path.read_text())["state"]
        for path in sorted((tmp_path / "artifacts" / ".store" / "runs").glob("*/run.json"))
    ]
    assert sorted(states) == ["Completed", "Failed"]


def test_a_required_execution_that_did_not_run_is_an_error_on_cached_runs_too(tmp_path: Path) -> None:
    assert imagined(tmp_path, "--engine", "local", "--require", "simulator").returncode == 0
    done = imagined(tmp_path, "--require", "host C")
    assert done.returncode == 3
    assert done.stderr.endswith("flowlab: --require host C did not run here: no compiler. Ran: simulator\n")
    assert "report      " in done.stdout  # what the run has to say is said before
    shown = imagined(tmp_path, "--require", "host C", "--json")
    assert shown.returncode == 3
    assert json.loads(shown.stdout)["gates"] == [{"name": "require", "limit": "host C", "value": None, "passed": False}]


def test_a_missed_gate_is_exit_code_3_with_the_result_said_before_and_the_run_failed(tmp_path: Path) -> None:
    first = json.loads(imagined(tmp_path, "--engine", "local", "--json", IMAGINED_DROP="0.03").stdout)
    assert first["gates"] == [{"name": "max_accuracy_drop", "limit": 0.03, "value": 0.025, "passed": True}]
    done = imagined(tmp_path, "--json", IMAGINED_DROP="0.01")
    assert done.returncode == 3
    result = json.loads(done.stdout)
    assert all(stage["cached"] for stage in result["stages"])  # another limit runs nothing again
    assert result["gates"] == [{"name": "max_accuracy_drop", "limit": 0.01, "value": 0.025, "passed": False}]
    assert "accuracy falls by 0.025 (float 0.9000, simulated 0.8750), and the limit is 0.01. Try" in done.stderr
    runs = tmp_path / "artifacts" / ".store" / "runs"
    assert json.loads((runs / result["run"] / "run.json").read_text())["state"] == "Failed"
    assert (tmp_path / "artifacts" / "imagined" / "latest").resolve().name == first["run"]
    assert (tmp_path / "artifacts" / "imagined" / result["run"] / "report.html").is_file()


def test_a_changed_gate_leaves_every_stage_cached_in_the_plan(tmp_path: Path) -> None:
    imagined(tmp_path, "--engine", "local")
    planned = imagined(tmp_path, command="plan", IMAGINED_DROP="0.01")
    assert {line.split()[1] for line in planned.stdout.splitlines()} == {"cached"}


def test_a_required_execution_that_nobody_knows_gets_a_suggestion(tmp_path: Path) -> None:
    done = imagined(tmp_path, "--engine", "local", "--require", "simulater")
    assert done.returncode == 3
    assert "Did you mean 'simulator'?" in done.stderr


def test_a_mismatch_is_an_error(tmp_path: Path) -> None:
    done = imagined(tmp_path, "--engine", "local", IMAGINED_MISMATCHES="3")
    assert done.returncode == 1
    assert "3 of 7 vectors differ between executions" in done.stderr


def test_plan_says_why_a_stage_runs(tmp_path: Path) -> None:
    def plan(epochs: int, *words: str) -> str:
        done = imagined(tmp_path, *words, epochs=epochs, command="plan")
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert plan(3).splitlines() == [
        "ingest     will run: it has not run in this store yet",
        "train      depends on ingest",
        "simulate   depends on train",
        "report     depends on train, simulate",
    ]
    imagined(tmp_path, "--engine", "local")
    assert {line.split()[1] for line in plan(3).splitlines()} == {"cached"}
    changed = plan(4).splitlines()
    assert changed[0] == "ingest     cached"
    assert changed[1] == "train      will run: options.training_epochs: 3 -> 4"
    assert changed[2] == "simulate   depends on train"
    (tmp_path / "artifacts" / ".store" / "records").rename(tmp_path / "elsewhere")
    assert "has not run" in plan(3)
    found = json.loads(plan(4, "--json"))["stages"]
    assert set(found[0]) == {"name", "state", "reason", "changes", "waits_for"}


def test_plan_names_a_changed_input_and_a_lost_object(tmp_path: Path) -> None:
    result = json.loads(imagined(tmp_path, "--engine", "local", "--json").stdout)
    (tmp_path / "data" / "idle" / "2.csv").write_text("5\n")
    done = imagined(tmp_path, command="plan")
    assert done.stdout.splitlines()[0] == "ingest     will run: inputs.source: changed"
    (tmp_path / "data" / "idle" / "2.csv").unlink()
    sha = result["artifacts"]["float_model"][0]["sha256"]
    (tmp_path / "artifacts" / ".store" / "objects" / sha[:2] / sha).unlink()
    done = imagined(tmp_path, command="plan")
    assert done.stdout.splitlines()[1] == "train      will run: a file of its result is lost or damaged"


def test_plan_runs_nothing(tmp_path: Path) -> None:
    imagined(tmp_path, command="plan", IMAGINED_LOG=str(tmp_path / "log"))
    assert not (tmp_path / "log").exists()


class Box(Core):
    name = "box"
    summary = "a core"


def test_plugins_lists_what_is_installed_and_what_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = Catalogue((Brought(Box(), "someone"),), {"flowlab-broken": "cannot be loaded: RuntimeError: no"})
    monkeypatch.setattr("flowlab.plugins.load", lambda: catalogue)
    assert cli.main(["plugins"]) == 0
    found = capsys.readouterr()
    assert "core:\n  box" in found.out
    assert found.err == "broken: flowlab-broken: cannot be loaded: RuntimeError: no\n"
    assert cli.main(["plugins", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["plugins"][0]["distribution"] == "someone"
    assert listed["broken"] == {"flowlab-broken": "cannot be loaded: RuntimeError: no"}


def test_demo_without_any_plugin_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flowlab.plugins.load", lambda: Catalogue((), {"gone": "cannot be loaded"}))
    assert cli.main(["demo"]) == 2
    assert (
        capsys.readouterr().err
        == "flowlab: no installed package brings the example preset 'demo'. gone: cannot be loaded.\n"
    )


def test_strict_makes_an_error_of_a_broken_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Config:
        warnings = ("a key is never read",)

    monkeypatch.setattr(cli, "_config", lambda arguments: (Config(), Catalogue((), {"gone": "cannot be loaded"})))
    assert cli.main(["run", "x.yaml", "--strict"]) == 2
    assert capsys.readouterr().err == "flowlab: --strict: a key is never read; gone: cannot be loaded\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FlowlabError("broken"), 2, "flowlab: broken\n"),
        (ConfigError("no key"), 2, "flowlab: no key\n"),
        (StageError("broken"), 1, "flowlab: broken\n"),
        (AgreementError("differ"), 1, "flowlab: differ\n"),
        (GateError("too large"), 3, "flowlab: too large\n"),
        (KeyboardInterrupt(), 130, "flowlab: stopped. Finished"),
    ],
)
def test_how_a_command_ends(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(cli, "_config", fail)
    assert cli.main(["run", "x.yaml"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_what_the_system_refuses_is_one_text_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/x/run.json")

    monkeypatch.setattr(cli, "_config", fail)
    monkeypatch.setattr(cli, "_drop_output", lambda: None)
    assert cli.main(["run", "x.yaml"]) == 2
    assert capsys.readouterr().err.startswith("flowlab: /x/run.json: Permission denied. Check")


@pytest.mark.parametrize("words", [">/dev/full", "| true"])
def test_output_that_nobody_takes_is_no_traceback(words: str) -> None:
    found = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m flowlab.cli plugins {words}'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


def test_a_closed_standard_output_is_no_error() -> None:
    found = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m flowlab.cli plugins >&-'], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("command", ["run", "plan", "demo"])
@pytest.mark.parametrize(
    "words", [("training.seed", "=", "5"), ("training.seed=", "5"), ("training.seed", "=5"), ("training.seed", "5")]
)
def test_a_setting_with_spaces_around_its_equals_sign_is_not_taken_for_files(
    command: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [] if command == "demo" else ["mine.yaml"]
    assert cli.main([command, *configs, "--set", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("flowlab: --set training.seed: what stands behind it is neither")
    assert said.endswith("Write no space around the =, as in --set training.seed=VALUE\n")


def test_a_setting_that_resets_its_key_is_not_taken_for_one_with_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "no_such.yaml", "--set", "training.seed="]) == 2
    assert capsys.readouterr().err == "flowlab: no_such.yaml: cannot be read as a config: no file of this name\n"


def test_an_execution_that_the_device_does_not_have_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--engine", "local", "--require", "torch", "--require", "simulater"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "--require: no execution named 'simulater'. Did you mean 'simulator'? Known: ONNX Runtime, " in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_run_names_the_executions_that_can_be_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "ONNX Runtime, interpreter, torch, host C, simulator, emulated core" in said


def test_the_store_is_listed_verified_and_cleaned(tmp_path: Path) -> None:
    for epochs in (3, 4):
        assert imagined(tmp_path, "--engine", "local", epochs=epochs).returncode == 0

    def store(*words: str) -> Any:
        command = [sys.executable, "-m", "flowlab.cli", "store", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert store("ls").stdout.splitlines()[0].split()[:4] == ["run", "state", "dataset", "records"]
    assert store("verify").stdout.splitlines()[-1].endswith("everything is as it was written")
    refused = store("gc", "--keep-last", "0")
    assert refused.returncode == 2 and "1 or more runs of each dataset are kept" in refused.stderr
    assert "would remove 1 run, 3 records, 3 objects" in store("gc", "--keep-last", "1", "--dry-run").stdout
    assert json.loads(store("gc", "--keep-last", "1", "--json").stdout)["freed_bytes"] > 0
    assert len(json.loads(store("ls", "--json").stdout)["runs"]) == 1
