"""A network of the user's own code: a module that is imported because its name was given, with weights of a file.

The named module is imported and called, as Python runs any script that one names; of the weights' file nothing runs,
since torch reads it with ``weights_only=True``.
"""

from __future__ import annotations

import importlib
import io
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowlab.errors import ConfigError, DataError, did_you_mean

MOST_BYTES = 1 << 28  # of a file's members, unpacked
NAMED = 6  # entries of a state dict that a message names
HOW = "Give package.module:name, where name is a class or a function without arguments that gives an nn.Module"


def own_module(name: str, weights: bytes, path: Path) -> nn.Module:
    """The module that ``package.module:name`` makes, with the state dict of a file, in eval mode.

    Raises:
        ConfigError: where the name leads to nothing, raises, or gives no module.
        DataError: naming the file, where it is no state dict, or one of another module.
    """
    state = read_state(weights, path)
    module = made(name)
    _fit(module, state, name, path)
    return module.eval()


def made(name: str) -> nn.Module:
    """What the named class or function gives; modules beside the current folder are found, as by ``python -m``.

    Raises:
        ConfigError: as `own_module`.
    """
    place, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in (*place.split("."), *attribute.split("."))):
        raise ConfigError(f"--module {name}: is no name of that kind. {HOW}")
    with _current_folder_first():
        try:
            found: Any = importlib.import_module(place)
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise ConfigError(f"--module {name}: {place} cannot be imported: {_said(error)}{_line(error)}") from error
        for part in attribute.split("."):
            if not hasattr(found, part):
                hint = did_you_mean(part, [one for one in dir(found) if not one.startswith("_")])
                raise ConfigError(f"--module {name}: {place} has no '{part}'.{hint} {HOW}")
            found = getattr(found, part)
        if not isinstance(found, nn.Module):
            found = _called(found, name)
    if not isinstance(found, nn.Module):
        raise ConfigError(f"--module {name}: gives {type(found).__name__}, not an nn.Module. {HOW}")
    return found


def _called(factory: Any, name: str) -> Any:
    if not callable(factory):
        raise ConfigError(f"--module {name}: is {type(factory).__name__}, which cannot be called. {HOW}")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"--module {name}: it is called without arguments, and raises {_said(error)}{_line(error)}. "
            "Write a function that gives them"
        ) from error


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _said(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _line(error: BaseException) -> str:
    """The last line of the user's own that stood behind an error; none where import itself found nothing."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename not in (__file__, importlib.__file__) and not code.co_filename.startswith("<frozen"):
            found = f" ({Path(code.co_filename).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


# --- weights ----------------------------------------------------------------------------------------


def read_state(data: bytes, path: Path) -> Mapping[str, Tensor]:
    """The tensors of a state dict, or of the only one in a checkpoint; nothing in the file can run.

    Raises:
        DataError: naming the file and what to save instead.
    """
    how = "Give what torch.save(module.state_dict(), path) writes"
    if _unpacked(data) > MOST_BYTES:
        raise DataError(f"{path}: unpacks to more than {MOST_BYTES >> 20} MB; that is no network for a microcontroller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on archives of another kind, which are refused below
            found = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # noqa: BLE001 - torch, zipfile and pickle have many kinds, all of them about the file
        objects = "Unsupported global" in str(error)
        said = _said(error).partition(". ")[0].rstrip(".")
        why = "holds Python objects, which are not loaded" if objects else f"torch cannot read it: {said}"
        raise DataError(f"{path}: {why}. {how}") from None
    inner = [one for one in found.values() if _is_state(one)] if isinstance(found, Mapping) else []
    if not _is_state(found) and len(inner) == 1:  # a checkpoint: the state dict beside an optimizer's and numbers
        found = inner[0]
    if not _is_state(found):
        raise DataError(f"{path}: holds no state dict but {_kinds(found)}. {how}")
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _unpacked(data: bytes) -> int:
    """Bytes of all members of a zip as it states them; 0 of anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return sum(one.file_size for one in archive.infolist())
    except Exception:  # noqa: BLE001 - whatever is wrong with it, torch says
        return 0


def _is_state(value: object) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    tensors = [isinstance(one, Tensor) for one in value.values()]
    return all(isinstance(key, str) for key in value) and all(tensors)


def _kinds(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {_named(list(map(str, value)))}" if value else "an empty dict"
    return type(value).__name__


def _fit(module: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load the weights, all of them and no others."""
    own = module.state_dict()
    missing, more = [key for key in own if key not in state], [key for key in state if key not in own]
    problems = [f"lacks {_named(missing)}"] if missing else []
    problems += [f"has {_named(more)}, which the module has not"] if more else []
    problems += [
        f"'{key}' has shape {tuple(state[key].shape)}, the module's {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ][:NAMED]
    if problems:
        raise DataError(f"{path}: is the state dict of another module than {name}: {'; '.join(problems)}")
    try:
        module.load_state_dict(dict(state))
    except Exception as error:  # noqa: BLE001 - a module may load in its own way
        raise DataError(f"{path}: {name} does not take it: {_said(error)}") from None


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(f"'{key}'" for key in keys[:NAMED]) + more
