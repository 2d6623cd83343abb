"""A web server on 127.0.0.1 that gives one archive, well or badly."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def archive(seed: int = 0, classes: tuple[str, ...] = ("hum", "buzz"), files: int = 3, rows: int = 96) -> bytes:
    """A zip of recordings, a few kB."""
    import numpy as np

    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for number, label in enumerate(classes):
            for one in range(files):
                wave = np.sin(np.arange(rows) * (number + 1) / 5) + rng.normal(0, 0.1, rows)
                packed.writestr(f"classes/{label}/{one}.csv", "x\n" + "\n".join(f"{x:.6f}" for x in wave) + "\n")
    return out.getvalue()


@dataclass
class Served:
    """What the server does, and what it was asked."""

    data: bytes
    ranges: bool = True
    etag: str = '"one"'
    status: int = 200
    location: str = ""
    content_type: str = "application/zip"
    cut_at: int | None = None  # bytes after which a connection is cut
    cuts: int = 1 << 30  # how many times
    silent_s: threading.Event | None = None  # the server waits for it in the middle
    length: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(data: bytes, **how: object) -> Iterator[Served]:
    """Serve until the block ends."""
    served = Served(data, **how)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            served.asked.append((self.path, dict(self.headers)))
            if served.status != 200:
                self.send_response(served.status)
                if served.location:
                    self.send_header("Location", served.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._give()

        def _give(self) -> None:
            start = 0
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            same = self.headers.get("If-Range") in (None, served.etag)
            if found and served.ranges and same:
                start = int(found[1])
                if start >= len(served.data):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(served.data) - 1}/{len(served.data)}")
            else:
                self.send_response(200)
            if served.length:
                self.send_header("Content-Length", str(len(served.data) - start))
            if served.etag:
                self.send_header("ETag", served.etag)
            self.send_header("Content-Type", served.content_type)
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = served.data[start:]
            if served.cut_at is not None and served.cuts > 0:
                served.cuts -= 1
                self.wfile.write(body[: max(0, served.cut_at - start)])
                self.close_connection = True
                return
            if served.silent_s is not None:
                self.wfile.write(body[:10])
                self.wfile.flush()
                served.silent_s.wait(20)
                return
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}/data/tones.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        if served.silent_s is not None:
            served.silent_s.set()
        server.shutdown()
        server.server_close()
        thread.join()
