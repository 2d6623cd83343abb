from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from flowlab.errors import DataError
from flowlab.signal import layout

CSV = (".csv",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name in ("hum/1.csv", "hum/2.csv", "hum/3.csv", "buzz/1.csv", "buzz/2.csv", "buzz/3.csv"):
        file = root / "classes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1\n2\n")
    return root


def lists(root: Path, **names: str) -> None:
    (root / "annotations").mkdir()
    for split, text in names.items():
        (root / "annotations" / f"instances_{split}_list.txt").write_text(text)


def found(root: Path) -> layout.Layout:
    return layout.layout(layout.source_files(root), CSV)


def test_the_parent_folder_is_the_class_and_classes_are_sorted(folder: Path) -> None:
    (folder / "README.md").write_text("about")
    (folder / "classes" / "hum" / ".DS_Store").write_text("trace")
    seen = found(folder)
    assert seen.classes == ("buzz", "hum")
    assert [(entry.name, entry.label, entry.split) for entry in seen.entries[:2]] == [
        ("buzz/1.csv", "buzz", None),
        ("buzz/2.csv", "buzz", None),
    ]
    assert not seen.annotated


def test_a_zip_has_the_same_layout_as_a_folder(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, item in layout.source_files(folder).items():
            file.write(item, name)
    inside, outside = found(path), found(folder)
    assert [entry.name for entry in inside.entries] == [entry.name for entry in outside.entries]
    assert [entry.file.read_bytes() for entry in inside.entries] == [b"1\n2\n"] * 6
    assert layout.first_suffix(path) == layout.first_suffix(folder) == ".csv"


def test_lists_decide_the_split_and_what_is_in_none_is_left_out_and_said(folder: Path) -> None:
    lists(folder, train="hum/1.csv\n\nbuzz/1.csv\n", val="hum/2.csv\r\nbuzz/2.csv\r\n", test="\ufeffhum/3.csv")
    seen = found(folder)
    assert seen.annotated
    assert {entry.name: entry.split for entry in seen.entries} == {
        "hum/1.csv": "train",
        "buzz/1.csv": "train",
        "hum/2.csv": "val",
        "buzz/2.csv": "val",
        "hum/3.csv": "test",
    }
    assert seen.notes == ("1 recording stands in no annotation list and is left out (buzz/3.csv)",)


@pytest.mark.parametrize(
    ("test_list", "message"),
    [
        ("hum/1.csv", r"'hum/1.csv' is in two splits: .*train_list.txt, line 1, and .*test_list.txt, line 1"),
        ("hum/3.csv\nhum/3.csv", r"'hum/3.csv' stands twice: .*line 1, and .*line 2"),
        ("hum/4.csv", r"test_list.txt, line 1: no recording 'hum/4.csv'. Did you mean"),
        ("\n", "names no file"),
    ],
)
def test_a_list_that_cannot_hold_is_an_error_with_its_line(folder: Path, test_list: str, message: str) -> None:
    lists(folder, train="hum/1.csv", val="hum/2.csv", test=test_list)
    with pytest.raises(DataError, match=message):
        found(folder)


def test_a_missing_list_is_an_error_while_others_are_there(folder: Path) -> None:
    lists(folder, train="hum/1.csv", val="hum/2.csv")
    with pytest.raises(DataError, match=r"instances_test_list.txt is missing, though .*Add it, or remove the others"):
        found(folder)


def test_a_list_in_another_encoding_is_said(folder: Path) -> None:
    lists(folder, train="hum/1.csv", val="hum/2.csv", test="hum/3.csv")
    (folder / "annotations" / "instances_val_list.txt").write_bytes("hum/2.csv\nhüm".encode("latin-1"))
    with pytest.raises(DataError, match=r"instances_val_list.txt is not UTF-8 text \(byte 11\)"):
        found(folder)


def test_a_file_outside_a_class_folder_is_named(folder: Path) -> None:
    (folder / "classes" / "stray.csv").write_text("1\n")
    with pytest.raises(DataError, match=r"classes/stray.csv does not lie in classes/<class>/"):
        found(folder)


def test_a_file_that_nobody_reads_is_named(folder: Path) -> None:
    (folder / "classes" / "hum" / "4.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"no reader for classes/hum/4.npy. Known endings: .csv"):
        found(folder)


def test_a_huge_file_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_FILE_BYTES", 3)
    with pytest.raises(DataError, match=r"classes/buzz/1.csv: 4 bytes, at most 3 are read"):
        found(folder)


def test_one_class_is_no_classification(tmp_path: Path) -> None:
    file = tmp_path / "classes" / "hum" / "1.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    with pytest.raises(DataError, match="only one class, 'hum'"):
        found(tmp_path)


def test_a_folder_without_classes_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "klasses").mkdir()
    with pytest.raises(DataError, match=r"Did you mean 'klasses'\? Found at the top: klasses"):
        layout.source_files(tmp_path)


def test_a_source_that_is_neither_folder_nor_zip_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        layout.source_files(tmp_path / "nothing")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a folder or a .zip file, found a '.tar' file"):
        layout.source_files(tmp_path / "a.tar")


def test_lists_may_go_by_other_words(folder: Path) -> None:
    lists(folder, learn="hum/1.csv", tune="hum/2.csv", judge="hum/3.csv")
    names = layout.Names(split_names=("learn", "tune", "judge"))
    seen = layout.layout(layout.source_files(folder), CSV, names)
    assert [entry.split for entry in seen.entries] == ["train", "val", "test"]
