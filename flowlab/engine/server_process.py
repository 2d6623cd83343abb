"""A server's process: Prefect's own application on a socket that the parent opened.

``python -m flowlab.engine.server_process temporary|up FD HOME``.
The temporary server's standard input is a pipe from the parent.
The kernel closes that pipe when the parent ends, even by ``kill -9``, and then this process ends too.
(Linux's parent-death signal would not do: it fires when the *thread* that started the process ends.)
The server of `flowlab up` stays until it is stopped.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading
from pathlib import Path

GRACE_S = 3  # for connections that stay open, as a dashboard's do


def end_with_parent() -> None:
    """Wait for the parent's end of the pipe to close, then end at once: SQLite's journal survives that."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


def main() -> None:
    """Serve Prefect's API on the inherited socket until stopped."""
    kind, number, home = sys.argv[1:]
    if kind == "temporary":
        threading.Thread(target=end_with_parent, daemon=True).start()
    listening = socket.socket(fileno=int(number))

    import uvicorn
    from prefect.server.api.server import create_app

    # Two servers that make one database at the same time would trip over each other.
    turn = os.open(Path(home) / "starting.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(turn, fcntl.LOCK_EX)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            os.close(turn)

    application = create_app(ephemeral=kind == "temporary", final=True)
    config = uvicorn.Config(
        application,
        log_level="error" if kind == "temporary" else "warning",
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
    )
    Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
