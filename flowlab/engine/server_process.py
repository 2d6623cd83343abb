"""The temporary server's process: Prefect's own application on a socket that the parent opened.

``python -m flowlab.engine.server_process FD``; standard input is a pipe from the parent.
The kernel closes that pipe when the parent ends, even by ``kill -9``, and then this process ends too.
(Linux's parent-death signal would not do: it fires when the *thread* that started the process ends.)
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def end_with_parent() -> None:
    """Wait for the parent's end of the pipe to close, then end at once: SQLite's journal survives that."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


def main() -> None:
    """Serve Prefect's API on the inherited socket until stopped."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    listening = socket.socket(fileno=int(sys.argv[1]))

    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(ephemeral=True), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
