"""What a plugin imports too early, found in a fresh interpreter: which heavy library, and where it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "torch", "numpy", "scipy", "pandas", "pyarrow", "sklearn", "matplotlib", "onnx", "onnxruntime", "fsspec", "prefect",
    "dask", "tensorflow", "pydantic",
)  # fmt: skip
TIMEOUT_S = 120
_SCRIPT = """
import json, sys
heavy, module = set(json.loads(sys.argv[1])), sys.argv[2]
sys.path[:0] = json.loads(sys.argv[3])
found = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in heavy and not any(one[0] == name for one in found):
            frame = sys._getframe(1)
            while frame and frame.f_code.co_filename.startswith("<frozen importlib"):
                frame = frame.f_back
            found.append([name, frame.f_code.co_filename if frame else "?", frame.f_lineno if frame else 0])
        return None

sys.meta_path.insert(0, Watch())
from flowlab.plugins import Announced, load_announced
catalogue = load_announced([Announced(module, module, module.partition(".")[0])])
print(json.dumps({"heavy": found, "broken": dict(catalogue.broken), "brings": len(catalogue.brought)}))
"""


def heavy_imports(module: str) -> list[str]:
    """Sentences about heavy libraries that are imported when a plugin module is loaded and asked what it brings.

    Raises:
        AssertionError: where the module cannot be loaded at all.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SCRIPT, json.dumps(HEAVY), module, json.dumps(sys.path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"plugin module '{module}' cannot be loaded: {done.stderr.strip()[-500:]}"
    found = json.loads(done.stdout)
    assert not found["broken"], f"plugin module '{module}': {'; '.join(found['broken'].values())}"
    assert found["brings"], f"{module} brings nothing: is every hook marked with @hookimpl?"
    return [f"{name} in {file}, line {line}" for name, file, line in found["heavy"]]
