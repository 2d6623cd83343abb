import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flowlab.contracts import RunEnded, RunStarted, StageEnded, StageStarted
from flowlab.plugins import WATCHING, load
from flowlab_webhook import plugin

STARTED = RunStarted("one", "demo", "small", "board", ("ingest", "train"))
ENDED = RunEnded("one", "demo", "Completed", 2.5, {"float": {"accuracy": 0.9}})


@pytest.fixture
def server(monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *words):
            pass

    got = []
    one = HTTPServer(("127.0.0.1", 0), Handler)
    one.got = got
    threading.Thread(target=one.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(plugin, "_given_up", set())
    yield one
    one.shutdown()
    one.server_close()


def address(server, path="/hook?token=s3cret"):
    return f"http://127.0.0.1:{server.server_port}{path}"


def test_the_package_watches_all_that_can_be_watched():
    catalogue = load()
    assert {one.hook for one in catalogue.watchers if one.distribution == "flowlab-webhook"} == set(WATCHING)
    assert "flowlab-webhook" not in catalogue.broken


def test_what_happens_is_posted_as_json(server, monkeypatch):
    monkeypatch.setenv(plugin.ADDRESS, address(server))
    plugin.flowlab_before_run(STARTED)
    plugin.flowlab_after_stage(StageEnded("one", "train", True, 0.1, "ab12", {"val": {"accuracy": 0.5}}, ("w",)))
    plugin.flowlab_after_run(ENDED)
    assert [one["event"] for one in server.got] == ["before_run", "after_stage", "after_run"]
    assert server.got[0]["stages"] == ["ingest", "train"]
    assert server.got[1]["metrics"] == {"val": {"accuracy": 0.5}}
    assert server.got[1]["cached"] is True


def test_without_an_address_nothing_is_sent(server, monkeypatch):
    monkeypatch.delenv(plugin.ADDRESS, raising=False)
    plugin.flowlab_before_run(STARTED)
    assert server.got == []


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("http://127.0.0.1:1/s3cret", "does not answer"),
        ("ftp://s3cret", "is no http or https address"),
        ("http://s3cret host", "s"),
    ],
)
def test_an_error_never_names_the_address_and_is_the_last_of_its_run(monkeypatch, where, reason):
    monkeypatch.setattr(plugin, "_given_up", set())
    monkeypatch.setenv(plugin.ADDRESS, where)
    with pytest.raises(RuntimeError, match=reason) as raised:
        plugin.flowlab_before_run(STARTED)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None
    plugin.flowlab_before_stage(StageStarted("one", "ingest"))  # silent: it was said
    with pytest.raises(RuntimeError):
        plugin.flowlab_before_stage(StageStarted("two", "ingest"))


def test_a_status_that_is_an_error_is_said(server, monkeypatch):
    monkeypatch.setenv(plugin.ADDRESS, address(server, "/broken"))
    with pytest.raises(RuntimeError, match="answers with status 500"):
        plugin.flowlab_before_run(STARTED)
