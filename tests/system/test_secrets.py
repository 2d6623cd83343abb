"""A secret that comes in by any door stays where it is used; nothing of ours is a pickle; servers are this machine's.

Every door is used in one project: addresses of data written out in the file, on the command line and as ``${NAME}``,
options of a plugin, the address of Prefect's API, a deployment and its worker, credentials in the environment.
Then every byte that the project holds is searched, packed and encoded ones too, and all that was printed.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import pickletools
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import prefect_project as prefect
from archive_server import Served, serving
from test_two_at_once import CONFIG, project

SECRETS = {  # by the environment's variable that holds it; each is one that no text has by chance
    "DATA_USER": "canary-user-7e1f",
    "DATA_PASSWORD": "canary%2Fpass%20word-91ab",
    "DATA_TOKEN": "canary-token-5c22d0",
    "CLOUD_TOKEN": "canary-option-a8813b",
    "HOOK": "canary-webhook-0d9e44",
    "AWS_ACCESS_KEY_ID": "CANARYKEYID4F2B",
    "AWS_SECRET_ACCESS_KEY": "canary-s3-secret-77f0aa",
    "WRITTEN_OUT": "canary-written-out-3b6c",
    "API_PASSWORD": "canary-api-password-e41c",
}
LIMIT_S = 300


def faces(secret: str) -> set[bytes]:
    """A secret as it may stand in a file: plain, in an address, in JSON, in a header."""
    plain = {secret, unquote(secret), quote(secret), quote(unquote(secret), safe="")}
    headers = {f"{user}:{unquote(secret)}" for user in ("me", SECRETS["DATA_USER"])}
    return {one.encode() for one in plain} | {
        base64.b64encode(one.encode()).rstrip(b"=") for one in {secret, unquote(secret), *headers}
    }


def found_in(content: bytes) -> list[str]:
    return [name for name, secret in SECRETS.items() if any(face in content for face in faces(secret))]


@dataclass
class Place:
    """A project in which every door was used."""

    folder: Path
    served: Served
    api: str = ""
    server: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def environment(self, **more: str) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        hooked = {
            "PYTHONPATH": str(Path(__file__).parent / "secret_options"),
            "SECRETS_LOG": str(self.folder / "seen"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        return {**outside, **hooked, **SECRETS, **more}

    def flowlab(self, *words: str, code: int = 0, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flowlab.cli", *words],
            cwd=self.folder,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        self.said.append(f"{' '.join(words[:2])}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def address(self, user: str, password: str, token: str) -> str:
        host = self.served.url.replace("//", f"//{user}:{password}@")
        return f"{host}?token={token}&part=1#{token}"

    def files(self) -> Iterator[Path]:
        return (path for path in self.artifacts.rglob("*") if path.is_file() and not path.is_symlink())

    def database(self) -> str:
        """All rows of Prefect's database as text: a page of SQLite may cut a text in two."""
        with closing(sqlite3.connect(f"file:{self.artifacts / '.prefect' / 'prefect.db'}?mode=ro", uri=True)) as found:
            return "\n".join(found.iterdump())


def packed(folder: Path) -> bytes:
    """The project's recordings as an archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted((folder / "data").rglob("*.csv")):
            archive.writestr(str(path.relative_to(folder / "data")), path.read_bytes())
    return out.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = project(tmp_path_factory.mktemp("doors"))
    quick = CONFIG.replace("training_epochs: 3", "training_epochs: 1").replace(
        "quantization: 2, quantization_epochs: 2", "quantizer: {name: generic_ptq, api_token: A, webhook: W}"
    )
    with serving(packed(folder)) as served:
        place = Place(folder, served)
        by_name = place.address("${DATA_USER}", "${DATA_PASSWORD}", "${DATA_TOKEN}")
        plain = place.address("me", quote(SECRETS["WRITTEN_OUT"]), SECRETS["WRITTEN_OUT"])
        named = quick.replace("W}", "'http://127.0.0.1:9/${HOOK}'}").replace(
            "api_token: A", "api_token: '${CLOUD_TOKEN}'"
        )
        written = quick.replace("W}", "'http://127.0.0.1:9/'}").replace(
            "api_token: A", f"api_token: {SECRETS['WRITTEN_OUT']}"
        )
        (folder / "named.yaml").write_text(named.replace("input_data_path: data", f"input_data_path: '{by_name}'"))
        (folder / "written.yaml").write_text(written.replace("input_data_path: data", f"input_data_path: '{plain}'"))
        place.flowlab("run", "written.yaml", "--engine", "local")
        place.flowlab("up", "--port", str(prefect.free_port()))
        status = json.loads(place.flowlab("status", "--json"))
        place.api, place.server = status["api"], status["pid"]
        try:
            through_prefect(place)
            on_the_command_line(place)
            by_deployment(place)
            yield place
        finally:
            place.flowlab("down")


def through_prefect(place: Place) -> None:
    place.flowlab("run", "named.yaml", "--json")
    named = place.api.replace("//", f"//me:{SECRETS['API_PASSWORD']}@")
    place.flowlab("run", "written.yaml", PREFECT_API_URL=named)
    place.flowlab("status", PREFECT_API_URL=named)
    gone = f"http://me:{SECRETS['API_PASSWORD']}@127.0.0.1:9/api"
    place.flowlab("run", "written.yaml", "--engine", "prefect", code=1, PREFECT_API_URL=gone)


def on_the_command_line(place: Place) -> None:
    key = "dataset.input_data_path"
    dead = f"http://me:{SECRETS['WRITTEN_OUT']}@127.0.0.1:9/x.zip?token={SECRETS['WRITTEN_OUT']}"
    place.flowlab("run", "named.yaml", "--set", f"{key}={dead}", code=2)
    place.flowlab("run", "named.yaml", "--set", f"{key}=ftp{dead[4:]}", code=2)
    place.flowlab("run", "written.yaml", "--set", f"training.quantizer.api_tokn={SECRETS['WRITTEN_OUT']}", code=2)
    place.flowlab("deploy", "written.yaml", code=2)
    for words in (
        ("plan", "named.yaml"),
        ("plan", "written.yaml"),
        ("why", "train", "written.yaml"),
        ("config", "show", "written.yaml"),
        ("config", "show", "named.yaml"),
        ("runs", "--json"),
        ("compare", "latest", "latest~1"),
        ("accuracy", "latest"),
    ):
        place.flowlab(*words)


def by_deployment(place: Place) -> None:
    place.flowlab("deploy", "named.yaml", "--set", "training.seed=1")
    log = place.folder / "worker.log"
    with log.open("w") as said:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "flowlab"],
            cwd=place.folder,
            env=place.environment(PREFECT_API_URL=place.api, PREFECT_HOME=str(place.artifacts / "worker")),
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        found = httpx.get(f"{place.api}/deployments/name/flowlab/on-demand", timeout=60).json()
        asked = {"state": {"type": "SCHEDULED"}}
        run = httpx.post(f"{place.api}/deployments/{found['id']}/create_flow_run", json=asked, timeout=60).json()
        deadline = time.monotonic() + LIMIT_S
        while (
            state := httpx.get(f"{place.api}/flow_runs/{run['id']}", timeout=60).json()["state_type"]
        ) != "COMPLETED":
            assert state not in ("FAILED", "CRASHED") and time.monotonic() < deadline, (state, log.read_text())
            time.sleep(0.5)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=60)
    place.said.append(f"worker\n{log.read_text()}")


def test_the_secrets_did_come_through_the_doors(place: Place) -> None:
    """Or nothing could be found."""
    seen = (place.folder / "seen").read_text().split("\n")
    assert {SECRETS["CLOUD_TOKEN"], SECRETS["WRITTEN_OUT"], f"http://127.0.0.1:9/{SECRETS['HOOK']}"} <= set(seen)
    tokens = {path.partition("token=")[2].partition("&")[0] for path, _ in place.served.asked}
    assert tokens == {SECRETS["WRITTEN_OUT"], SECRETS["DATA_TOKEN"]}
    users = {base64.b64decode(headers["Authorization"].split()[1]).decode() for _, headers in place.served.asked}
    assert users == {f"me:{SECRETS['WRITTEN_OUT']}", f"{SECRETS['DATA_USER']}:{unquote(SECRETS['DATA_PASSWORD'])}"}
    assert found_in(place.served.asked[0][0].encode()) == ["WRITTEN_OUT"]


def inside(content: bytes) -> Iterator[bytes]:
    """A file's bytes, and those that are packed in it."""
    yield content
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from inside(archive.read(name))


def test_no_file_of_the_project_holds_a_secret(place: Place) -> None:
    assert len(list(place.files())) > 100
    held = {}
    for path in place.files():
        parts = (str(path).encode(), *inside(path.read_bytes()))
        if found := sorted({one for part in parts for one in found_in(part)}):
            held[str(path.relative_to(place.artifacts))] = found
    assert held == {}


def test_nothing_that_prefect_knows_holds_a_secret(place: Place) -> None:
    rows = place.database()
    assert "named.yaml" in rows or "generic_ptq" in rows
    assert found_in(rows.encode()) == []
    parameters = [one["parameters"] for one in prefect.asked(place.api, "flow_runs")]
    assert any("${CLOUD_TOKEN}" in json.dumps(one) for one in parameters)


def test_nothing_that_was_said_holds_a_secret(place: Place) -> None:
    assert len(place.said) >= 17
    assert {text.partition("\n")[0]: found for text in place.said if (found := found_in(text.encode()))} == {}


def is_pickle(content: bytes) -> bool:
    """Whether all of it is a pickle, of any protocol."""
    stream = io.BytesIO(content)
    try:
        for _, _, _ in pickletools.genops(stream):
            pass
    except Exception:  # whatever it is, it is no pickle
        return content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return stream.read(1) == b""


def test_no_file_is_a_pickle_and_what_torch_wrote_loads_as_weights(place: Place) -> None:
    weights = 0
    for path in place.files():
        content = path.read_bytes()
        assert not is_pickle(content), path
        if not zipfile.is_zipfile(io.BytesIO(content)):
            continue
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if any(name.rpartition("/")[2] == "data.pkl" for name in names):
                torch.load(io.BytesIO(content), weights_only=True)
                weights += 1
                continue
            for name in names:
                assert not is_pickle(archive.read(name)), (path, name)
                if name.endswith(".npy"):
                    np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
    assert weights >= 2


def test_what_is_no_pickle_is_told_from_one() -> None:
    import pickle

    assert all(is_pickle(pickle.dumps({"a": 1}, protocol)) for protocol in range(6))
    assert not any(map(is_pickle, (b"", b"{}", b"PK\x03\x04", b"epoch 1\n", b"\x93NUMPY")))


def test_records_and_runs_are_json(place: Place) -> None:
    found = [*(place.artifacts / ".store").glob("r*/*/*.json")]
    assert len(found) > 18
    assert all(isinstance(json.loads(path.read_text()), dict) for path in found)


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    links = []
    for one in (Path("/proc") / str(pid) / "fd").iterdir():
        try:
            links.append(str(one.readlink()))
        except OSError:
            continue
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def test_the_server_listens_and_speaks_on_this_machine_only_and_tells_nobody(place: Place) -> None:
    mine, listening, others = sockets_of(place.server), set(), set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc") / str(place.server) / "net" / table).read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            if rest[5] in mine:
                (listening if state == "0A" else others).add(local if state == "0A" else remote)
    assert {one.partition(":")[0] for one in listening} == {"0100007F"}, "127.0.0.1"
    assert {one.partition(":")[0] for one in others} <= {"0100007F"}
    settings: Any = httpx.get(f"{place.api}/admin/settings", timeout=60).json()
    assert settings["server"]["analytics_enabled"] is False
    environment = (Path("/proc") / str(place.server) / "environ").read_bytes().split(b"\0")
    assert {b"DO_NOT_TRACK=1", b"PREFECT_SERVER_ANALYTICS_ENABLED=false"} <= set(environment)
