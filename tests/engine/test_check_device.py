"""What a board printed against the program: the real lines of `main.c`, and every way in which they can be wrong."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_graphs import awkward_graph, example_graph, features_of

from flowlab.compiler import emit_c, emit_runner, interpreter
from flowlab.compiler.lower import lower, with_golden
from flowlab.compiler.program import encode
from flowlab.compiler.trace import layer_crcs
from flowlab.contracts import Golden
from flowlab.cpu import host_compiler
from flowlab.engine.check_device import check_device
from flowlab.errors import AgreementError, DataError, ProgramError

VECTORS = 4


def built(folder: Path, name: str = "example") -> tuple[Path, str]:
    """A program, and what its `main.c` prints."""
    graph = {"example": example_graph, "awkward": awkward_graph}[name]()
    features = features_of(graph, VECTORS)
    values = interpreter.run(graph, features)
    outputs = {one: values[value] for one, value in graph.outputs.items()}
    windows = np.zeros((VECTORS, 1, 4), np.float32)
    golden = Golden(features, values["quantize"], outputs, layer_crcs(graph, values), windows)
    container = with_golden(lower(graph, "ab" * 32), golden)
    texts = {
        **emit_c.emit_c(container, skip_normalize=True),
        **emit_runner.emit_vectors(container, windows),
        **emit_runner.emit_main(container, skip_normalize=True),
    }
    for file, text in texts.items():
        (folder / file).write_text(text)
    (folder / "model.flnp").write_bytes(encode(container))
    compiler = host_compiler.find()
    assert compiler is not None
    one = folder / "all.c"
    one.write_text("".join(f'#include "{file}"\n' for file in ("model.c", "test_vector.c", "main.c")))
    compiler.compile(one, folder / "main", flags=(*host_compiler.FLAGS, "-Wall", "-Wextra", "-Werror"))
    printed = subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout
    return folder / "model.flnp", printed


@pytest.fixture(scope="module", params=["example", "awkward"])
def board(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return built(tmp_path_factory.mktemp(request.param), request.param)


def log(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "board.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_what_main_prints_agrees(board: tuple[Path, str], tmp_path: Path) -> None:
    program, printed = board
    assert printed.endswith(f"pass: {VECTORS} of {VECTORS} vectors\n")
    found = check_device(log(tmp_path, printed), program)
    assert found.vectors == VECTORS and found.to_json()["mismatches"] == 0


def test_what_a_terminal_adds_is_no_matter(board: tuple[Path, str], tmp_path: Path) -> None:
    program, printed = board
    noisy = "\xff\0boot ok\r\n" + "".join(f"[12:00:{at:02}] {line}\r\n" for at, line in enumerate(printed.splitlines()))
    assert check_device(log(tmp_path, noisy.encode("latin-1")), program).vectors == VECTORS


def test_one_flipped_digit_is_named(board: tuple[Path, str], tmp_path: Path) -> None:
    program, printed = board
    match = re.search(r"vector 2 crc ([0-9a-f]{8})", printed)
    assert match
    other = match[1][:-1] + ("0" if match[1][-1] != "0" else "1")
    with pytest.raises(AgreementError, match=rf"1 of {VECTORS} vectors differ: 2 \({other} instead of {match[1]}\)"):
        check_device(log(tmp_path, printed.replace(match[0], f"vector 2 crc {other}")), program)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("vector 1 crc", "vector crc"), r"1 of 4 vectors missing, first 1"),
        (lambda text: text[: text.index("vector 2")], r"2 of 4 vectors missing, first 2: the board stopped"),
        (lambda text: text.replace("network abab", "network 0bab"), r"the board ran network 0bab\w+, and .* from abab"),
    ],
)
def test_a_log_that_is_cut_or_of_another_network_is_refused(change, said, board, tmp_path: Path) -> None:
    program, printed = board
    with pytest.raises(AgreementError, match=said):
        check_device(log(tmp_path, change(printed)), program)


def test_of_several_starts_the_last_one_counts(board: tuple[Path, str], tmp_path: Path) -> None:
    program, printed = board
    bad = re.sub(r"crc .", "crc x", printed).replace("crc x", "crc 0").replace("pass: 4", "fail: 0")
    assert check_device(log(tmp_path, bad + printed), program).vectors == VECTORS
    with pytest.raises(AgreementError, match="vectors differ"):
        check_device(log(tmp_path, printed + bad), program)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pass: 4", "fail: 3", "main.c says 'fail: 3 of 4 vectors': the quantized input differs"),
        ("pass: 4 of 4 vectors", "", "no line 'pass: ...' behind the vectors"),
        (", 4 vectors", ", 9 vectors", "the board has 9 vectors, and .* 4: flash the same run's C"),
        ("vector 3 crc", "vector 3 crc 00000000\nvector 3 crc", "1 of 4 vectors differ: 3 .*00000000 and "),
    ],
)
def test_what_main_says_itself_is_heard(old: str, new: str, said: str, board: tuple[Path, str], tmp_path: Path) -> None:
    program, printed = board
    assert old in printed
    with pytest.raises(AgreementError, match=said):
        check_device(log(tmp_path, printed.replace(old, new)), program)


def test_what_is_no_log_is_refused(board: tuple[Path, str], tmp_path: Path) -> None:
    program, _ = board
    with pytest.raises(DataError, match="no line 'network"):
        check_device(log(tmp_path, "hello"), program)
    with pytest.raises(DataError, match="No such file"):
        check_device(tmp_path / "none.log", program)
    with pytest.raises(DataError, match="larger than 16 MB"):
        check_device(log(tmp_path, bytes((1 << 24) + 1)), program)
    with pytest.raises(DataError, match=r"No such file.*model\.flnp"):
        check_device(log(tmp_path, "network"), tmp_path / "none.flnp")


def test_a_program_that_is_damaged_or_has_no_vectors_is_refused(board: tuple[Path, str], tmp_path: Path) -> None:
    program, printed = board
    data = bytearray(program.read_bytes())
    data[100] ^= 1
    (tmp_path / "bad.flnp").write_bytes(bytes(data))
    with pytest.raises(ProgramError, match=r"bad.flnp: "):
        check_device(log(tmp_path, printed), tmp_path / "bad.flnp")
    container = replace(lower(example_graph(), "ab" * 32), golden=None)
    (tmp_path / "bare.flnp").write_bytes(encode(container))
    with pytest.raises(ProgramError, match="carries no golden vectors"):
        check_device(log(tmp_path, printed), tmp_path / "bare.flnp")
