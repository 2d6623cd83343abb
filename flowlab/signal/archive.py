"""Zip archives, read in memory: what could harm is refused by name before a byte is unpacked.

Nothing is written to disk. A member is refused whose name leaves the archive, that is a link or encrypted, that stands
twice, or whose size is absurd. `zipfile` reads no more bytes of a member than its entry declares, so the declared
sizes, checked here, bound what is unpacked.
"""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from flowlab.errors import DataError

MAX_FILES = 100_000
MAX_FILE_BYTES = 1 << 30  # of one recording, unpacked: more than a day at 1 kHz as text
MAX_TOTAL_BYTES = 8 << 30
MAX_RATIO = 200  # text of numbers packs 2 to 10 times; a bomb about 1000 times
RATIO_COUNTS_FROM = 1 << 20  # small files of zeros are no bomb
DAMAGED = (  # what zipfile and its decompressors raise; UnicodeDecodeError is a ValueError
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    EOFError,
    RuntimeError,
    ValueError,
    OSError,
)


@dataclass(frozen=True)
class Member:
    """One checked file of an archive."""

    archive: zipfile.ZipFile
    name: str

    def read_bytes(self) -> bytes:
        """Unpack it into memory. Raises `DataError` if it is damaged."""
        try:
            return self.archive.read(self.name)
        except DAMAGED as error:
            archive = Path(self.archive.filename or "archive").name
            raise DataError(f"{archive}: member {self.name!r} is damaged ({error}). Pack it again") from None


def members(path: Path) -> Mapping[str, Member]:
    """The files in an archive by their name, checked; each is read by its ``read_bytes``.

    Args:
        path: a ``.zip`` file. Its handle closes with the last of the returned objects.

    Raises:
        DataError: naming archive and member, for whatever is refused or damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror or error})") from None
    except DAMAGED as error:
        raise DataError(f"{path.name}: not a readable zip archive ({error}). Pack it again") from None
    try:
        names = _checked(path.name, archive.infolist())
    except DataError:
        archive.close()
        raise
    return {name: Member(archive, name) for name in names}


def _checked(archive: str, entries: list[zipfile.ZipInfo]) -> list[str]:
    """The names of the files, after all checks."""
    if len(entries) > MAX_FILES:
        raise DataError(f"{archive}: {len(entries):,} members, at most {MAX_FILES:,} are read")
    names: dict[str, None] = {}
    total = 0
    for entry in entries:
        reason = refusal(entry)
        if not reason and entry.filename in names:
            reason = "its name stands twice in the archive"
        total += entry.file_size
        if not reason and total > MAX_TOTAL_BYTES:
            reason = f"the archive unpacks to more than {MAX_TOTAL_BYTES >> 30} GiB here"
        if reason:
            raise DataError(f"{archive}: member {entry.filename!r} is refused: {reason}")
        if not entry.is_dir():
            names[entry.filename] = None
    return list(names)


def refusal(entry: zipfile.ZipInfo) -> str:
    """Why one member is not read, or an empty text."""
    # zipfile cuts a name at its first NUL and may turn backslashes: look at what the archive says
    return _refused_name(entry.orig_filename) or _refused_kind(entry) or _refused_size(entry)


def _refused_name(name: str) -> str:
    if "\0" in name:
        return "its name holds a NUL character"
    if any(one < " " or "\x7f" <= one <= "\x9f" for one in name):
        return "its name holds a control character"
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        return "its name is an absolute path"
    if ".." in PurePosixPath(name.replace("\\", "/")).parts:
        return "its name leaves the archive ('..')"
    return "its name holds a backslash; pack it with '/' between folders" if "\\" in name else ""


def _refused_kind(entry: zipfile.ZipInfo) -> str:
    mode = entry.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "it is a symbolic link; pack the file itself"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a device, a pipe or a socket"
    return "it is encrypted; pack it without a password" if entry.flag_bits & 0x1 else ""


def _refused_size(entry: zipfile.ZipInfo) -> str:
    if entry.file_size > MAX_FILE_BYTES:
        return f"it unpacks to {entry.file_size:,} bytes, at most {MAX_FILE_BYTES:,} are read"
    packed = max(entry.compress_size, 1)
    if entry.file_size > RATIO_COUNTS_FROM and entry.file_size / packed > MAX_RATIO:
        return f"{packed:,} bytes unpack to {entry.file_size:,}, more than {MAX_RATIO} times (an archive bomb?)"
    return ""
