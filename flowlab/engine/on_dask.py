"""Stages on the workers of a Dask cluster: ``--runner dask://host:port``, or ``dask://`` for one on this machine.

A runner takes the place of `flowlab.engine.execute.execute`, so every engine can have one: Prefect's tasks stay in the
driver and wait. Workers get a job in JSON (`flowlab.engine.far_stage`) and need no way to Prefect's API, which is on
127.0.0.1 where nobody says otherwise, nor its password. (Prefect's own runner for Dask sends its settings with every
task, and has the workers report to the API.)

A worker that dies in the middle costs the stage that it was at: Dask gives that to another one.
Importing this module imports nothing heavy: workers import it too.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from flowlab.contracts import Progress
from flowlab.engine.execute import fingerprint_of, lookup
from flowlab.engine.far_stage import job_of, result_of
from flowlab.engine.local import Execute, Prepared
from flowlab.engine.source import RoleFiles
from flowlab.errors import ConfigError, StageError
from flowlab.plan import Node
from flowlab.store.objects import DamagedObject
from flowlab.store.records import Record
from flowlab.store.store import Store

SCHEME = "dask://"
PORT = 8786  # Dask's own default
CONNECT_S = 15
WORKERS_S = 60  # a cluster of this machine starts in less
LOOK_S = 0.2
MOST_WORKERS = 4  # of a cluster on this machine: each may hold a training
TOLD_S = 0.5  # so often a worker says how far a stage is
MODULE = "flowlab.engine.far_stage"


def scheduler(runner: str) -> str | None:
    """The address of the scheduler as Dask writes it; None where a cluster on this machine is to be started.

    Raises:
        ConfigError: for what is no address of a runner.
    """
    place = runner.removeprefix(SCHEME)
    host, _, port = place.rpartition(":") if ":" in place else (place, "", str(PORT))
    if not runner.startswith(SCHEME) or (place and not (host and port.isdecimal())) or "@" in place or "/" in place:
        raise ConfigError(
            "--runner: write dask://HOST:PORT for the scheduler of a cluster, or dask:// to start one on this machine"
        )
    return f"tcp://{host}:{port}" if place else None


def check(runner: str, store: Store) -> None:
    """Refuse, before anything starts, a runner that cannot work with this store.

    Raises:
        ConfigError: for no address, or for workers elsewhere that would not see the store.
    """
    if scheduler(runner) is not None and store.address is None:
        raise ConfigError(
            f"--runner {runner}: its workers do not see {store.root}. Name a store that they reach, "
            "as --store s3://bucket/prefix"
        )
    if (store.address or "").startswith("memory://"):
        raise ConfigError(f"--runner {runner}: a store in memory is of one process. Name a folder or a bucket")


@contextmanager
def running(runner: str, store: Store, said: Callable[[str], None]) -> Iterator[Callable[[Prepared], Execute]]:
    """Yield how a plan, or each of several, has its stages done on the cluster.

    Args:
        runner: from the command line.
        store: of all that is to be done.
        said: is told what takes its time.

    Raises:
        ConfigError: as `check` does, and where Dask is not installed.
        StageError: if no scheduler answers, or it has no workers.
    """
    check(runner, store)
    with _connected(runner, said) as client:
        yield lambda prepared: _Far(client, prepared, runner)


class _Far:
    """`execute`, on the workers of a cluster."""

    def __init__(self, client: Any, prepared: Prepared, runner: str) -> None:
        self._client = client
        self._prepared = prepared
        self._runner = runner

    def __call__(
        self, node: Node, inputs: Mapping[str, RoleFiles], store: Store, progress: Progress
    ) -> tuple[Record, bool]:
        """Look the result up here; have it made by a worker if it is not there."""
        record = lookup(node, inputs, store)
        if record is not None:
            return record, True
        fingerprint = fingerprint_of(node, inputs)
        job = json.dumps(job_of(self._prepared, node, inputs))
        try:
            return result_of(self._answer(node.name, fingerprint, job, progress), node, fingerprint)
        except DamagedObject as error:
            store.objects.forget(error.sha256)
            raise

    def _answer(self, stage: str, fingerprint: str, job: str, progress: Progress) -> str:
        topic = f"flowlab-{stage}-{fingerprint[:12]}-{uuid.uuid4().hex[:8]}"
        told: list[tuple[str, float]] = []
        ended = threading.Event()
        self._client.subscribe_topic(topic, lambda event: told.append(_progress(event)))
        future = self._client.submit(on_worker, job, topic, key=topic, pure=False)
        future.add_done_callback(lambda done: ended.set())
        try:
            while not ended.wait(LOOK_S):
                if told:
                    progress(*told[-1])
                    told.clear()
                if self._client.status not in ("running", "connecting"):
                    break
            return self._result(stage, future)
        finally:
            with suppress(Exception):  # the cluster may be gone
                future.cancel()
                self._client.unsubscribe_topic(topic)

    def _result(self, stage: str, future: Any) -> str:
        if future.status == "finished":
            return str(future.result())
        if future.status != "error":
            raise StageError(
                f"stage {stage}: the scheduler at {self._runner} is gone. What is finished is in the store: the next "
                "run goes on from there"
            )
        error = future.exception()
        kind = type(error).__name__
        if kind == "KilledWorker":
            raise StageError(
                f"stage {stage}: every worker that took it died. Look at the workers' logs and at their memory; "
                "what is finished is in the store"
            )
        raise StageError(f"stage {stage}: its worker cannot do it: {kind}: {error}. Install flowlab on every worker")


def on_worker(job: str, topic: str) -> str:
    """On a worker: do a job in a process of its own, which ends with this one; returns its answer."""
    answer = ""
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(f"{job}\n")
            process.stdin.flush()
        tell = _Teller(topic)
        for line in process.stdout:
            value = json.loads(line)
            if "progress" in value:
                tell(value["progress"])
            else:
                answer = line
        code = process.wait()
    finally:
        process.kill()
        process.communicate()
    if answer:
        return answer
    text = f"the process of the stage ended with {code} on {os.uname().nodename}. Look at that worker's log and memory"
    return json.dumps({"error": {"kind": "StageError", "text": text}})


class _Teller:
    """Sends now and then how far a stage is; the driver shows it."""

    def __init__(self, topic: str) -> None:
        from distributed import get_worker

        self._topic = topic
        self._worker = get_worker()
        self._last = 0.0

    def __call__(self, progress: Any) -> None:
        if time.monotonic() - self._last > TOLD_S:
            self._last = time.monotonic()
            self._worker.log_event(self._topic, progress)


def _progress(event: Any) -> tuple[str, float]:
    """What a worker told; an event is (time, message), with the worker's address around it."""
    message = event[1]
    what, fraction = message["msg"] if isinstance(message, dict) and "msg" in message else message
    return str(what), float(fraction)


@contextmanager
def _connected(runner: str, said: Callable[[str], None]) -> Iterator[Any]:
    """Yield a client of the cluster."""
    address = scheduler(runner)
    try:
        import distributed
    except ImportError:
        raise ConfigError(f"--runner {runner}: Dask is not installed. Write: pip install 'flowlab[dask]'") from None
    with _quiet():
        if address is None:
            count = max(1, min(MOST_WORKERS, os.cpu_count() or 1))
            said(f"Starting a Dask cluster with {count} workers on this machine.")
            with (
                distributed.LocalCluster(
                    n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
                ) as cluster,
                distributed.Client(cluster, set_as_default=False) as client,
            ):
                yield client
            return
        try:
            client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise StageError(
                f"--runner {runner}: no scheduler answers ({type(error).__name__}). Start one: dask scheduler"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=WORKERS_S)
            except (OSError, TimeoutError):
                raise StageError(
                    f"--runner {runner}: the scheduler has no workers. Start some: dask worker {address}"
                ) from None
            yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log lines off the terminal: an error is said once, by the command line."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
