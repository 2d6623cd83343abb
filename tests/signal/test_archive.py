from __future__ import annotations

import random
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from flowlab.errors import DataError
from flowlab.signal import archive


def packed(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], compress: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name that stands twice
        with zipfile.ZipFile(path, "w", compress) as file:
            for name, data in entries:
                file.writestr(name, data)
    return path


def linked(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


def test_members_are_read_in_memory_and_folders_are_no_members(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", ("classes/", b""), ("classes/a/1.csv", b"1\n"))
    found = archive.members(path)
    assert {name: member.read_bytes() for name, member in found.items()} == {"classes/a/1.csv": b"1\n"}
    assert [item.name for item in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute path"),
        ("C:/x.csv", "absolute path"),
        ("\\\\server\\share\\x.csv", "absolute path"),
        ("classes/../../x.csv", "leaves the archive"),
        ("..", "leaves the archive"),
        ("classes\\..\\..\\x.csv", "leaves the archive"),
        ("classes\\a\\x.csv", "backslash"),
        (linked("classes/a/link.csv", stat.S_IFLNK | 0o777), "symbolic link"),
        (linked("classes/a/pipe.csv", stat.S_IFIFO | 0o666), "a device, a pipe or a socket"),
    ],
)
def test_a_member_that_could_harm_is_refused_by_name(tmp_path: Path, name: str | zipfile.ZipInfo, reason: str) -> None:
    path = packed(tmp_path / "evil.zip", ("classes/a/1.csv", b"1\n"), (name, b"x"))
    with pytest.raises(DataError, match=reason) as caught:
        archive.members(path)
    shown = name if isinstance(name, str) else name.filename
    assert "evil.zip" in str(caught.value)
    assert repr(shown) in str(caught.value)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", ("classes/a/1.csv", b"1\n"), ("classes/a/1.csv", b"2\n"))
    with pytest.raises(DataError, match="stands twice"):
        archive.members(path)


def test_an_archive_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / "bomb.zip", ("classes/a/1.csv", b"0" * (8 << 20)))
    with pytest.raises(DataError, match=r"'classes/a/1.csv' is refused: .* bomb"):
        archive.members(path)


def test_absolute_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.zip", ("a.csv", b"1234567890"), ("b.csv", b"1234567890"), compress=zipfile.ZIP_STORED)
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 9)
    with pytest.raises(DataError, match=r"'a.csv' is refused: it unpacks to 10 bytes"):
        archive.members(path)
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 19)
    with pytest.raises(DataError, match=r"'b.csv' is refused: the archive unpacks"):
        archive.members(path)
    monkeypatch.setattr(archive, "MAX_FILES", 1)
    with pytest.raises(DataError, match="2 members"):
        archive.members(path)


def test_a_declared_size_that_lies_does_not_unpack_more(tmp_path: Path) -> None:
    path = packed(tmp_path / "lie.zip", ("classes/a/1.csv", b"0" * 100_000))
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", 10)  # the size that the directory declares
    path.write_bytes(bytes(data))
    (member,) = archive.members(path).values()
    with pytest.raises(DataError, match=r"'classes/a/1.csv' is damaged"):
        member.read_bytes()


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", ("classes/a/1.csv", b"1\n"))
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="encrypted"):
        archive.members(path)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", ("classes/a/1.csv", bytes(range(256)) * 40))
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(bytes(data))
    (member,) = archive.members(path).values()
    with pytest.raises(DataError, match=r"a\.zip: member 'classes/a/1.csv' is damaged"):
        member.read_bytes()


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip: not a readable zip"):
        archive.members(path)


def test_a_missing_archive_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        archive.members(tmp_path / "none.zip")


def test_whatever_byte_is_damaged_the_error_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        sound = packed(
            path, ("classes/a/ü.csv", b"1,2\n" * 50), ("classes/b/1.csv", b"3\n"), compress=kind
        ).read_bytes()
        rng = random.Random(kind)
        refused = 0
        for _ in range(300):
            data = bytearray(sound)
            for _ in range(rng.choice([1, 1, 2, 5])):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(bytes(data[: rng.choice([None, rng.randrange(len(data))])]))
            try:
                for member in archive.members(path).values():
                    member.read_bytes()
            except DataError:
                refused += 1
        assert refused > 150
