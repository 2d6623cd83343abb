"""Data that cannot be used, through the command line: one text that names what, exit code 2, nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_server import archive, serving

from flowlab import cli
from flowlab.contracts import Readable, Recording
from flowlab.engine import source
from flowlab.signal import archive as zips
from flowlab.store.files import LocalFiles
from flowlab_signal.csv_reader import CsvReader

CONFIG = """\
common:
  task_type: generic_timeseries_classification
  target_device: F28P55
dataset:
  dataset_name: tones
  input_data_path: {path}
data_processing_feature_extraction:
  data_proc_transforms: [SimpleWindow]
  frame_size: 32
  stride_size: 0.5
  variables: 1
training:
  model_name: CLS_1k_NPU
  training_epochs: 1
  batch_size: 8
"""

Run = Callable[..., str]


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a config whose data lie at a path; the text of the error, after a look at what is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def run(path: str | Path = "data", *words: str, more: str = "", command: str = "run") -> str:
        (tmp_path / "tones.yaml").write_text(CONFIG.format(path=path) + more)
        local = ["--engine", "local"] if command == "run" else []
        code = cli.main([command, "tones.yaml", *local, *words])
        said = capsys.readouterr()
        assert code == 2, said.err
        assert "Traceback" not in said.err + said.out
        assert said.err.startswith("flowlab: ")
        assert "\x1b" not in said.err
        assert nothing_is_left(tmp_path / "artifacts")
        return said.err

    return run


def nothing_is_left(artifacts: Path) -> bool:
    """No half-made file in the store, no folder of a run."""
    half = [one for name in ("tmp", "scratch") for one in (artifacts / ".store" / name).glob("*")]
    assert half == []
    assert not (artifacts / "tones").exists()
    return True


def wave(number: int, one: int, rows: int = 96) -> str:
    rng = np.random.default_rng([number, one])
    values = np.sin(np.arange(rows) * (number + 1) / 5) + rng.normal(0, 0.1, rows)
    return "x\n" + "\n".join(f"{x:.6f}" for x in values) + "\n"


def recordings() -> dict[str, str | bytes]:
    """Three recordings of two classes, by their place."""
    return {
        f"classes/{label}/{one}.csv": wave(number, one)
        for number, label in enumerate(("hum", "buzz"))
        for one in range(3)
    }


def folder(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def packed(path: Path, files: Mapping[str, str | bytes], *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(name, content)
        for info, data in entries:
            out.writestr(info, data)
    return path


def test_these_data_would_be_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cases below spoil is good as it is: else they would fail for another reason."""
    from flowlab.config import load as load_config
    from flowlab.engine.local import prepare
    from flowlab.plugins import load
    from flowlab.stages import STAGES
    from flowlab.store.store import Store

    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "data", recordings())
    (tmp_path / "tones.yaml").write_text(CONFIG.format(path="data"))
    catalogue = load()
    store = Store(tmp_path / "store")
    prepared = prepare(STAGES, load_config([tmp_path / "tones.yaml"], [], catalogue), catalogue, store)
    record, cached = prepared.perform("ingest", {}, lambda what, fraction: None)
    assert record.metrics["recordings"] == 6
    record, _ = prepared.perform("extract", {"ingest": record}, lambda what, fraction: None)
    assert record.metrics["counts"] == {"train": 10, "val": 10, "test": 10}
    assert not cached


# --- where the data should be -------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_missing_path_names_key_line_and_path(failed: Run, tmp_path: Path, command: str) -> None:
    text = failed("nowhere", command=command)
    assert re.search(r"tones.yaml, dataset.input_data_path, line 6: no file or folder '.*nowhere'", text)


def test_a_folder_without_files_is_named(failed: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert "dataset.input_data_path: " in (text := failed())
    assert "data holds no files" in text


def test_the_whole_file_system_is_refused_at_once(failed: Run) -> None:
    assert "dataset.input_data_path: / is the whole file system; name the dataset's own folder" in failed("/")


def test_a_huge_tree_is_refused_before_a_byte_is_read(
    failed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "data", {f"{one // 10}/{one}.csv": "1\n" for one in range(100)})
    monkeypatch.setattr(source, "MAX_ENTRIES", 50)
    assert "holds more than 50 files and folders. Point it at the dataset's own folder" in failed()
    monkeypatch.setattr(source, "MAX_ENTRIES", 500)
    monkeypatch.setattr(source, "MAX_FOLDER_BYTES", 100)
    assert "holds 200 bytes, at most 100 are read" in failed()


def test_a_file_that_vanishes_while_it_is_read_is_named(
    failed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "data", recordings())
    real = CsvReader.read

    def read(self: CsvReader, path: Readable, shown: str, options: Any) -> Recording:
        if shown == "hum/1.csv":
            (tmp_path / "data" / "classes" / shown).unlink()
        return real(self, path, shown, options)

    monkeypatch.setattr(CsvReader, "read", read)
    assert "hum/1.csv was there and is gone. Start the run again" in failed()


# --- archives -----------------------------------------------------------------------------------


def test_an_empty_zip_says_what_is_expected_in_it(failed: Run, tmp_path: Path) -> None:
    packed(tmp_path / "data.zip", {})
    text = failed("data.zip")
    assert "data.zip: no files in classes/<class>/. Found at the top: nothing. Recordings lie in" in text
    (tmp_path / "data.zip").write_bytes(b"")
    assert "data.zip: not a readable zip archive" in failed("data.zip")


def info(name: str, mode: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    return made


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (info("../outside.csv"), "its name leaves the archive"),
        (info("classes/hum/../../../outside.csv"), "its name leaves the archive"),
        (info("/etc/outside.csv"), "its name is an absolute path"),
        (info("C:/outside.csv"), "its name is an absolute path"),
        (info("classes/hum/link.csv", stat.S_IFLNK | 0o777), "it is a symbolic link"),
        (info("classes/hum/pipe.csv", stat.S_IFIFO | 0o644), "it is a device, a pipe or a socket"),
        (info("classes/hum/a\x1b[31mb.csv"), "its name holds a control character"),
        (info("classes/hum/0.csv"), "its name stands twice"),
    ],
)
def test_a_zip_that_leaves_its_folder_or_lies_is_refused_by_member(
    failed: Run, tmp_path: Path, entry: zipfile.ZipInfo, reason: str
) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name that stands twice
        packed(tmp_path / "data.zip", recordings(), (entry, b"1\n"))
    text = failed("data.zip")
    assert f"data.zip: member {entry.filename!r} is refused: {reason}" in text
    assert not (tmp_path.parent / "outside.csv").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    failed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tmp_path / "data.zip", {**recordings(), "classes/hum/bomb.csv": b"0" * (4 << 20)})
    assert re.search(r"'classes/hum/bomb.csv' is refused: [\d,]+ bytes unpack to 4,194,304", failed("data.zip"))
    packed(tmp_path / "data.zip", recordings())
    monkeypatch.setattr(zips, "MAX_TOTAL_BYTES", 1000)
    assert "is refused: the archive unpacks to more than" in failed("data.zip")
    monkeypatch.setattr(zips, "MAX_FILES", 3)
    assert "data.zip: 6 members, at most 3 are read" in failed("data.zip")


def test_an_encrypted_zip_is_refused(failed: Run, tmp_path: Path) -> None:
    path = packed(tmp_path / "data.zip", recordings())
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 4)
    path.write_bytes(data)
    assert "is refused: it is encrypted; pack it without a password" in failed("data.zip")


@pytest.mark.parametrize("where", ["end", "middle"])
def test_a_damaged_zip_is_named(failed: Run, tmp_path: Path, where: str) -> None:
    path = packed(tmp_path / "data.zip", recordings())
    data = path.read_bytes()
    if where == "end":
        path.write_bytes(data[: len(data) // 2])
        assert "data.zip: not a readable zip archive" in failed("data.zip")
    else:
        path.write_bytes(data[:100] + bytes(byte ^ 0xFF for byte in data[100:140]) + data[140:])
        assert "data.zip: member 'classes/hum/0.csv' is damaged" in failed("data.zip")


def test_a_zip_within_a_zip_is_not_opened(failed: Run, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as out:
        out.writestr("a.csv", "1\n")
    packed(tmp_path / "data.zip", {**recordings(), "classes/hum/more.zip": inner.getvalue()})
    assert "data.zip: no reader for classes/hum/more.zip. Known endings: .csv" in failed("data.zip")
    packed(tmp_path / "data.zip", {"inner.zip": inner.getvalue()})
    assert "no files in classes/<class>/. Found at the top: inner.zip" in failed("data.zip")


# --- what is in them ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x\n1\n2\nthree\n4\n", "hum/1.csv, line 4, column 1 ('x'): 'three' is no number"),
        ("x\n1\n2\ninf\n4\n", "hum/1.csv, line 4, column 1 ('x'): inf is not finite"),
        ("x\n1\nnan\nnan\n4\n", "hum/1.csv, line 3: a value is missing, and so in 2 of 4 rows"),
        ("x\n", "hum/1.csv, line 1: only a header (x), no samples"),
        ("", "hum/1.csv: the file is empty"),
        ("x,y\n1,2\n3,4\n", "hum/1.csv has the columns x, y, but"),
        (b"x\n\xff\xfe\n", "hum/1.csv, line 2, byte 1: byte 0xff is not UTF-8"),
        ("x\n1\n2\x003\n", "a NUL byte"),
    ],
)
def test_text_among_numbers_and_the_like_name_file_line_and_column(
    failed: Run, tmp_path: Path, content: str | bytes, message: str
) -> None:
    folder(tmp_path / "data", {**recordings(), "classes/hum/1.csv": content})
    assert message in failed()
    packed(tmp_path / "data.zip", {**recordings(), "classes/hum/1.csv": content})
    assert message in failed("data.zip")


def test_a_layout_without_classes_says_what_was_found_and_what_is_expected(failed: Run, tmp_path: Path) -> None:
    folder(tmp_path / "data", {"hum/0.csv": "1\n", "buzz/0.csv": "1\n"})
    text = failed()
    assert "no files in classes/<class>/. Found at the top: buzz, hum. Recordings lie in classes/<class>/<file>" in text
    folder(tmp_path / "other", {"klasses/hum/0.csv": "1\n"})
    assert "Did you mean 'klasses'?" in failed("other")


def test_one_class_is_no_classification(failed: Run, tmp_path: Path) -> None:
    folder(tmp_path / "data", {name: text for name, text in recordings().items() if "/hum/" in name})
    assert "only one class, 'hum', in classes/; classification needs two folders there" in failed()


def test_fewer_windows_than_a_batch_name_the_key_and_the_number(failed: Run, tmp_path: Path) -> None:
    folder(tmp_path / "data", recordings())
    text = failed("data", "--set", "training.batch_size=64")
    assert "training.batch_size: 64, but there are only 10 training windows. Set it to 10 or less" in text


def test_recordings_that_are_shorter_than_a_window_name_the_key(failed: Run, tmp_path: Path) -> None:
    folder(tmp_path / "data", recordings())
    text = failed("data", "--set", "data_processing_feature_extraction.frame_size=128")
    assert "split 'train' has no window of 128 samples: its 2 recordings are shorter. Make frame_size" in text


def lists(train: str, val: str, test: str) -> dict[str, str]:
    named = {"train": train, "val": val, "test": test}
    return {
        f"annotations/instances_{split}_list.txt": "".join(f"{name}.csv\n" for name in names.split())
        for split, names in named.items()
    }


def test_a_training_split_without_a_class_and_a_split_without_anything_are_errors(failed: Run, tmp_path: Path) -> None:
    folder(tmp_path / "data", {**recordings(), **lists("hum/0", "hum/1 buzz/1", "hum/2 buzz/2 buzz/0")})
    assert "split 'train' has no recording of: buzz" in failed()
    folder(tmp_path / "data", lists("hum/0 buzz/0", "hum/1 buzz/1", ""))
    assert "annotations/instances_test_list.txt names no file; every split needs at least one recording" in failed()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("classes/hum/1.CSV", "'hum/1.CSV' and 'hum/1.csv' differ in upper and lower case alone"),
        ("classes/Hum/9.csv", "'Hum' and 'hum' differ in upper and lower case alone"),
    ],
)
def test_names_that_differ_in_case_alone_are_refused(failed: Run, tmp_path: Path, name: str, message: str) -> None:
    folder(tmp_path / "data", {**recordings(), name: wave(0, 9)})
    assert message in failed()


def test_a_name_with_a_control_character_is_shown_harmlessly(failed: Run, tmp_path: Path) -> None:
    folder(tmp_path / "data", {**recordings(), "classes/hum/a\x1b[31m\nb.csv": wave(0, 9)})
    text = failed()
    assert r"the name 'classes/hum/a\x1b[31m\nb.csv' holds a control character; rename the file" in text


# --- downloads ----------------------------------------------------------------------------------


def test_a_download_that_fails_names_key_and_address(failed: Run) -> None:
    with serving(b"", status=404) as served:
        assert f"dataset.input_data_path: {served.url}: the server answered 404 (Not Found)" in failed(served.url)
    with serving(b"<html>log in</html>", content_type="text/html") as served:
        assert "the server sent a web page instead of a zip archive" in failed(served.url)
    with serving(archive()) as served:
        wrong = failed(served.url, "--set", f"dataset.sha256={'a' * 64}")
        assert f"expected {'a' * 64}. Nothing is kept" in wrong
    assert "only http and https are downloaded, found 'ftp'" in failed("ftp://host/data.zip")


# --- the store ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES])
def test_a_store_that_takes_nothing_is_named(
    failed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    folder(tmp_path / "data", recordings())
    real = os.mkdir

    def mkdir(path: Any, *words: Any, **more: Any) -> None:
        if str(path).startswith(str(tmp_path / "locked")):
            raise OSError(reason, os.strerror(reason), str(path))
        real(path, *words, **more)

    monkeypatch.setattr(os, "mkdir", mkdir)
    text = failed("data", "--store", str(tmp_path / "locked"))
    assert str(tmp_path / "locked") in text
    assert os.strerror(reason) in text
    assert "--store names another folder" in text


def test_a_store_where_no_store_can_be_is_named(failed: Run, tmp_path: Path) -> None:
    folder(tmp_path / "data", recordings())
    assert "/proc/flowlab" in failed("data", "--store", "/proc/flowlab")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in failed("data", "--store", str(tmp_path / "file"))


def test_a_disk_that_fills_up_while_a_record_is_written_leaves_nothing_half(
    failed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "data", recordings())
    real = LocalFiles.create

    def create(self: LocalFiles, path: str, data: bytes, fault: str = "") -> bool:
        real_open = Path.open

        class Full(io.FileIO):
            def write(self, data: Any) -> int:
                super().write(bytes(data)[:10])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)

        def opened(one: Path, mode: str = "r", *words: Any, **more: Any) -> Any:
            return Full(one, "x") if mode == "xb" else real_open(one, mode, *words, **more)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", opened)
            return real(self, path, data, fault)

    monkeypatch.setattr(LocalFiles, "create", create)
    text = failed()
    assert "No space left on device" in text
    assert "free space" in text


CHILD = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is then an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from flowlab import cli
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [200, 4_000, 40_000])
def test_a_disk_that_takes_no_more_bytes_ends_in_one_text(tmp_path: Path, limit: int) -> None:
    """In a child whose files may not grow beyond a limit: at the notes, at a stage's files, at the model."""
    folder(tmp_path / "data", recordings())
    (tmp_path / "tones.yaml").write_text(CONFIG.format(path="data"))
    done = subprocess.run(
        [sys.executable, "-B", "-c", CHILD, str(limit), "run", "tones.yaml", "--engine", "local"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr or "space" in done.stderr
    assert nothing_is_left(tmp_path / "artifacts")


def test_columns_that_the_recordings_do_not_have_are_told_by_plan_once_the_recordings_are_read(
    failed: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path / "data", recordings())
    asked = ("--set", "data_processing_feature_extraction.variables=4")
    (tmp_path / "tones.yaml").write_text(CONFIG.format(path="data"))
    assert cli.main(["plan", "tones.yaml", *asked]) == 0  # nobody has looked into the files yet
    assert "extract    depends on ingest" in capsys.readouterr().out
    said = "data_processing_feature_extraction.variables: 4 columns are asked for. The recordings have "
    for command in ("run", "plan"):
        assert said in failed("data", *asked, command=command)
    (tmp_path / "tones.yaml").write_text(CONFIG.format(path="data").replace("variables: 1", "variables: [nobody]"))
    assert cli.main(["plan", "tones.yaml"]) == 2
    where = "tones.yaml, data_processing_feature_extraction.variables, line 11: no column 'nobody'"
    assert where in capsys.readouterr().err
    (tmp_path / "tones.yaml").write_text(CONFIG.format(path="data"))
    assert cli.main(["plan", "tones.yaml"]) == 0
    assert "ingest     cached" in capsys.readouterr().out
