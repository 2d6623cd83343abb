"""What several system tests ask for."""

from __future__ import annotations

import pytest

from flowlab.cpu import host_compiler


@pytest.fixture
def compiler() -> host_compiler.HostCompiler:
    """A C compiler of this machine; `make` installs one where PATH has none."""
    found = host_compiler.find()
    if found is None:
        pytest.skip("no C compiler on PATH")
    return found
