"""The report in a real browser: it is drawn, nothing overflows, nothing is fetched, nothing runs."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flowlab.report.page import render
from tests.report.conftest import CPU, LAYERS, PADDED, make_facts
from tests.report.test_elsewhere import STORY, elsewhere_facts

pytestmark = pytest.mark.system

# Added to a copy of the page: what the browser laid out, as text that --dump-dom shows.
PROBE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("section, .tile, .banner, figure, svg.chart")].filter(
    (one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.id || one.className);
  const charts = [...document.querySelectorAll("svg.chart")];
  const drawn = charts.filter((one) => one.getBoundingClientRect().height > 40).length;
  const state = [document.documentElement.scrollWidth <= innerWidth + 1, wide.join("+") || "none", drawn,
    performance.getEntriesByType("resource").length, document.querySelectorAll("section").length];
  document.title = "probe " + state.join(" ");
});
</script>
"""


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.fail("no chromium: apt-get install chromium")


def chromium(profile: Path, *words: str) -> str:
    quiet = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    done = subprocess.run(
        [browser(), *quiet.split(), "--disable-sync", "--no-first-run", f"--user-data-dir={profile}", *words],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A server that remembers what was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def page() -> str:
    facts = make_facts()
    placement = {**facts.placement, "layers": [*LAYERS, PADDED, CPU], "npu_share": 0.93}
    return render(replace(facts, placement=placement))


@pytest.mark.parametrize("width", [1280, 500, 400])
def test_the_page_is_laid_out_and_fetches_nothing(tmp_path: Path, width: int) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "report.html").write_text(page().replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    with served(site) as (address, asked):
        dom = chromium(tmp_path / "profile", f"--window-size={width},900", "--dump-dom", f"{address}/report.html")
    assert asked == ["/report.html"]
    found = re.search(r"<title>probe (\S+) (\S+) (\d+) (\d+) (\d+)</title>", dom)
    assert found is not None, dom[:2000]
    fits, too_wide, drawn, fetched, sections = found.groups()
    assert (fits, too_wide) == ("true", "none")
    assert int(drawn) == 8  # two trainings, one curve against the rest, two windows with their features, the arena
    assert int(fetched) == 0
    assert int(sections) == 9


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_network_from_elsewhere_is_laid_out(tmp_path: Path, width: int) -> None:
    site = tmp_path / "site"
    site.mkdir()
    shown = render(elsewhere_facts(make_facts(), STORY))
    (site / "report.html").write_text(shown.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    with served(site) as (address, asked):
        dom = chromium(tmp_path / "profile", f"--window-size={width},900", "--dump-dom", f"{address}/report.html")
    assert asked == ["/report.html"]
    found = re.search(r"<title>probe (\S+) (\S+) (\d+) (\d+) (\d+)</title>", dom)
    assert found is not None, dom[:2000]
    assert found.groups() == ("true", "none", "1", "0", "6")  # the arena is drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn_in_light_and_dark(tmp_path: Path, scheme: str) -> None:
    source, picture = tmp_path / "report.html", tmp_path / "report.png"
    source.write_text(page(), encoding="utf-8")
    words = ["--force-dark-mode"] if scheme == "dark" else []
    chromium(tmp_path / "profile", *words, "--window-size=1200,2400", f"--screenshot={picture}", source.as_uri())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 60_000  # an empty page of this size has under 20 kB
