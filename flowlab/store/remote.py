"""A remote file system under a store: an address that fsspec opens, and the few operations that a store asks of it.

One PUT is whole or not there, and nothing is renamed. `RemoteFiles.create` never overwrites: of two writers one wins.
Who may do what is the driver's affair: credentials come from the environment or from fsspec's own configuration, and
stand in no address, record or message.
"""

from __future__ import annotations

import inspect
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowlab.config.address import holds_secret, shown
from flowlab.errors import StoreError
from flowlab.faults import fault_point

EXTRAS = {"s3": "s3", "s3a": "s3"}  # which extra of ours brings a scheme's driver
READ_ONLY = ("http", "https")
ATTEMPTS = 5  # of a PUT that met another of the same name in flight
PAUSE_S = 0.2
IN_FLIGHT = "ConditionalRequestConflict"
TAKEN = "PreconditionFailed"
NO_BUCKET = "NoSuchBucket"
ADDRESS = re.compile(r"[\w+.-]+://[^\s\"'<>]+")
LONGEST = 300  # characters of a driver's own words
CREDENTIALS = (
    "Credentials come from the environment (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
    "AWS_ENDPOINT_URL) or from fsspec's configuration"
)


def checked(address: str) -> str:
    """The address of a store, without a slash at its end.

    Raises:
        StoreError: where it holds a secret, or names no place.
    """
    scheme, _, place = address.rstrip("/").partition("://")
    seen = shown(address)
    if holds_secret(address) or "?" in address or "#" in address or "@" in place.partition("/")[0]:
        raise StoreError(f"store {seen}: an address of a store holds no user, key or query. {CREDENTIALS}")
    if not scheme or not place or not address.isprintable():
        raise StoreError(f"store {seen}: it names no place, as s3://bucket/prefix does")
    return address.rstrip("/")


class RemoteFiles:
    """The files below an address. Paths are relative to it, with ``/``; see `flowlab.store.files.Files`.

    Every operation raises `StoreError` where the file system cannot be used: a missing driver, nobody who answers,
    no permission, no bucket. That a file is not there is a FileNotFoundError, as everywhere.
    """

    def __init__(self, address: str) -> None:
        self.address = checked(address)
        self._opened: tuple[Any, str] | None = None
        self._opening = threading.Lock()

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        with self._asked("read") as (system, root):
            data: bytes = system.cat_file(f"{root}/{path}")
            return data

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._asked("write") as (system, root):
            system.pipe_file(f"{root}/{path}", data)

    def create(self, path: str, data: bytes, fault: str = "") -> bool:
        """Write a file, whole or not at all, unless it exists; False if it does. ``fault`` is met before."""
        if fault:
            fault_point(fault)
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE_S * attempt)
            with self._asked("write") as (system, root):
                try:
                    system.pipe_file(f"{root}/{path}", data, mode="create")
                    return True
                except FileExistsError:
                    return False
                except OSError as error:
                    if _code(error) == TAKEN:
                        return False
                    if _code(error) != IN_FLIGHT or attempt + 1 == ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def move_aside(self, path: str) -> None:
        """Take a file that cannot be trusted out of the way, and keep it in ``aside/`` for people to look at."""
        with self._asked("write") as (system, root):
            name = path.rpartition("/")[2]
            try:
                system.cp_file(f"{root}/{path}", f"{root}/aside/{name}.{secrets.token_hex(4)}")
                system.rm_file(f"{root}/{path}")
            except FileNotFoundError as error:
                if _code(error) == NO_BUCKET:
                    raise

    def put(self, local: Path, path: str) -> None:
        """Upload a file of this machine, whole or not at all."""
        with self._asked("write") as (system, root):
            system.put_file(str(local), f"{root}/{path}")

    def get(self, path: str, local: Path) -> None:
        """Download a file. Raises FileNotFoundError."""
        with self._asked("read") as (system, root):
            system.get_file(f"{root}/{path}", str(local))

    def size(self, path: str) -> int | None:
        """The size of a file in bytes, or None where there is none."""
        with self._asked("read") as (system, root):
            try:
                found = system.info(f"{root}/{path}")
            except FileNotFoundError as error:
                if _code(error) == NO_BUCKET:
                    raise
                return None
            return int(found["size"]) if found["type"] == "file" else None

    def names(self, folder: str) -> list[str]:
        """The names of files and folders in a folder, sorted; none where it is not there."""
        with self._asked("list") as (system, root):
            try:
                found = system.ls(f"{root}/{folder}", detail=False)
            except FileNotFoundError as error:
                if _code(error) == NO_BUCKET:
                    raise
                return []
        return sorted({str(one).rstrip("/").rpartition("/")[2] for one in found})

    @contextmanager
    def _asked(self, what: str) -> Iterator[tuple[Any, str]]:
        """Yield the file system and the root in it; word what it refuses."""
        opened = self._open()
        try:
            yield opened
        except FileNotFoundError as error:
            if _code(error) == NO_BUCKET:
                bucket = self.address.partition("://")[2].partition("/")[0]
                raise StoreError(
                    f"store {self.address}: there is no bucket '{bucket}'. Make it, or correct --store"
                ) from None
            raise
        except PermissionError as error:
            raise StoreError(f"store {self.address}: no permission to {what}: {_words(error)}. {CREDENTIALS}") from None
        except (StoreError, AssertionError):
            raise
        except Exception as error:  # noqa: BLE001 - every driver has exceptions of its own
            raise StoreError(f"store {self.address}: {_refusal(error)}") from None

    def _open(self) -> tuple[Any, str]:
        with self._opening:
            if self._opened is None:
                self._opened = _opened(self.address)
            return self._opened


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    scheme = address.partition("://")[0]
    try:
        import fsspec

        # A listing that is remembered would hide what others write.
        system, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError:
        extra = EXTRAS.get(scheme)
        cure = f"Write: pip install 'flowlab[{extra}]'" if extra else f"Install what fsspec needs for {scheme}://"
        raise StoreError(f"store {address}: its driver is not installed here. {cure}") from None
    except ValueError:  # of a scheme that fsspec does not know
        raise StoreError(f"store {address}: nothing here opens {scheme}://; known is, for example, s3://") from None
    except Exception as error:  # noqa: BLE001 - every driver has exceptions of its own
        raise StoreError(f"store {address}: {_refusal(error)}") from None
    if scheme in READ_ONLY or not _creates(system):
        raise StoreError(
            f"store {address}: {scheme}:// cannot write a file whole, and only where none is, as a store of several "
            "machines must. Use an object store, as s3://bucket/prefix, or name a folder"
        )
    return system, str(root).rstrip("/")


def _creates(system: Any) -> bool:
    """Whether the driver has a write of its own that is whole and refuses to overwrite."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    is_async = isinstance(system, AsyncFileSystem)
    base = AsyncFileSystem._pipe_file if is_async else AbstractFileSystem.pipe_file
    own = type(system)._pipe_file if is_async else type(system).pipe_file
    return own is not base and "mode" in inspect.signature(own).parameters


def _code(error: BaseException) -> str:
    """What an S3 server calls the error, or an empty text."""
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code or "")


def _refusal(error: Exception) -> str:
    kind = type(error).__name__
    if "Credentials" in kind or "TokenRetrieval" in kind:
        return f"no credentials were found. {CREDENTIALS}"
    if isinstance(error, (ConnectionError, TimeoutError)) or "Connect" in kind or "Timeout" in kind:
        return f"nobody answers ({_words(error)}). Look at the network and the endpoint; what is finished is kept"
    return f"{kind}: {_words(error)}"


def _words(error: BaseException) -> str:
    """A driver's own words, on one line and without secrets in addresses."""
    text = " ".join(str(error.args[-1] if isinstance(error, OSError) and error.args else error).split())
    return ADDRESS.sub(lambda found: shown(found[0]), text).rstrip(".")[:LONGEST] or type(error).__name__
