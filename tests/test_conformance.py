"""The conformance suite for authors: our own plugins pass it, and each mutant of them fails it for the right reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlab import testing
from flowlab.compiler.number_format import GENERIC
from flowlab.compiler.rules import Layer, Rule, rule
from flowlab.conformance.networks import KINDS, drawn
from flowlab.conformance.programs import SITUATIONS
from flowlab.contracts import Execution, FeatureExtractor, LowerJob, Outcome, Program, Quantized, QuantizeJob
from flowlab.errors import OptionError, ProgramError
from flowlab.plugins import Catalogue, load
from flowlab_generic.host import HostTarget
from flowlab_generic.quantizers import PostTraining
from flowlab_tinpu import simulator
from flowlab_tinpu.devices import TARGETS, Device
from flowlab_tinpu.number_format import NPU
from flowlab_tinpu.rules import RULES

F28P55 = next(device for device in TARGETS if device.name == "F28P55")
PACKAGES = ("flowlab_signal", "flowlab_zoo", "flowlab_generic", "flowlab_tinpu", "flowlab_cores")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


# --- what is sound ------------------------------------------------------------------------------


def test_a_device_with_an_npu_conforms() -> None:
    """Its simulator in a process of its own; every kind of layer is run in this one, below."""
    checked = testing.check_target(F28P55, 2, ["simulator"])
    assert checked.networks == 4
    assert checked.executions == {"simulator": "ran"}


def test_a_device_without_an_accelerator_conforms() -> None:
    """Without a compiler here nothing runs, and the result says so."""
    checked = testing.check_target(HostTarget(), 3)
    assert checked.networks == 3
    assert checked.executions["host C"]


@pytest.mark.parametrize(("name", "format"), [("none", GENERIC), ("generic_ptq", GENERIC), ("tinpu_ptq", NPU)])
def test_our_quantizers_conform(catalogue: Catalogue, name: str, format: Any) -> None:
    testing.check_quantizer(catalogue.get("quantizer", name), format, widths=(4,) if name == "generic_ptq" else (8,))


def test_our_quantizer_that_trains_conforms(catalogue: Catalogue) -> None:
    testing.check_quantizer(catalogue.get("quantizer", "tinpu_qat"), NPU, widths=(8,))


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_are_light(package: str) -> None:
    testing.check_plugin_is_light(f"{package}.plugin")


@pytest.mark.parametrize("kind", [*KINDS, ""])
@pytest.mark.parametrize("format", [NPU, GENERIC], ids=lambda format: format.name)
def test_networks_are_decided_by_their_seed_and_obey_their_format(format: Any, kind: str) -> None:
    from flowlab.compiler.text import print_graph

    made = [[drawn(format, kind, bits, seed) for seed in range(8)] for bits in format.by_weight_bits]
    again = [[drawn(format, kind, bits, seed) for seed in range(8)] for bits in format.by_weight_bits]
    texts = [[print_graph(one) if one else None for row in rows for one in row] for rows in (made, again)]
    assert texts[0] == texts[1]
    assert len(set(texts[0]) - {None}) > 3


# --- mutants of a target ------------------------------------------------------------------------


class InProcess(Execution):
    """The simulator in this process, where a test can change a part of it."""

    name = "simulator"

    def run(self, program: Mapping[str, Path], features: Any, scratch: Path) -> Outcome:
        found = simulator.simulate(program["model.flnp"].read_bytes(), features)
        outputs = {name.removeprefix("output/"): value for name, value in found.items() if name.startswith("output/")}
        trace = {name.removeprefix("crc/"): value for name, value in found.items() if name.startswith("crc/")}
        return Outcome(outputs, trace)  # type: ignore[arg-type]


class Mutable(Device):
    """F28P55 with that simulator alone, its rules a parameter."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        super().__init__(F28P55.row)
        self.formats, self.mutable_rules = {"npu": NPU}, tuple(rules)

    def rules(self) -> tuple[Rule, ...]:
        return self.mutable_rules

    def executions(self) -> tuple[Execution, ...]:
        return (InProcess(),)


def requantized(change: Callable[..., Any]) -> Callable[..., Any]:
    """The simulator's requantization with its layer changed first."""
    right = simulator._requantize
    return lambda layer, *rest: right(change(layer), *rest)


def refusal(target: Device, networks: int = 18) -> str:
    with pytest.raises(AssertionError) as found:
        testing.check_target(target, networks)
    return str(found.value)


def test_what_tells_machines_apart_is_met_and_the_mutable_device_conforms_before_anything_is_changed() -> None:
    checked = testing.check_target(Mutable(), 18)
    assert checked.networks == 18
    for kind in ("FCONV", "GCONV", "DWCONV", "PWCONV", "FC", "MAXPOOL", "AVGPOOL"):
        assert checked.layers[f"{kind} npu"]
    assert all(checked.met[situation] for situation in SITUATIONS)


def test_a_wrong_rounding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(simulator, "_requantize", requantized(lambda layer: replace(layer, rounding="half_up")))
    said = refusal(Mutable())
    assert said.startswith("target 'F28P55': execution 'simulator' and the interpreter differ on network ")
    assert said.endswith(": it rounds 'half_up', and the format says 'floor'")


def test_a_shift_that_is_one_off_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def more(layer: Any) -> Any:
        return replace(layer, shift=layer.shift + 1)

    monkeypatch.setattr(simulator, "_requantize", requantized(more))
    assert refusal(Mutable()).endswith(": it shifts by one more")


def test_an_add_that_does_not_saturate_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    right = simulator._requantize

    def wrapping(layer: Any, *rest: Any) -> Any:
        if layer.op != "add":
            return right(layer, *rest)
        whole = right(replace(layer, low=-(2**31), high=2**31 - 1), *rest)
        return whole.astype(np.int8 if layer.low else np.uint8).astype(np.int32)

    monkeypatch.setattr(simulator, "_requantize", wrapping)
    target = Mutable()
    target.formats = {"cpu": GENERIC}  # where an add is drawn alone
    assert "ADD" in refusal(target)
    assert refusal(target).endswith(": it wraps around where it should saturate")


def test_a_bias_that_is_left_out_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(simulator, "_requantize", requantized(lambda layer: replace(layer, bias=layer.bias * 0)))
    assert refusal(Mutable()).endswith(": it leaves the bias out")


def test_a_max_pool_that_starts_at_zero_fails_at_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    right = simulator._max_pool
    monkeypatch.setattr(simulator, "_max_pool", lambda *given: np.maximum(right(*given), 0))
    assert "(MAXPOOL, 2-bit weights, format 'tinpu'), first at layer 'layer'" in refusal(Mutable())


def test_an_execution_whose_batch_decides_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Peeking(InProcess):
        def run(self, program: Mapping[str, Path], features: Any, scratch: Path) -> Outcome:
            found = super().run(program, features, scratch)
            return found if len(features) != 1 else Outcome({name: one + 1 for name, one in found.outputs.items()}, {})

    target = Mutable()
    monkeypatch.setattr(target, "executions", lambda: (Peeking(),))
    assert refusal(target).endswith("gives other integers where a batch is fed in two parts")


def test_an_execution_that_takes_anything_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lenient(InProcess):
        def run(self, program: Mapping[str, Path], features: Any, scratch: Path) -> Outcome:
            wanted = simulator.parse(program["model.flnp"].read_bytes()).tensors[0].shape
            return super().run(program, features[:, : wanted[0], : wanted[1], : wanted[2]], scratch)

    target = Mutable()
    monkeypatch.setattr(target, "executions", lambda: (Lenient(),))
    assert refusal(target).endswith("execution 'simulator' takes features of another shape without a word")


def test_an_execution_that_raises_what_is_no_error_of_ours_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raw(InProcess):
        def run(self, program: Mapping[str, Path], features: Any, scratch: Path) -> Outcome:
            try:
                return super().run(program, features, scratch)
            except ProgramError as error:
                raise KeyError(str(error)) from None

    target = Mutable()
    monkeypatch.setattr(target, "executions", lambda: (Raw(),))
    assert "raises KeyError" in refusal(target)
    assert refusal(target).endswith("for features of another shape; errors are FlowlabError")


def test_a_rule_that_takes_what_lower_refuses_fails() -> None:
    class Lying(Mutable):
        """Its machine has kernels of at most 3 rows; its rules say nothing of that."""

        def lower(self, job: LowerJob) -> Program:
            for node in job.graph.nodes:
                if node.op == "conv" and node.constants["weight"].shape[2] > 3:
                    raise ProgramError(f"layer '{node.name}': kernels have at most 3 rows")
            return super().lower(job)

    said = refusal(Lying())
    assert "its rules take every layer of network" in said
    assert said.endswith("`lower` refuses what they took: layer 'layer.sum': kernels have at most 3 rows")


def test_a_rule_without_a_cure_a_sentence_or_an_answer_fails() -> None:
    @rule("GCONV")
    def narrow(layer: Layer) -> bool:
        """A convolution has at most 4 output channels."""
        return layer.out_channels <= 4

    assert "without a cure: 'A convolution has at most 4 output channels.'" in refusal(Mutable([*RULES, narrow]))
    silent = Rule(("GCONV",), "", lambda layer: layer.out_channels <= 4, lambda layer: "use fewer")
    assert "one of them is empty" in refusal(Mutable([*RULES, silent]))
    raising = Rule(("GCONV",), "It divides.", lambda layer: bool(1 // (layer.width - 1)), lambda layer: "")
    assert "a rule or pass raises ZeroDivisionError" in refusal(Mutable([*RULES, raising]))


def test_rules_that_take_nothing_of_a_kind_are_reported_and_fail_where_they_take_nothing_at_all() -> None:
    nothing = Rule(("FC",), "No FC.", lambda layer: False, lambda layer: "leave it out")
    assert "No FC." in testing.check_target(Mutable([*RULES, nothing]), 6).refused["FC"]
    kinds = tuple({kind for each in RULES for kind in each.layers})
    nowhere = Rule(kinds, "Nothing.", lambda layer: False, lambda layer: "leave it out")
    assert "its rules take no ordinary layer of any kind; of " in refusal(Mutable([*RULES, nowhere]))


# --- mutants of extractors, quantizers and modules ----------------------------------------------


class Mean(FeatureExtractor):
    """The mean over pairs of samples."""

    name = "mean"

    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        if window[1] < 2:
            raise OptionError("mean: a window has at least 2 samples")
        return window[0], window[1] // 2, 1

    def extract(self, windows: Any, options: Any) -> Any:
        even = windows[..., : windows.shape[-1] // 2 * 2]
        return even.reshape(*even.shape[:2], -1, 2).mean(axis=3, dtype=np.float32)[..., None]


def test_an_extractor_conforms_and_one_that_remembers_does_not() -> None:
    class Remembering(Mean):
        largest = 0.0

        def extract(self, windows: Any, options: Any) -> Any:
            self.largest = max(self.largest, float(np.abs(windows).max()))
            return super().extract(windows, options) / np.float32(self.largest)

    testing.check_extractor(Mean(), (2, 16))
    with pytest.raises(AssertionError, match="keeps something: windows in between change a feature"):
        testing.check_extractor(Remembering(), (2, 16))


def test_an_extractor_that_raises_what_is_no_error_of_ours_fails() -> None:
    class Raw(Mean):
        def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
            return window[0], window[1] // (window[1] // 2 * 2) * window[1] // 2, 1

    with pytest.raises(AssertionError, match=r"shape\(\) raises ZeroDivisionError.*errors are OptionError"):
        testing.check_extractor(Raw(), (2, 16))


def quantizer_refusal(quantizer: Any, widths: Sequence[int] = (8,)) -> str:
    with pytest.raises(AssertionError) as found:
        testing.check_quantizer(quantizer, widths=widths)
    return str(found.value)


def test_a_quantizer_that_draws_from_the_global_random_state_fails() -> None:
    class Drawing(PostTraining):
        def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
            from dataclasses import replace

            picked = np.random.permutation(len(job.calibration))[:4]
            return super().quantize(replace(job, calibration=job.calibration[picked]), options)

    assert "depends on the global random state: draw from generators that are seeded with job.seed" in (
        quantizer_refusal(Drawing())
    )


def test_a_quantizer_that_remembers_fails() -> None:
    class Remembering(PostTraining):
        seen = 0

        def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
            from dataclasses import replace

            self.seen += 8
            return super().quantize(replace(job, calibration=job.calibration[: self.seen] * self.seen), options)

    assert quantizer_refusal(Remembering()).endswith("gives another graph the second time")


def test_a_quantizer_that_writes_into_its_windows_fails() -> None:
    class Writing(PostTraining):
        def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
            found = super().quantize(job, options)
            job.calibration[:] = 0
            return found

    assert quantizer_refusal(Writing()).endswith("changes the calibration windows that it was given")


def test_a_quantizer_whose_shift_leaves_the_format_fails() -> None:
    class Wide(PostTraining):
        def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
            from dataclasses import replace

            from flowlab.compiler.rewrite import replace_nodes

            def rounded(node: Any) -> Any:
                return node.with_attributes(rounding="half_up") if node.op == "requantize" else node

            found = super().quantize(job, options)
            return replace(found, graph=replace_nodes(found.graph, rounded))

    assert "leaves the number format: node " in quantizer_refusal(Wide())


def test_a_quantizer_whose_module_is_another_network_fails() -> None:
    class Other(PostTraining):
        def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
            from dataclasses import replace

            import torch

            class Biased(torch.nn.Module):
                def __init__(self, right: torch.nn.Module) -> None:
                    super().__init__()
                    self.right = right

                def forward(self, x: torch.Tensor) -> torch.Tensor:
                    return self.right(x) + (x[:, 0, 0] > 0)

            found = super().quantize(job, options)
            return replace(found, module=Biased(found.module))  # type: ignore[arg-type]

    assert quantizer_refusal(Other()).endswith("its module and its graph give other integers")


def test_a_quantizer_that_takes_what_is_no_number_fails() -> None:
    class Deaf(PostTraining):
        def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
            from dataclasses import replace

            return super().quantize(replace(job, calibration=np.nan_to_num(job.calibration)), options)

    assert quantizer_refusal(Deaf()).endswith("takes calibration windows that are no numbers without a word")


def test_a_module_that_imports_torch_first_fails_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "slow_plugin_of_anyone"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers_.py").write_text("import os\nimport torch\n")
    (package / "plugin.py").write_text(
        "from flowlab.contracts import Core\nfrom flowlab.hookspecs import hookimpl\n"
        "class Slow(Core):\n    name = 'slow'\n"
        "@hookimpl\ndef flowlab_cores():\n    from slow_plugin_of_anyone import numbers_\n    return [Slow()]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AssertionError, match=r"imports torch in .*numbers_\.py, line 2.*import it in the method"):
        testing.check_plugin_is_light("slow_plugin_of_anyone.plugin")
