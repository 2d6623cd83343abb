"""Downloads from a real server on 127.0.0.1 that does well, badly, or worse."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from archive_server import archive, serving

from flowlab.engine.download import LIMITS, Limits, download, into_store
from flowlab.errors import DataError
from flowlab.store.downloads import key_of
from flowlab.store.store import Store

DATA = archive()
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = replace(LIMITS, pause_s=0.0, silence_s=5.0)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def fetched(url: str, folder: Path, pinned: str | None = None, limits: Limits = QUICK) -> bytes:
    got = download(url, folder / "download", lambda what, fraction: None, pinned, limits)
    data = got.path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == got.sha256
    return data


def failed(url: str, folder: Path, limits: Limits = QUICK, pinned: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        fetched(url, folder, pinned, limits)
    text = str(caught.value)
    assert "\n" not in text
    return text


def nothing_is_kept(folder: Path) -> bool:
    return not (folder / "download").exists()


def test_an_archive_comes_whole_and_progress_ends_at_one(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    with serving(DATA) as served:
        got = download(served.url, tmp_path / "d", lambda what, fraction: seen.append((what, fraction)), SHA, QUICK)
    assert got.path.read_bytes() == DATA
    assert got.etag == '"one"'
    assert seen[0][0].startswith("downloading tones.zip")
    assert seen[-1] == ("checking the download", 1.0)


@pytest.mark.parametrize("length", [True, False])
def test_a_length_that_is_not_said_is_no_hindrance(tmp_path: Path, length: bool) -> None:
    with serving(DATA, length=length) as served:
        assert fetched(served.url, tmp_path) == DATA


def test_a_cut_connection_is_gone_on_with_where_it_ended(tmp_path: Path) -> None:
    with serving(DATA, cut_at=1000, cuts=1) as served:
        assert fetched(served.url, tmp_path) == DATA
    (_, first), (_, second) = served.asked
    assert "Range" not in first
    assert second["Range"] == "bytes=1000-"
    assert second["If-Range"] == '"one"'


def test_what_came_is_kept_for_the_next_run_when_the_server_gives_up(tmp_path: Path) -> None:
    with serving(DATA, cut_at=1000) as served:
        text = failed(served.url, tmp_path)
        assert f"the connection ended after 1,000 of {len(DATA):,} bytes, 3 times" in text
        assert "the next run goes on from there" in text
        served.cut_at = None
        served.asked.clear()
        assert fetched(served.url, tmp_path) == DATA
        assert served.asked[0][1]["Range"] == "bytes=1000-"


def test_a_server_without_ranges_starts_anew(tmp_path: Path) -> None:
    with serving(DATA, cut_at=1000, cuts=1, ranges=False) as served:
        assert fetched(served.url, tmp_path) == DATA
    assert len(served.asked) == 2


def test_a_server_without_a_name_for_its_content_is_asked_for_all_of_it(tmp_path: Path) -> None:
    with serving(DATA, cut_at=1000, cuts=1, etag="") as served:
        assert fetched(served.url, tmp_path) == DATA
    assert "Range" not in served.asked[1][1]


def test_a_content_that_changed_in_between_is_not_mixed(tmp_path: Path) -> None:
    other = archive(seed=1)
    with serving(DATA, cut_at=1000) as served:
        failed(served.url, tmp_path)
        served.data, served.etag, served.cut_at = other, '"two"', None
        assert fetched(served.url, tmp_path) == other


def test_a_part_that_is_longer_than_the_file_is_dropped(tmp_path: Path) -> None:
    with serving(DATA, cut_at=1000) as served:
        failed(served.url, tmp_path)
        with (tmp_path / "download" / "part").open("ab") as file:
            file.write(b"x" * len(DATA))
        served.cut_at = None
        assert fetched(served.url, tmp_path) == DATA


def test_another_sha256_names_both_and_keeps_nothing(tmp_path: Path) -> None:
    with serving(DATA) as served:
        text = failed(served.url, tmp_path, pinned="0" * 64)
    assert SHA in text
    assert "0" * 64 in text
    assert text.startswith("dataset.sha256: http://127.0.0.1")
    assert nothing_is_kept(tmp_path)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"the server answered 404 \(Not Found\). Nothing is there: correct the address"),
        (403, r"the server answered 403 \(Forbidden\). Is it private"),
        (401, "Is it private"),
        (204, "the server answered 204"),
        (418, "the server answered 418"),
        (299, "the server answered 299"),
        (503, r"the server answered 503 \(Service Unavailable\), 3 times"),
    ],
)
def test_an_answer_that_is_no_file_says_what_to_do(tmp_path: Path, status: int, message: str) -> None:
    import re

    with serving(DATA, status=status) as served:
        text = failed(served.url, tmp_path)
    assert re.search(message, text)
    assert served.url in text
    assert nothing_is_kept(tmp_path)
    assert len(served.asked) == (3 if status == 503 else 1)


def test_a_web_page_is_told_from_an_archive_by_its_first_bytes(tmp_path: Path) -> None:
    with serving(b"<!DOCTYPE html><html>log in" + b" " * 5000, content_type="text/html; charset=utf-8") as served:
        assert "the server sent a web page instead of a zip archive" in failed(served.url, tmp_path)
    with serving(b"\x1f\x8b" + DATA) as served:
        assert "the server sent no zip archive" in failed(served.url, tmp_path)
    with serving(b"") as served:
        assert "the server sent an empty file" in failed(served.url, tmp_path)
    assert nothing_is_kept(tmp_path)


def test_an_archive_that_ends_early_without_a_word_is_noticed(tmp_path: Path) -> None:
    with serving(DATA, cut_at=1000, length=False) as served:
        text = failed(served.url, tmp_path)
    assert "what came (1,000 bytes) is no whole zip archive" in text
    assert nothing_is_kept(tmp_path)


@pytest.mark.parametrize("length", [True, False])
def test_more_bytes_than_an_archive_may_have_are_refused(tmp_path: Path, length: bool) -> None:
    with serving(DATA, length=length) as served:
        text = failed(served.url, tmp_path, replace(QUICK, max_bytes=1000))
    assert "or more, at most 1,000 are downloaded" in text
    assert nothing_is_kept(tmp_path)


def test_a_redirect_is_followed_and_a_loop_is_not(tmp_path: Path) -> None:
    with serving(DATA) as served, serving(b"", status=302, location=served.url) as first:
        assert fetched(first.url, tmp_path) == DATA
        first.location = "other.zip"
        text = failed(first.url, tmp_path / "loop")
    assert "more than 5 redirects, the last to http://127.0.0.1" in text
    assert len(first.asked) == 7


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x.zip", "data:text/plain,x", "http://[bad"])
def test_a_redirect_to_anything_else_is_not_followed(tmp_path: Path, target: str) -> None:
    with serving(b"", status=301, location=target) as served:
        assert "which is not followed" in failed(served.url, tmp_path)
    assert len(served.asked) == 1


def test_a_password_goes_to_the_first_server_alone_and_into_no_message(tmp_path: Path) -> None:
    with serving(DATA) as served, serving(b"", status=302, location=served.url) as first:
        with_secrets = first.url.replace("//", "//me:s%20cret@") + "?token=s3cret"
        assert fetched(with_secrets, tmp_path) == DATA
        assert first.asked[0][1]["Authorization"] == "Basic bWU6cyBjcmV0"
        assert "Authorization" not in served.asked[0][1]
        assert first.asked[0][0] == "/data/tones.zip?token=s3cret"
        first.status = 404
        text = failed(with_secrets, tmp_path / "again")
    assert "cret" not in text
    assert "/data/tones.zip?..." in text


def test_a_refused_connection_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert "the connection is refused" in failed(f"http://127.0.0.1:{port}/x.zip", tmp_path)


def test_a_host_that_nobody_knows_is_said(tmp_path: Path) -> None:
    assert "there is no such host, or no network" in failed("http://no-such-host.invalid/x.zip", tmp_path)


def test_a_server_that_falls_silent_is_not_waited_for(tmp_path: Path) -> None:
    with serving(DATA, silent_s=threading.Event()) as served:
        text = failed(served.url, tmp_path, replace(QUICK, silence_s=0.2, attempts=2))
    assert "the server fell silent after 20 of" in text
    assert "2 times" in text


def test_a_server_that_is_too_slow_is_not_waited_for(tmp_path: Path) -> None:
    with serving(DATA) as served:
        text = failed(served.url, tmp_path, replace(QUICK, slow_s=0.0, slow_bytes=1 << 30, attempts=1))
    assert "bytes came in 0 s" in text


def test_a_server_that_speaks_no_http_is_an_error_of_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(b"220 mail ready\r\n")
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        text = failed(f"http://127.0.0.1:{listener.getsockname()[1]}/x.zip", tmp_path, replace(QUICK, attempts=2))
        thread.join()
    assert "the server gave no answer (BadStatusLine), 2 times" in text


def test_a_server_without_tls_where_https_is_asked_for_is_said(tmp_path: Path) -> None:
    with serving(DATA) as served:
        text = failed(served.url.replace("http://", "https://"), tmp_path)
    assert "no trusted connection" in text
    assert "SSL_CERT_FILE" in text


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    from flowlab.engine import download as module

    error = ssl.SSLCertVerificationError("self-signed certificate")
    error.verify_message = "self-signed certificate"
    assert "no trusted connection (self-signed certificate)" in module._tls(error)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        """A file that takes nothing."""

        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *words: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    def opened(self: Path, mode: str = "r", **words: object) -> object:
        file = real(self, mode, **words)  # type: ignore[arg-type]
        return Full(file) if self.name == "part" and mode in ("ab", "wb") else file

    monkeypatch.setattr(Path, "open", opened)
    with serving(DATA) as served, pytest.raises(OSError, match="No space left"):
        fetched(served.url, tmp_path)
    assert nothing_is_kept(tmp_path)


def test_two_at_once_download_once(tmp_path: Path) -> None:
    with serving(DATA) as served:
        key = key_of(served.url)
        got: list[str] = []

        def one() -> None:
            got.append(into_store(served.url, key, Store(tmp_path / "store"), lambda what, fraction: None).sha256)

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [SHA] * 4
    assert len(served.asked) == 1
    assert not list((tmp_path / "store" / "scratch").iterdir())
