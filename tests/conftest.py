"""What every test shares: warnings are errors (pyproject), seeds are fixed, and nothing is skipped in silence."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

collect_ignore_glob = ["third_party/*"]  # their own suites run where they are installed

settings.register_profile(
    "flowlab",
    deadline=None,  # the machine is shared: a slow example is not a wrong one
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("flowlab")


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own environment must not decide a test."""
    for name in list(os.environ):
        if name.startswith("FLOWLAB_") and name not in {"FLOWLAB_SHARED", "FLOWLAB_REQUIRE_ALL", "FLOWLAB_SLOW"}:
            monkeypatch.delenv(name)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def shared_folder() -> Path:
    """The folder with real recordings and the chapter's examples, beside the project unless FLOWLAB_SHARED says."""
    return Path(os.environ.get("FLOWLAB_SHARED", ROOT.parent / "shared"))


@pytest.fixture
def shared() -> Path:
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name} with real recordings (FLOWLAB_SHARED)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with what did not run, and why."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        longrepr = report.longrepr
        reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} not run: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where everything must run (FLOWLAB_REQUIRE_ALL), a test that did not is a failure."""
    if os.environ.get("FLOWLAB_REQUIRE_ALL") != "1":
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
