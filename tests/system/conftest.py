"""What several system tests ask for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flowlab.cpu import host_compiler

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compiler() -> host_compiler.HostCompiler:
    """A C compiler of this machine; `make` installs one where PATH has none."""
    found = host_compiler.find()
    if found is None:
        pytest.skip("no C compiler on PATH")
    return found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """flowlab's wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel_bin(wheel: Path) -> Path:
    """The commands of an environment in which flowlab comes from its wheel, its dependencies from the test's own."""
    folder = wheel.parent
    home = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel)], check=True)
    site = next((home / "lib").glob("python*/site-packages"))
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(own) + "\n")
    script = home / "bin" / "prefect"
    script.write_text(f"#!{home / 'bin' / 'python'}\nimport sys\nfrom prefect.cli import app\nsys.exit(app())\n")
    script.chmod(0o755)
    return home / "bin"
