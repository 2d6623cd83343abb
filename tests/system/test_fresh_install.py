"""A newcomer's fresh environment: `pip install .`, and the command is there."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


def test_the_wheel_holds_the_core_and_its_plugins_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    bundled = {"flowlab_signal", "flowlab_zoo", "flowlab_generic", "flowlab_tinpu", "flowlab_cores"}
    assert {name for name in top if not name.endswith(".dist-info")} == {"flowlab", *bundled}


def test_the_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """The dependencies come from the test's own environment; flowlab itself only from the wheel."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = home / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", str(wheel)],
        check=True,
    )
    site = next((home / "lib").glob("python*/site-packages"))
    own = [path for path in sys.path if path.endswith("site-packages")]
    # dependencies only: the test environment's editable hook for flowlab is a .pth file, which a plain path never runs
    (site / "dependencies.pth").write_text("\n".join(own) + "\n")
    done = subprocess.run(
        [home / "bin" / "flowlab", "plugins"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "flowlab_tinpu" in done.stdout
    where = subprocess.run(
        [python, "-c", "import flowlab; print(flowlab.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(home) in where.stdout
