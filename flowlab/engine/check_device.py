"""What a board printed against what the program must give: `flowlab check-device LOG`."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.compiler.emit_runner import DIGITS
from flowlab.compiler.program import Container, parse
from flowlab.errors import AgreementError, DataError, ProgramError, plural

MOST_BYTES = 1 << 24  # of a log
NETWORK = re.compile(r"network ([0-9a-f]{16}), (\d{1,6}) vectors")
VECTOR = re.compile(r"vector (\d{1,6}) crc ([0-9a-f]{8})\b")
VERDICT = re.compile(r"(?:pass|fail): \d{1,6} of \d{1,6} vectors")
SHOWN = 5  # vectors in an error


@dataclass(frozen=True)
class Checked:
    """A log that agrees: the file, and how many vectors it has."""

    path: Path
    vectors: int

    def lines(self) -> list[str]:
        """For people."""
        return [f"{self.path}: all {plural(self.vectors, 'vector', 'vectors')} as golden"]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"log": str(self.path), "vectors": self.vectors, "mismatches": 0}


def check_device(log: Path, program: Path) -> Checked:
    """Compare the checksums of every vector.

    Args:
        log: what ``main.c`` printed, whatever stands around its lines (a terminal's prompt, time stamps); of several
            starts the last one counts.
        program: the ``model.flnp`` that ``main.c`` lay beside.

    Raises:
        DataError: if the log cannot be read, or is not that of ``main.c``.
        ProgramError: if the program is damaged, or carries no golden vectors.
        AgreementError: if the board ran another network, left vectors out, or gave other outputs.
    """
    container = _program(program)
    golden = golden_crcs(container)
    text = _text(log)
    sessions = list(NETWORK.finditer(text))
    if not sessions:
        raise DataError(f"{log}: no line 'network ..., N vectors'. Give all that main.c of the run printed")
    network = sessions[-1]  # a board that was started again prints everything again
    wanted = container.source_sha256[:DIGITS]
    if network[1] != wanted:
        raise AgreementError(
            f"{log}: the board ran network {network[1]}, and {program} was made from {wanted}. Flash the C that lies "
            "beside the program, or name the program that was flashed"
        )
    if int(network[2]) != len(golden):
        raise AgreementError(
            f"{log}: the board has {network[2]} vectors, and {program} {len(golden)}: flash the same run's C"
        )
    _hold(log, text[network.start() :], golden)
    return Checked(log, len(golden))


def _hold(log: Path, text: str, golden: list[int]) -> None:
    """One session's checksums against the golden ones."""
    found: dict[int, set[str]] = {}
    for match in VECTOR.finditer(text):
        found.setdefault(int(match[1]), set()).add(match[2])
    lacking = [at for at in range(len(golden)) if at not in found]
    if lacking:
        raise AgreementError(
            f"{log}: {len(lacking)} of {plural(len(golden), 'vector', 'vectors')} missing, first {lacking[0]}: the "
            "board stopped, or the log is cut"
        )
    wrong = [at for at, crc in enumerate(golden) if found[at] != {f"{crc:08x}"}]
    if wrong:
        named = ", ".join(
            f"{at} ({' and '.join(sorted(found[at]))} instead of {golden[at]:08x})" for at in wrong[:SHOWN]
        )
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise AgreementError(
            f"{log}: {len(wrong)} of {len(golden)} vectors differ: {named}{more}. The compiler, its options or the "
            "board's memory is to blame: the same C gave these outputs here"
        )
    verdict = VERDICT.search(text)
    if verdict is None:
        raise AgreementError(f"{log}: no line 'pass: ...' behind the vectors: the board stopped, or the log is cut")
    if verdict[0] != f"pass: {len(golden)} of {len(golden)} vectors":
        raise AgreementError(
            f"{log}: the outputs are as golden, and main.c says '{verdict[0]}': the quantized input differs. The "
            "board's floats are to blame: contraction, flushed small numbers, or another rounding"
        )


def golden_crcs(container: Container) -> list[int]:
    """CRC-32 of each golden vector's outputs, as ``main.c`` computes it.

    Raises:
        ProgramError: where the program carries none.
    """
    if container.golden is None:
        raise ProgramError("the program carries no golden vectors, so there is nothing to compare a board with")
    rows = zip(*container.golden.outputs, strict=True)
    return [zlib.crc32(b"".join(part.astype("<i4").tobytes() for part in row)) for row in rows]


def _program(path: Path) -> Container:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Name the model.flnp of a run") from None
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from None


def _text(log: Path) -> str:
    try:
        with log.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{log}: {error.strerror}. Name the file with what the board printed") from None
    if len(data) > MOST_BYTES:
        raise DataError(f"{log}: larger than {MOST_BYTES >> 20} MB; that is no log of main.c")
    return data.decode("utf-8", errors="replace")
