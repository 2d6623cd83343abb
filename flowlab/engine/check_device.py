"""What a board printed against what the program must give: `flowlab check-device LOG`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlab.compiler.emit_runner import DIGITS
from flowlab.compiler.program import Container, parse
from flowlab.errors import AgreementError, DataError, ProgramError, plural

MOST_BYTES = 1 << 24  # of a log
NETWORK = re.compile(r"network ([0-9a-f]{16}), (\d{1,6}) vectors")
VECTOR = re.compile(r"vector (\d{1,6}) crc ([0-9a-f]{8})\b")
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
        log: what ``main.c`` printed, whatever stands around its lines (a terminal's prompt, time stamps).
        program: the ``model.flnp`` that ``main.c`` lay beside.

    Raises:
        DataError: if the log cannot be read, or is not that of ``main.c``.
        ProgramError: if the program is damaged, or carries no golden vectors.
        AgreementError: if the board ran another network, left vectors out, or gave other outputs.
    """
    container = _program(program)
    golden = golden_crcs(container)
    text = _text(log)
    network = NETWORK.search(text)
    if network is None:
        raise DataError(f"{log}: no line 'network ..., N vectors'. Give all that main.c of the run printed")
    wanted = container.source_sha256[:DIGITS]
    if network[1] != wanted:
        raise AgreementError(
            f"{log}: the board ran network {network[1]}, and {program} was made from {wanted}. Flash the C that lies "
            "beside the program, or name the program that was flashed"
        )
    found: Mapping[int, str] = {int(match[1]): match[2] for match in VECTOR.finditer(text)}
    lacking = [at for at in range(len(golden)) if at not in found]
    if lacking:
        raise AgreementError(
            f"{log}: {len(lacking)} of {plural(len(golden), 'vector', 'vectors')} missing, first {lacking[0]}: the "
            "board stopped, or the log is cut"
        )
    wrong = [at for at, crc in enumerate(golden) if int(found[at], 16) != crc]
    if wrong:
        named = ", ".join(f"{at} ({found[at]} instead of {golden[at]:08x})" for at in wrong[:SHOWN])
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise AgreementError(
            f"{log}: {len(wrong)} of {len(golden)} vectors differ: {named}{more}. The compiler, its options or the "
            "board's memory is to blame: the same C gave these outputs here"
        )
    return Checked(log, len(golden))


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
