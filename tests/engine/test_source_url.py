"""Data behind an address: downloaded once, known by content, and planned without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from archive_server import archive, serving

from flowlab.config import load_mapping
from flowlab.engine import run as engine
from flowlab.engine.local import Prepared, prepare
from flowlab.engine.session import Asked, begin
from flowlab.engine.source import files_digest
from flowlab.errors import ConfigError, DataError
from flowlab.plugins import load
from flowlab.stages import STAGES
from flowlab.store.store import Store

DATA = archive()
SHA = hashlib.sha256(DATA).hexdigest()


class Watch:
    """Remembers what is said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def said(self, text: str) -> None:
        self.heard.append(text)

    def progress(self, stage: str, what: str, fraction: float) -> None:
        self.heard.append(f"{stage}: {what.partition(' (')[0]}")

    def finished(self, stage: str, cached: bool, seconds: float) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flowlab.engine import download

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)


def config(url: str, catalogue: Any, **dataset: object) -> Any:
    return load_mapping(
        {
            "common": {"task_type": "generic_timeseries_classification", "target_device": "F28P55"},
            "dataset": {"input_data_path": url, **dataset},
            "data_processing_feature_extraction": {
                "data_proc_transforms": ["SimpleWindow"],
                "frame_size": 32,
                "variables": 1,
            },
            "training": {"model_name": "CLS_1k_NPU", "training_epochs": 1, "batch_size": 4},
        },
        catalogue,
    )


CATALOGUE = load()


def begun(url: str, watch: Watch | None = None, **dataset: object) -> Prepared:
    return begin(config(url, CATALOGUE, **dataset), CATALOGUE, Asked(), watch or Watch()).prepared


def test_an_address_is_downloaded_once_and_then_needs_no_network() -> None:
    watch = Watch()
    with serving(DATA) as served:
        first = begun(served.url, watch)
    assert watch.heard[:2] == [f"Downloading {served.url}.", "ingest: downloading tones.zip"]
    second = begun(served.url)  # the server is gone
    assert second.sources == first.sources
    assert first.sources["source"]["tones.zip"].sha256 == SHA
    assert len(served.asked) == 1
    (warning,) = [one for one in first.config.warnings if "downloaded" in one]
    assert f"downloaded from {served.url} on 20" in warning
    assert f"dataset.sha256: {SHA} pins them" in warning
    assert first.config.dataset_name == "tones"


def test_a_pin_is_checked_and_needs_no_warning_and_changes_no_stage() -> None:
    with serving(DATA) as served:
        pinned = begun(served.url, sha256=SHA.upper())
        assert not [one for one in pinned.config.warnings if "downloaded" in one]
        loose = begun(served.url)
        ingest = loose.plan.node("ingest"), pinned.plan.node("ingest")
        assert ingest[0].recipe == ingest[1].recipe
        assert len(served.asked) == 1
        with pytest.raises(DataError, match=f"has the sha256 {SHA}, expected {'0' * 64}"):
            begun(served.url, sha256="0" * 64)
    assert not (Path("artifacts/.store/scratch")).exists() or not list(Path("artifacts/.store/scratch").iterdir())


def test_a_pinned_archive_that_is_in_the_store_is_taken_from_there_whatever_the_address() -> None:
    with serving(DATA) as served:
        begun(served.url)
    elsewhere = begun("https://mirror.invalid/tones.zip", sha256=SHA)
    assert elsewhere.sources["source"]["tones.zip"].sha256 == SHA


def test_an_archive_by_address_and_by_path_is_the_same_source(tmp_path: Path) -> None:
    (tmp_path / "tones.zip").write_bytes(DATA)
    with serving(DATA) as served:
        by_address = begun(served.url)
    by_path = prepare(STAGES, config(str(tmp_path / "tones.zip"), CATALOGUE), CATALOGUE, Store(tmp_path / "other"))
    assert files_digest(by_path.sources["source"]) == files_digest(by_address.sources["source"])
    recipes = [one.plan.node("ingest").recipe for one in (by_path, by_address)]
    assert recipes[0] == recipes[1]


def test_a_plan_downloads_nothing_and_says_that_the_data_are_missing() -> None:
    with serving(DATA) as served:
        asked = config(served.url + "?token=s3cret", CATALOGUE)
        before = engine.survey(asked, CATALOGUE, Asked())
        assert served.asked == []
        assert before[0].text() == f"will run: the data of {served.url}?... are not downloaded yet"
        assert {one.state for one in before[1:]} == {"depends"}
        assert len(before) == len(STAGES)
        begin(asked, CATALOGUE, Asked(), Watch())
    after = engine.survey(asked, CATALOGUE, Asked())
    assert after[0].text() == "will run: it has not run in this store yet"


def test_a_lost_object_is_downloaded_again_and_a_lost_link_is_made_again() -> None:
    with serving(DATA) as served:
        first = begun(served.url)
        Path(first.config.dataset.input_data_path).unlink()
        begun(served.url)
        assert len(served.asked) == 1
        first.store.objects.path(SHA).unlink()
        assert engine.survey(config(served.url, CATALOGUE), CATALOGUE, Asked())[0].reason.endswith("not downloaded yet")
        begun(served.url)
        assert len(served.asked) == 2


def test_a_damaged_entry_costs_a_download_and_no_more() -> None:
    with serving(DATA) as served:
        begun(served.url)
        (entry,) = Path("artifacts/.store/downloads").glob("*/entry.json")
        good = json.loads(entry.read_text())
        for damaged in (
            "",
            "{}",
            "[]",
            '{"version": 1, "download": {"sha256": 3}}',
            json.dumps({**good, "version": 9}),
        ):
            entry.write_text(damaged)
            begun(served.url)
        assert len(served.asked) == 6


def test_no_secret_of_an_address_is_written_anywhere() -> None:
    with serving(DATA) as served:
        prepared = begun(served.url.replace("//", "//me:passw0rd@") + "?token=s3cret#fr4gment")
    written = [path for path in Path("artifacts").rglob("*") if path.is_file()]
    assert len(written) > 3
    for path in written:
        for secret in (b"passw0rd", b"s3cret", b"fr4gment"):
            assert secret not in path.read_bytes(), path
            assert secret.decode() not in str(path)
    said = repr([node.asked for node in prepared.plan]) + " ".join(prepared.config.warnings)
    assert "passw0rd" not in said
    assert "s3cret" not in said


def test_a_variable_in_an_address_is_read_where_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(DATA) as served:
        address = served.url.replace("//", "//me:${PASSWORD_OF_DATA}@")
        with pytest.raises(ConfigError, match=r"'\${PASSWORD_OF_DATA}' is not set in the environment"):
            begun(address)
        monkeypatch.setenv("PASSWORD_OF_DATA", "x")
        begun(address)
        assert served.asked[0][1]["Authorization"] == "Basic bWU6eA=="


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x.zip", "only http and https are downloaded, found 'ftp'"),
        ("file:///etc/passwd", "only http and https are downloaded, found 'file'"),
        ("s3://bucket/x.zip", "found 's3'. Download it, and give the file's path"),
        ("https:///x.zip", "names no host"),
        ("https://host:port/x.zip", "names no host"),
        ("https://[::1/x.zip", "names no host"),
        ("https://host/a\nb.zip", "holds a control character"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_its_key(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(url, CATALOGUE)
    assert "dataset.input_data_path" in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://me:s3cret@host/x.zip", "file:///etc/passwd", "https://"])
def test_an_address_in_a_variable_is_checked_too(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ADDRESS_OF_DATA", url)
    with pytest.raises(
        ConfigError, match=r"dataset.input_data_path: (only http and https|the address names)"
    ) as caught:
        begun("${ADDRESS_OF_DATA}")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("path", ["${PLACE_OF_DATA}/tones.zip", "{here}/${NAME_OF_DATA}.zip", "${NAME_OF_DATA}.zip"])
def test_a_variable_may_stand_anywhere_in_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    (tmp_path / "tones.zip").write_bytes(DATA)
    monkeypatch.setenv("PLACE_OF_DATA", str(tmp_path))
    monkeypatch.setenv("NAME_OF_DATA", "tones")
    assert begun(path.replace("{here}", str(tmp_path))).sources["source"]["tones.zip"].sha256 == SHA


def test_a_pin_that_is_no_sha256_is_refused_and_a_local_archive_is_held_to_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset.sha256: found 'abc', expected the 64 digits"):
        config("https://host/x.zip", CATALOGUE, sha256="abc")
    (tmp_path / "tones.zip").write_bytes(DATA)
    local = str(tmp_path / "tones.zip")
    assert begun(local, sha256=SHA).sources["source"]["tones.zip"].sha256 == SHA
    with pytest.raises(DataError, match=f"dataset.sha256: .*tones.zip has the sha256 {SHA}, expected {'1' * 64}"):
        begun(local, sha256="1" * 64)
    (tmp_path / "folder" / "classes" / "hum").mkdir(parents=True)
    (tmp_path / "folder" / "classes" / "hum" / "1.csv").write_text("1\n")
    with pytest.raises(DataError, match=r"dataset\.sha256: only an archive has one"):
        begun(str(tmp_path / "folder"), sha256=SHA)
