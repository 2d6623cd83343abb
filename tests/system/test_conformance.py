"""The conformance suite on devices with every execution that is here: compilers, emulated cores, processes."""

from __future__ import annotations

import pytest

from flowlab import testing
from flowlab.plugins import load

pytestmark = pytest.mark.system


@pytest.mark.parametrize("name", ["F28P55", "MSPM0G5187", "host"])
def test_every_execution_of_a_device_gives_the_integers_of_the_graph(name: str) -> None:
    target = load().get("target", name)
    checked = testing.check_target(target, 18)  # type: ignore[arg-type]
    assert checked.networks == 18 * len(target.formats)  # type: ignore[attr-defined]
    assert checked.executions.get("host C", "ran") == "ran"


@pytest.mark.parametrize("name", ["generic_qat", "tinpu_qat"])
def test_quantizers_that_train_conform_in_every_width(name: str) -> None:
    catalogue = load()
    quantizer = catalogue.get("quantizer", name)
    device = catalogue.get("target", "F28P55")
    found = testing.check_quantizer(quantizer, device.formats[quantizer.format])  # type: ignore[arg-type, attr-defined]
    assert set(found) == {8, 4, 2}
