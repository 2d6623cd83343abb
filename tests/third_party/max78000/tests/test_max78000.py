"""The target against flowlab's conformance suite, and its own limits."""

from dataclasses import replace

import numpy as np
import pytest
from flowlab_max78000.plugin import CortexM4, PostTraining, Small
from flowlab_max78000.program import pack, unpack
from flowlab_max78000.simulator import simulate
from flowlab_max78000.target import FORMAT, Max78000, Simulator

from flowlab import testing
from flowlab.contracts import Outcome
from flowlab.errors import ProgramError


class InProcess(Simulator):
    """The same machine in this process."""

    def run(self, program, features, scratch):
        found = simulate(program["model.m78"].read_bytes(), features)
        kinds = {kind: {} for kind in ("output", "crc")}
        for name, value in found.items():
            kinds[name.partition("/")[0]][name.partition("/")[2]] = value
        return Outcome(kinds["output"], kinds["crc"])


class Here(Max78000):
    def executions(self):
        return (InProcess(),)


def test_the_package_is_sound_and_light():
    names = {item.name for item in testing.check_package("flowlab_max78000.plugin")}
    assert names == {"MAX78000", "max78000-m4", "max78000_ptq", "max78000_qat", "CLS_max78000"}
    testing.check_plugin_is_light("flowlab_max78000.plugin")


def test_the_machine_gives_the_integers_of_the_graph():
    checked = testing.check_target(Here(), 28, core=CortexM4())
    assert set(checked.refused) == {"DWCONV", "AVGPOOL"}  # which the machine lacks
    assert checked.layers["GCONV npu"] and checked.layers["FC npu"] and checked.layers["MAXPOOL npu"]
    assert all(checked.met[kind] for kind in ("tie", "negative tie", "saturation below", "saturation above"))


def test_so_it_does_in_a_process_of_its_own():
    assert testing.check_target(Max78000(), 2, core=CortexM4()).executions == {"simulator": "ran"}


@pytest.mark.parametrize("mistake", ["floor", "clip"])
def test_a_machine_that_rounds_or_saturates_otherwise_is_found(mistake, monkeypatch):
    from flowlab_max78000 import simulator

    right = simulator._requantize

    def wrong(layer, total):
        if mistake == "floor" and layer.shift > 0:
            half = 1 << layer.shift >> 1
            return right(layer, total - half)
        return right(replace(layer, high=layer.high - 1) if mistake == "clip" else layer, total)

    monkeypatch.setitem(simulator.RUN, "conv", simulator._conv)
    monkeypatch.setattr(simulator, "_requantize", wrong)
    with pytest.raises(AssertionError, match="it rounds 'floor'" if mistake == "floor" else "differ on network"):
        testing.check_target(Here(), 14, core=CortexM4())


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_flowlabs_quantizer_obeys_the_number_format(bits):
    testing.check_quantizer(PostTraining(), FORMAT, widths=(bits,))


def test_the_model_is_sound():
    testing.check_model(Small(), (1, 256, 1), 6)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_packed_weights_come_back(bits):
    most = 2 ** (bits - 1)
    weight = np.random.default_rng(0).integers(-most, most, 37).astype(np.int8)
    data = pack(weight, bits)
    assert len(data) == -(-37 * bits // 8)
    assert (unpack(np.frombuffer(data, np.uint8), bits, 37) == weight).all()


def test_a_flipped_byte_is_found():
    from flowlab_max78000.program import Layer, decode, encode

    data = encode((1, 4, 1), "output", [Layer("pool", "p")])
    with pytest.raises(ProgramError, match="damaged"):
        decode(data[:-1] + bytes([data[-1] ^ 1]))
