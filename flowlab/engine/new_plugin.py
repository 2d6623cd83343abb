"""`flowlab plugin new`: a package that installs and passes its own tests, from templates that ship with flowlab."""

from __future__ import annotations

import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from string import Template

from flowlab import __version__, contracts
from flowlab.errors import ConfigError, unknown_name

TEMPLATES = Path(__file__).parents[1] / "templates"
COMMON = "common"
END = ".txt"  # so that no tool takes a template for the language that it becomes
USAGE = "usage.txt"
KINDS = {
    "quantizer": "quantizer",
    "target": "target device",
    "extractor": "feature extractor",
    "stage": "pipeline stage",
}
"""What can be made, and how it is called in a sentence."""

NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
LONGEST_NAME = 60
TAKEN = ("Layer", "Rule", "Mapping", "Sequence", "Graph", "PostTraining", "QuantizationAware", "OptionError")


def new_plugin(kind: str, name: str, folder: Path) -> list[str]:
    """Write the package into ``folder / name``, wholly or not at all; returns what to do next, as lines.

    Raises:
        ConfigError: for a kind or name that cannot be, or where something of that name is there already.
    """
    if kind not in KINDS:
        raise ConfigError(unknown_name("kind of package", kind, KINDS))
    module = _module(name)
    if kind == "stage":
        _check_section(module)
    place = folder / name
    if place.exists() or place.is_symlink():
        raise ConfigError(f"{name}: is there already, and nothing is overwritten. Give another name, or move it away")
    texts = dict(_filled(kind, name, module))
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        _write(scratch / name, texts)
        (scratch / name).rename(place)  # fails on a folder that is not empty
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [
        f"wrote {len(texts)} files into {name}: a {KINDS[kind]} that works as it is. Next:",
        f"  pip install -e ./{name}",
        f"  flowlab plugin check {name}",
        f"  python -m pytest {name}/tests",
    ]


def _module(name: str) -> str:
    """The import package's name."""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"'{name}' is no name for a package: small letters, digits and single '-' or '_' between them, a letter "
            f"first, at most {LONGEST_NAME} characters; such as 'my-quantizer'"
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module) or module in sys.stdlib_module_names:
        raise ConfigError(f"'{name}' is a word or a module of Python itself. Give another name, such as 'my-{name}'")
    if find_spec(module) is not None:
        raise ConfigError(f"'{name}': a module '{module}' can be imported here already. Give another name")
    return module


def _check_section(name: str) -> None:
    """Refuse a section that flowlab has, or a key: an indented section and a key would be one."""
    from flowlab.config.sections import SECTIONS, keys
    from flowlab.config.unread import UNREAD_SECTIONS

    if name in {*SECTIONS, *UNREAD_SECTIONS, *(key for section in SECTIONS for key in keys(section))}:
        raise ConfigError(f"'{name}' is a section or a key of a config already. Give another name, such as 'my-{name}'")


def _filled(kind: str, name: str, module: str) -> Iterator[tuple[str, str]]:
    """The package's files by their place, with every name filled in."""
    release, next_release = _releases()
    words = {
        "name": name,
        "module": module,
        "Class": _class(module),
        "spoken": KINDS[kind],
        "release": release,
        "next_release": next_release,
    }
    words["usage"] = Template(_read(TEMPLATES / kind / USAGE)).substitute(words).rstrip("\n")
    for template in sorted([*(TEMPLATES / COMMON).iterdir(), *(TEMPLATES / kind).iterdir()]):
        if template.name.endswith(END) and template.name != USAGE:
            yield _place(template.name.removesuffix(END), module), Template(_read(template)).substitute(words)


def _class(module: str) -> str:
    """The plugin's class; never a name that a template imports."""
    made = "".join(part.capitalize() for part in module.split("_"))
    return f"Own{made}" if hasattr(contracts, made) or made in TAKEN else made


def _place(name: str, module: str) -> str:
    """Where a file lies in the package."""
    if name.startswith("test_"):
        return f"tests/{name}"
    return f"{module}/{name}" if name.endswith(".py") else name


def _releases() -> tuple[str, str]:
    """This release, and the next one that may break a plugin: the package's own fence."""
    major, minor, *_ = __version__.split(".")
    return f"{major}.{minor}", f"{major}.{int(minor) + 1}"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
