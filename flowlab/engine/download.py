"""Download an archive: whole and checked, or not at all. What came of a broken one is kept, and the next try goes on.

Only http and https, few redirects, no silence without end, no more bytes than an archive may have.
Imports of the network stand inside functions: a cached run needs none of it.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowlab import __version__
from flowlab.canonical import read_json
from flowlab.config.address import problem, request_parts, shown
from flowlab.errors import DataError
from flowlab.store.downloads import Download
from flowlab.store.stat_cache import sha256_of
from flowlab.store.store import Store

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.error import HTTPError
    from urllib.request import OpenerDirector

CHUNK = 1 << 18
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})  # the server may answer better in a moment
REDIRECTS = frozenset({301, 302, 303, 307, 308})

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Limits:
    """What a server may cost: time in seconds, sizes in bytes."""

    silence_s: float = 30.0  # to connect, and between two bytes
    slow_s: float = 120.0  # in which at least `slow_bytes` come
    slow_bytes: int = 1 << 16
    max_bytes: int = 8 << 30
    redirects: int = 5
    attempts: int = 3
    pause_s: float = 1.0  # before the second attempt; longer before each one after it


LIMITS = Limits()


@dataclass(frozen=True)
class Downloaded:
    """A whole, checked archive on disk. ``etag`` is the server's word for this content, or empty."""

    path: Path
    sha256: str
    etag: str


class _Broken(Exception):  # noqa: N818 - no error yet: the next attempt goes on from what is there
    """A transfer that ended too early."""


class _WrongPart(_Broken):
    """The server does not go on where the last transfer ended: the next one starts anew."""


def download(
    address: str, folder: Path, progress: Progress, pinned: str | None = None, limits: Limits = LIMITS
) -> Downloaded:
    """Download one archive into a folder.

    Args:
        address: with its secrets; messages have none of them.
        folder: of this address alone; what is there of an earlier try is used.
        progress: is told what is done, and how much of it (0..1).
        pinned: the sha256 that it must have, hexadecimal.
        limits: what the server may cost.

    Raises:
        DataError: naming the address and what to do.
        OSError: of the disk.
    """
    seen = shown(address)
    for attempt in range(limits.attempts):
        time.sleep(limits.pause_s * attempt)
        try:
            etag = _transfer(address, folder, progress, limits)
            break
        except _Broken as error:
            reason = str(error)
            if isinstance(error, _WrongPart):
                (folder / "part").unlink(missing_ok=True)
    else:
        kept = " What came is kept: the next run goes on from there." if (folder / "part").exists() else ""
        raise DataError(f"dataset.input_data_path: {seen}: {reason}, {limits.attempts} times.{kept}")
    try:
        progress("checking the download", 1.0)
        sha = _checked(folder / "part", seen, pinned)
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Downloaded(folder / "part", sha, etag)


def into_store(address: str, key: str, store: Store, progress: Progress, pinned: str | None = None) -> Download:
    """Download into the store and remember it, one process at a time. Raises like `download`."""
    with store.lock(f"download-{key}"):
        known = store.downloads.read(key)
        if known is not None and pinned in (None, known.sha256):
            return known  # another process was first
        folder = store.root / "scratch" / f"download-{key}"
        got = download(address, folder, progress, pinned)
        sha, size = store.objects.add(got.path, move=True)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        fresh = Download(sha, size, shown(address), when, got.etag)
        store.downloads.write(key, fresh)
        shutil.rmtree(folder, ignore_errors=True)
        return fresh


def _checked(path: Path, seen: str, pinned: str | None) -> str:
    sha = sha256_of(path)
    if pinned is not None and sha != pinned:
        raise DataError(
            f"dataset.sha256: {seen} has the sha256 {sha}, expected {pinned}. Nothing is kept; look at where the "
            "data come from, or correct the key"
        )
    try:
        zipfile.ZipFile(path).close()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(
            f"dataset.input_data_path: {seen}: what came ({path.stat().st_size:,} bytes) is no whole zip archive "
            f"({error}). Nothing is kept"
        ) from None
    return sha


def _transfer(address: str, folder: Path, progress: Progress, limits: Limits) -> str:
    """One attempt: from where the last one ended, if the server still has the same content. Returns its ETag."""
    part, state = folder / "part", folder / "part.json"
    validator = _validator(state)
    have = part.stat().st_size if validator and part.is_file() else 0
    seen = shown(address)
    with _opened(address, {"Range": f"bytes={have}-", "If-Range": validator} if have else {}, limits) as response:
        start, total = _range(response, have, seen)
        etag = response.headers.get("ETag") or ""
        strong = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            state.write_text(json.dumps({"validator": strong}), encoding="utf-8")
            _body(response, part, _Place(seen, start, total), progress, limits)
        except (DataError, OSError):  # no archive, or a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return etag[:200]


@dataclass(frozen=True)
class _Place:
    """Whose body it is, at which byte it starts, and how long the whole is (None: not known)."""

    seen: str
    start: int
    total: int | None


def _body(response: HTTPResponse, part: Path, place: _Place, progress: Progress, limits: Limits) -> None:
    if place.total is not None and place.total > limits.max_bytes:
        raise DataError(f"dataset.input_data_path: {place.seen}: {_too_large(place.total, limits)}")
    done = place.start
    checked, checked_at = done, time.monotonic()
    name = place.seen.rpartition("/")[2] or place.seen
    with part.open("ab" if place.start else "wb") as file:
        while chunk := _read(response, done, place.total):
            if not done and not b"PK".startswith(chunk[:2]):
                raise DataError(f"dataset.input_data_path: {place.seen}: {_no_archive(response, chunk)}")
            file.write(chunk)
            done += len(chunk)
            if done > limits.max_bytes:
                raise DataError(f"dataset.input_data_path: {place.seen}: {_too_large(done, limits)}")
            progress(f"downloading {name} ({done / 1e6:.1f} MB)", done / place.total if place.total else 0.0)
            if time.monotonic() - checked_at > limits.slow_s:
                if done - checked < limits.slow_bytes:
                    raise _Broken(f"fewer than {limits.slow_bytes:,} bytes came in {limits.slow_s:g} s")
                checked, checked_at = done, time.monotonic()
    if place.total is not None and done != place.total:
        raise _Broken(f"the connection ended after {done:,} of {place.total:,} bytes")
    if not done:
        raise DataError(f"dataset.input_data_path: {place.seen}: the server sent an empty file")


def _read(response: HTTPResponse, done: int, total: int | None) -> bytes:
    """Some bytes, as soon as there are any."""
    from http.client import HTTPException

    try:
        return response.read1(CHUNK)
    except TimeoutError:
        reason = "the server fell silent"
    except (HTTPException, OSError):
        reason = "the connection broke"
    raise _Broken(f"{reason} after {done:,}{f' of {total:,}' if total is not None else ''} bytes") from None


def _range(response: HTTPResponse, have: int, seen: str) -> tuple[int, int | None]:
    """At which byte the body starts, and how long the whole is."""
    length = response.headers.get("Content-Length") or ""
    size = int(length) if re.fullmatch(r"\d{1,18}", length, re.ASCII) else None
    if response.status == HTTPStatus.PARTIAL_CONTENT and have:
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range") or "")
        if found is not None and int(found[1]) == have:
            whole = int(found[2]) if found[2] != "*" else None if size is None else have + size
            return have, whole
        raise _WrongPart("the server sent another part than was asked for")
    if response.status != HTTPStatus.OK:
        raise DataError(f"dataset.input_data_path: {seen}: the server answered {_status(response.status)}, no file")
    return 0, size


def _opened(address: str, headers: dict[str, str], limits: Limits) -> HTTPResponse:
    """Ask the server, and where it sends on to: few times, to http and https alone, and never from https to http."""
    place = f"dataset.input_data_path: {shown(address)}"
    url, user = request_parts(address)
    for _ in range(limits.redirects + 1):
        answer = _answer(url, user, headers, limits, place)
        if not isinstance(answer, str):
            return answer
        target = _joined(url, answer)
        scheme, before = (one.partition("://")[0].lower() for one in (target, url))
        if problem(target) or (before == "https" and scheme == "http"):
            raise DataError(f"{place}: the server sends on from {before} to {scheme[:20]!r}, which is not followed")
        url, user = request_parts(target)[0], ""  # what the first server may know is no other's business
    raise DataError(f"{place}: more than {limits.redirects} redirects, the last to {shown(url)}")


def _joined(url: str, target: str) -> str:
    """Where a redirect leads, or an empty text where it is no address."""
    from urllib.parse import urljoin

    try:
        return urljoin(url, target)
    except ValueError:
        return ""


def _answer(url: str, user: str, headers: dict[str, str], limits: Limits, place: str) -> HTTPResponse | str:
    """What one server says: the file, or where it is. Anything else is an error, or a reason to ask again."""
    import ssl
    from http.client import HTTPException
    from urllib import error as wrong
    from urllib.request import Request

    asked = {"User-Agent": f"flowlab/{__version__}", "Accept-Encoding": "identity", **headers}
    if user:
        asked["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    silence = f"no answer within {limits.silence_s:g} s"
    try:
        response: HTTPResponse = _opener().open(Request(url, headers=asked), timeout=limits.silence_s)  # noqa: S310
        return response
    except wrong.HTTPError as error:
        error.close()
        return _no_file(error, bool(headers), place)
    except wrong.URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            raise _Broken(silence) from None
        text = _tls(reason) if isinstance(reason, ssl.SSLError) else _no_way(reason)
        raise DataError(f"{place}: {text}") from None
    except TimeoutError:
        raise _Broken(silence) from None
    except (HTTPException, ConnectionError, ValueError) as error:
        raise _Broken(f"the server gave no answer ({type(error).__name__})") from None


def _no_file(error: HTTPError, going_on: bool, place: str) -> str:
    """Where a redirect leads; everything else is raised."""
    target = error.headers.get("Location")
    if error.code in REDIRECTS and target:
        return str(target)
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and going_on:
        raise _WrongPart("the server has no such part")
    if error.code in TRANSIENT:
        raise _Broken(f"the server answered {_status(error.code)}")
    raise DataError(f"{place}: the server answered {_status(error.code)}. {_advice(error.code)}")


def _opener() -> OpenerDirector:
    """Speaks http and https, through a proxy where the environment names one, and no other scheme."""
    from urllib import request

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _validator(state: Path) -> str:
    """What the server called the content whose beginning is there; empty where it cannot be gone on with."""
    try:
        read = read_json(state.read_text(encoding="utf-8"))["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return read if isinstance(read, str) and read.isprintable() and read.isascii() else ""


def _no_archive(response: HTTPResponse, chunk: bytes) -> str:
    start = chunk[:512].lstrip().lower()
    if "html" in (response.headers.get("Content-Type") or "") or start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            "the server sent a web page instead of a zip archive. Is it the address of a page about the data, or is "
            "a login needed? Give the address of the file itself"
        )
    return "the server sent no zip archive. Recordings are downloaded as one .zip file"


def _too_large(size: int, limits: Limits) -> str:
    return f"{size:,} bytes or more, at most {limits.max_bytes:,} are downloaded"


def _status(code: int) -> str:
    try:
        return f"{code} ({HTTPStatus(code).phrase})"
    except ValueError:
        return str(code)


def _advice(code: int) -> str:
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return "Is it private? An address may hold https://${USER}:${PASSWORD}@host, read from the environment"
    if code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return "Nothing is there: correct the address, or download the data by hand and give the file's path"
    return "Download the data by hand and give the file's path"


def _tls(error: Any) -> str:
    reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
    return (
        f"no trusted connection ({reason}). Check the address and the clock; SSL_CERT_FILE names the certificates of "
        "a company's own authority"
    )


def _no_way(reason: Any) -> str:
    import socket

    if isinstance(reason, ConnectionRefusedError):
        return "the connection is refused. Is the address right, and the server up?"
    if isinstance(reason, socket.gaierror):
        return "there is no such host, or no network. What was downloaded before needs none"
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return f"no connection ({text[:120]})"
