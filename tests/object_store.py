"""An S3 server on 127.0.0.1, and what a process needs to use it: for tests of stores that machines share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "flowlab-tests"
SECRET = "verysecretkey"


def environment(endpoint: str) -> dict[str, str]:
    """Where the server is, and who asks, as every S3 client reads it."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def served(folder: Path, bucket: str = BUCKET) -> Iterator[str]:
    """Yield the endpoint of a server with one empty bucket; it ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "MOTO_SERVICE": "s3"},
        )
    try:
        _until_it_answers(port, process)
        client(endpoint).create_bucket(Bucket=bucket)
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=30)


def client(endpoint: str) -> Any:
    """A client of another kind than flowlab's, to look at what lies there."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="tester",
        aws_secret_access_key=SECRET,
    )


def keys(endpoint: str, prefix: str) -> list[str]:
    """All keys below a prefix, relative to it."""
    pages = client(endpoint).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    return [one["Key"].removeprefix(f"{prefix}/") for page in pages for one in page.get("Contents", ())]


def body(endpoint: str, key: str) -> bytes:
    found: bytes = client(endpoint).get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return found


def _until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the S3 server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the S3 server does not answer")


@contextmanager
def refusing() -> Iterator[str]:
    """Yield the endpoint of a server that knows nobody."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            words = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(words)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(words)

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *words: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
