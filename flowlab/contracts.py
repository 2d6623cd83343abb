"""What a plugin brings: the one file that a plugin author reads.

A plugin is an *instance* of one of the classes below, returned by a hook of `flowlab.hookspecs`.
Its options are the fields of one frozen dataclass, ``Options``; one job goes in, one result comes out.
Heavy imports (numpy, torch, pyarrow) stand inside methods: this file and every plugin module load in milliseconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from flowlab.compiler.ir import Graph
    from flowlab.compiler.passes import Pass
    from flowlab.compiler.rules import Rule


@dataclass(frozen=True)
class NoOptions:
    """The options of a plugin that has none."""


class Plugin(ABC):
    """What every plugin has.

    ``name`` chooses it in the YAML; ``libraries`` are the distributions whose version decides the result;
    ``code`` are the import packages or modules whose source decides the result (hashed into fingerprints).
    ``not_built`` says why a name that users know is refused, as in "it adds two branches"; empty for what works.
    """

    kind: ClassVar[str]
    name: str
    version: str = "1"  # for people; what counts for caching is the hash of `code`
    summary: str = ""
    Options: type = NoOptions
    libraries: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    not_built: str = ""


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One recording as a reader found it.

    ``samples`` is float32, shape ``(time, column)``; ``columns`` names the columns (time columns already dropped).
    ``label`` is the class, ``split`` is ``train``, ``val``, ``test`` or None when the reader does not decide it.
    ``repairs`` are sentences about what was mended on the way.
    """

    id: str
    label: str
    samples: NDArray[np.float32]
    columns: tuple[str, ...]
    split: str | None = None
    repairs: tuple[str, ...] = ()


class Readable(Protocol):
    """A file on disk (any `pathlib.Path`), or one in an archive."""

    def read_bytes(self) -> bytes:
        """All of it."""
        ...


class Reader(Plugin):
    """Reads one file format."""

    kind = "reader"
    suffixes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, path: Readable, shown: str, options: Any) -> Recording:
        """Read one file. ``shown`` is its name in messages. Raises `DataError` with file, line and column.

        ``id`` is ``shown``; who asks puts its own ``label`` and ``split`` in place: the layout decides them.
        """


class Dataset(Plugin):
    """A named dataset that can make its recordings by itself."""

    kind = "dataset"
    synthetic: bool = False  # True is said in the log and at the top of the report

    @abstractmethod
    def recordings(self, seed: int, options: Any) -> Iterator[Recording]:
        """Yield recordings; the same seed gives the same bytes."""


class FeatureExtractor(Plugin):
    """A whole chain from windows to network inputs."""

    kind = "feature_extractor"

    @abstractmethod
    def shape(self, window: tuple[int, int], options: Any) -> tuple[int, int, int]:
        """(channel, length) of a raw window -> (channel, height, width) of a feature; light, no numpy.

        Raises `OptionError` where the chain makes no sense.
        """

    @abstractmethod
    def extract(self, windows: NDArray[np.float32], options: Any) -> NDArray[np.float32]:
        """float32 (window, channel, length) -> float32 (window, channel, height, width)."""

    def notes(self, options: Any) -> tuple[str, ...]:
        """Sentences for the log about how the options were understood."""
        return ()

    def emit_c(self, shape: tuple[int, int], options: Any) -> str | None:
        """C99 source of the chain for the device, or None where there is none; ``shape`` is a window's.

        It defines ``void flowlab_features(const float *window, float *features)``, from (channel, length) to (channel,
        height, width), both float32 in C order. Everything else in it is static, and nothing comes from the heap.
        A program ships it as ``feature_extraction.c``; `flowlab.testing.check_feature_c` compares it with `extract`.
        """
        return None


@dataclass(frozen=True)
class Preset:
    """Values under a name: a feature preset, a compile preset, a whole example config, or what a benchmark measures.

    ``kind`` is ``feature_extraction``, ``compile``, ``example`` or ``bench``; ``values`` are config keys with their
    values (for ``feature_extraction`` keys of that section; for ``example`` sections with keys; what those of
    ``bench`` are says the benchmark of its name).
    ``when`` restricts it: ``{"target_device": (...), "task_type": (...)}``; empty means always.
    ``not_built`` is that of `Plugin`: why the name is refused.
    """

    kind: Literal["feature_extraction", "compile", "example", "bench"]
    name: str
    values: Mapping[str, Any]
    summary: str = ""
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    not_built: str = ""


# --- models and numbers -------------------------------------------------------------------------


class Model(Plugin):
    """Builds an untrained network."""

    kind = "model"
    problems: tuple[str, ...] = ("classification",)
    defaults: Mapping[str, Any] = {}  # training keys that this model sets: learning_rate, batch_size, ...
    trained: bool = False  # its weights come trained: surgery changes what it computes only where that is forced
    lite: bool = False  # it has nothing that an accelerator lacks, so there is nothing for surgery to replace
    larger: str = ""  # the next larger model of its family, which a report proposes where quantization cost accuracy

    @abstractmethod
    def build(self, shape: tuple[int, int, int], outputs: int, options: Any) -> torch.nn.Module:
        """An ``nn.Module`` for float32 (batch, channel, height, width) -> (batch, outputs), traceable by torch.fx."""


Rounding = Literal["floor", "half_up", "single", "double", "nearest_even"]  # single, double: TFLite's names


@dataclass(frozen=True)
class Requantize:
    """How a machine turns accumulators into activations for one width of weights.

    ``multiplier_bits`` 0 means shift only; ``shift`` is (least, most), negative is to the left. The bias register has
    ``bias_bits``, and is shifted to the left by ``bias_shift`` before it is added: a graph's bias is a multiple of
    ``2^bias_shift``.
    """

    multiplier_bits: int
    shift: tuple[int, int]
    bias_bits: int
    bias_shift: int = 0


@dataclass(frozen=True)
class NumberFormat:
    """A machine's integers and requantization, as data (npu-arithmetic, sections 1 and 2)."""

    name: str
    by_weight_bits: Mapping[int, Requantize]
    activation_bits: tuple[int, ...] = (8,)
    per: Literal["channel", "layer"] = "channel"  # one weight scale, multiplier and shift for each
    power_of_two_scales: Mapping[int, bool] = field(default_factory=lambda: {8: True})
    zero_point: bool = False
    unsigned_after_relu: bool = True
    accumulator_bits: int = 32
    saturation: Literal["clip", "wrap"] = "clip"
    bias_before_multiply: bool = True
    rounding: Rounding = "floor"


@dataclass(frozen=True)
class QuantizeJob:
    """What a quantizer gets: all of it is the quantizer's own to use up.

    ``model`` is a private copy in eval mode; ``graph`` its float graph (same names as the module's);
    ``calibration`` float32 (window, channel, height, width), from the training split;
    ``fit(module)`` is the one training loop: trains the module in place on the training split, keeps its best
    epoch by validation (ties to the later), and returns the history; it owns checkpoints and random states.
    ``output_int`` False ends the graph in one float32 multiply by the output's scale.
    ``format`` has no widths for a quantizer that asks for none. ``bits_of`` are weight bits of single layers, by node:
    only a quantizer that says ``mixed`` is given any. ``finetune``: one that does not train may go on from the
    calibration windows, without labels and at a fixed cost. ``float_bias``: biases of convolutions and linear layers
    stay floats (the graph's ``requantize_float``), which no accelerator takes; only a wrapper asks for it.
    """

    model: torch.nn.Module
    graph: Graph
    format: NumberFormat
    weight_bits: int
    activation_bits: int
    calibration: NDArray[np.float32]
    fit: Callable[[torch.nn.Module], Mapping[str, Any]]
    output_int: bool
    scratch: Path
    seed: int
    progress: Progress
    bits_of: Mapping[str, int] = field(default_factory=dict)
    finetune: bool = False
    float_bias: bool = False


@dataclass(frozen=True)
class Quantized:
    """What a quantizer returns: the integer graph, and optionally the converted torch module (one more execution).

    ``module`` maps float32 features (batch, channel, height, width) to the integers of the graph's output.
    A quantizer without a number format returns a float graph, and a module of float32 outputs.
    """

    graph: Graph
    module: torch.nn.Module | None = None
    history: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Quantizer(Plugin):
    """Turns a trained float model into an integer graph that obeys a number format."""

    kind = "quantizer"
    trains: bool = False  # QAT: asks for job.fit
    mixed: bool = False  # it takes job.bits_of: another width for each layer's weights
    format: str = "npu"  # which of the target's formats it asks for; "" for none: the result is a float graph

    def check(self, graph: Graph, format: NumberFormat, options: Any) -> Sequence[str]:
        """Problems of a float graph that can be said before training, one sentence each. No data, no training."""
        return ()

    @abstractmethod
    def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
        """Raises `QuantizationError` naming layer, value and limit where no scales exist."""


# --- devices ------------------------------------------------------------------------------------


class Core(Plugin):
    """A processor core as data; no code.

    ``cross_flags``: what a compiler is told for it, by compiler (``zig``, ``arm-none-eabi-gcc``); none where no open
    compiler builds for it. ``emulated_as``: unicorn's model, without its prefix; empty where nothing emulates it.
    ``instructions``: all that it has, as the disassembler spells them, where the emulator runs others too.
    """

    kind = "core"
    triple: str = ""  # for people
    cross_flags: Mapping[str, tuple[str, ...]] = {}
    emulated_as: str = ""
    instructions: tuple[str, ...] = ()
    has_dsp: bool = False
    char_bits: int = 8
    clock_hz: int = 0


@dataclass(frozen=True)
class Golden:
    """Vectors that every execution must reproduce.

    ``features`` float32 (vector, channel, height, width); ``inputs`` the quantized inputs (same shape, int8);
    ``outputs`` integers by output name, from ONNX Runtime; ``layer_crc`` CRC-32 of each layer's output bytes
    (little-endian, least-width type, unpadded channels, C order (channel, height, width)) by node and vector;
    ``windows`` the raw windows behind the features, float32 (vector, channel, length).

    Of a float graph ``inputs`` are the features, ``outputs`` float32, and ``layer_crc`` is empty: floats are compared
    within a tolerance (`flowlab.compiler.agreement`), which no checksum can.
    """

    features: NDArray[np.float32]
    inputs: NDArray[np.int8] | NDArray[np.float32]
    outputs: Mapping[str, NDArray[Any]]
    layer_crc: Mapping[str, Sequence[int]]
    windows: NDArray[np.float32]


@dataclass(frozen=True)
class LayerRow:
    """One row of the layer table."""

    name: str
    layer: str  # FCONV, GCONV, ..., or the operation's name
    unit: str  # "npu" or "cpu"
    shape: str  # "1 -> 8 channels, kernel 5x1, stride 2x1"
    output: tuple[int, ...]
    reason: str = ""
    cure: str = ""
    weight_bytes: int = 0
    macs: int = 0
    padding: str = ""  # what padding or splitting the layer added, and what it cost
    zero_macs: int = 0  # of ``macs``, those by the zeros that padding or splitting added


@dataclass(frozen=True)
class LowerJob:
    """What a target lowers: the placed graph, and vectors to ship with it.

    ``skip_normalize`` True: the device's entry point takes the quantized input, else float features; of a float
    graph (`flowlab.compiler.ir.is_float`) it is False, and every layer is on the CPU.
    """

    graph: Graph
    golden: Golden
    skip_normalize: bool
    core: Core
    feature_c: str | None
    classes: tuple[str, ...]
    source_sha256: str  # of the quantized ONNX
    out: Path  # write files here
    settings: Mapping[str, Any] = field(default_factory=dict)  # the config's `compilation` keys, presets applied
    feature_spec: Mapping[str, Any] = field(default_factory=dict)  # the role of this name, for generated headers
    options: Any = NoOptions()  # the target's own, from beside its name in the config
    onnx: Path | None = None  # the quantized ONNX, for an outside tool that reads it
    onnx_place: str = "training/quantization/best_model.onnx"  # where people find it, below the folder that they get
    program_place: str = "compilation"  # and the program's folder


@dataclass(frozen=True)
class Program:
    """The files that ship, by name; bytes of memory by region and what lies there; rows of the layer table.

    ``tools``: each outside tool of the target, with an empty text where it ran, else why it made nothing.
    ``flash_weights``: what the packed weights take in flash where that is not ``packed_bytes``, as on a core whose
    smallest addressable unit has 16 bits.
    """

    files: Mapping[str, Path]
    memory: Mapping[str, Mapping[str, int]]
    layers: tuple[LayerRow, ...]
    packed_bytes: int
    tools: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    flash_weights: int | None = None

    @property
    def uses_accelerator(self) -> bool:
        """Whether a layer runs on another unit than the CPU."""
        return any(layer.unit != "cpu" for layer in self.layers)


BITS, FLOAT = "bit for bit", "float"  # how executions were compared: integers, and floats within a tolerance


@dataclass(frozen=True)
class Outcome:
    """What one execution computed.

    ``outputs``: integers by output name, shape (vector, ...). ``trace``: by node, uint32 CRC of each vector's
    layer output as in `Golden.layer_crc`. ``cycles``: total, or None where nothing counts them. ``measured``: what the
    execution counted, as small JSON: instructions, bytes of stack, sections and compilers of an emulated core.
    Of a float program ``outputs`` are float32, and ``trace`` is empty.
    """

    outputs: Mapping[str, NDArray[Any]]
    trace: Mapping[str, NDArray[np.uint32]]
    cycles: int | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)


class Execution(ABC):
    """One way to run a program here. ``floats``: it runs the program of a float graph too.

    ``native``: it runs the program's own code on this machine, or has it compiled: a program that came from elsewhere
    is not given to it.
    """

    name: str
    floats: bool = False
    native: bool = False

    def missing(self) -> str | None:
        """Why it cannot run here, or None. Light: it counts in the fingerprint."""
        return None

    def version(self) -> str:
        """The version of the outside tool that it uses, or an empty text."""
        return ""

    @abstractmethod
    def run(self, program: Mapping[str, Path], features: NDArray[np.float32], scratch: Path) -> Outcome:
        """Run the program's bytes on float32 (vector, channel, height, width), in a fresh process."""


@dataclass(frozen=True)
class ModelCycles:
    """Cycles of a documented model of an accelerator: counted from the network's structure, measured nowhere.

    ``name`` is how they are called wherever they are shown, so that nobody takes them for the device's; ``by_layer``
    are cycles by the layer's node, of the layers that the accelerator runs; ``macs_a_cycle`` is what it does at most;
    ``parameters`` are the model's numbers.
    """

    name: str
    by_layer: Mapping[str, int]
    macs_a_cycle: int
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """Cycles for one window on the device itself, estimated from figures that its vendor published.

    ``what`` runs there; ``band`` is what it may be off by, either way, as a share (0.18), and ``mean_error`` what it is
    off by on average, both found by predicting each of the ``figures`` without itself; ``outside`` says in what the
    network lies outside of them. Without figures ``cycles`` is None, and ``reason`` says why.
    """

    what: str
    cycles: int | None = None
    band: float = 0.0
    mean_error: float = 0.0
    figures: int = 0
    outside: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Costs:
    """What a target knows of a program's cost without running it; what executions count is in their `Outcome`."""

    model: ModelCycles | None = None
    estimate: Estimate | None = None


class Target(Plugin):
    """A device: its number formats, rules, memory and costs, and how a program for it is built and run here."""

    kind = "target"
    formats: Mapping[str, NumberFormat] = {}
    quantizers: Mapping[str, str] = {}  # {"QAT": name, "PTQ": name}: what `quantization: 2` means here
    core: str = ""  # a name, never an import
    memory: Mapping[str, int] = {}  # bytes by region: flash, ram
    clock_hz: int = 0  # of the core on this device; 0 where it is not known
    unit_name: str = "NPU"
    whole_networks: bool = False  # the accelerator runs all of a network or nothing: inspect refuses another one
    silicon: str = ""  # a sentence on what runs here in place of the accelerator; empty where there is none

    def rules(self) -> tuple[Rule, ...]:
        """The rules of the accelerator; none means that every layer runs on the CPU."""
        return ()

    def accelerator_off(self, settings: Mapping[str, Any]) -> str:
        """Why these keys of the compilation section put every layer on the CPU; empty where they do not."""
        return ""

    def passes(self) -> tuple[Pass, ...]:
        """Passes up to placement, in order."""
        return ()

    @abstractmethod
    def lower(self, job: LowerJob) -> Program:
        """Placed graph -> files that ship. Raises `ProgramError` where it does not fit.

        The graph may be a float graph (`flowlab.compiler.ir.is_float`): `flowlab.compiler.lower_float` makes its C.
        """

    def costs(self, graph: Graph) -> Costs:
        """Cycles of a model of the accelerator, and an estimate for the device, of a placed graph; each or none."""
        return Costs()

    def executions(self) -> tuple[Execution, ...]:
        """The ways to run a program of this target here."""
        return ()

    def tools(self) -> Mapping[str, str]:
        """Outside tools that `lower` runs where they are: name -> version or "absent", found without importing them.

        They are in the fingerprint of the compile stage.
        """
        return {}


# --- stages -------------------------------------------------------------------------------------

Progress = Callable[[str, float], None]  # (what is being done, fraction done 0..1)
GOES_ON = "goes on"  # so begins what is worth a line also where no bar moves: a training that goes on


DECIDES_NOTHING: Mapping[str, Any] = {"decides": False}
"""``metadata`` of a field of a stage's options on which no result depends: it is in no fingerprint."""


@dataclass(frozen=True)
class StageJob:
    """All that a stage sees: its options, its input files, and the plugins that it declared.

    ``inputs[role][name]`` is a path, read-only by agreement; ``out`` is an empty folder for results;
    ``scratch`` survives a kill and is keyed by the fingerprint (checkpoints).
    """

    inputs: Mapping[str, Mapping[str, Path]]
    options: Any
    plugins: Mapping[str, Plugin]  # by kind
    plugin_options: Mapping[str, Any]  # by kind: an instance of that plugin's Options
    out: Path
    scratch: Path
    progress: Progress

    def input(self, role: str) -> Path:
        """The only file of a role."""
        (path,) = self.inputs[role].values()
        return path


@dataclass(frozen=True)
class StageResult:
    """Files by role and name, small JSON metrics, and warnings for people."""

    files: Mapping[str, Mapping[str, Path]]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A step of the plan; its declaration is light, ``run`` names the function that does the work.

    A package's own stage is in the plan only if the config has its ``section``, so installing it changes no plan::

        @dataclass(frozen=True)
        class PruneOptions:
            amount: float = 0.3  # of the weights, 0..1

        Stage(
            name="prune",
            run="my_package.prune:run",
            needs=("features_val",),
            rewrites=("float_model",),
            section="pruning",
            Options=PruneOptions,
            libraries=("torch",),
            torch=True,
        )

    Args:
        name: as in the CLI and in records: letters, digits and ``_``.
        run: ``"package.module:function"``, ``StageJob -> StageResult``. Its package's code counts in the fingerprint.
        needs: roles that it reads. A role in ``optional`` is read only where the plan makes it.
        makes: roles that it writes.
        options: ``(config, catalogue) -> frozen dataclass of JSON values``; it sees all of the config and copies
            what the stage may see. The result is in the fingerprint by value, but for `DECIDES_NOTHING`. None: its
            section, as ``Options``.
        plugins: ``(config, catalogue) -> {kind: (plugin, options)}``: hashed by name, options and code.
        code: modules or packages of the core whose source decides the result.
        libraries: distributions whose version decides the result.
        check: ``(config, metrics of the stages that it reads, by stage) -> None``, light, before it runs and when a
            run is planned: raises what those stages make known of the config. What decides a result is in ``options``.
        tools: ``(config, catalogue) -> {name: version or "absent"}``, found without importing them.
        after: stages that must have finished, without data.
        torch: True for stages that must not share a process with another one at the same time.
        section: the config section whose presence puts a plugin's stage into the plan.
        rewrites: roles of which it reads one version and writes the next, under the same file names: it runs between
            the stage that makes the role and all that read it. Of two that rewrite one role, one names the other in
            ``after``, or the config does, by the key ``after`` that every such section has.
        Options: a frozen dataclass of JSON values, whose fields are the keys of the section. None is named ``after``.
        summary: one sentence for people.
    """

    name: str
    run: str
    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    options: Callable[[Any, Any], Any] | None = None
    plugins: Callable[[Any, Any], Mapping[str, tuple[Plugin, Any]]] = lambda config, catalogue: {}
    check: Callable[[Any, Mapping[str, Mapping[str, Any]]], None] = lambda config, made: None
    optional: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    tools: Callable[[Any, Any], Mapping[str, str]] = lambda config, catalogue: {}
    after: tuple[str, ...] = ()
    torch: bool = False
    section: str = ""
    rewrites: tuple[str, ...] = ()
    Options: type = NoOptions
    summary: str = ""
    kind: ClassVar[str] = "stage"
    not_built: ClassVar[str] = ""

    @property
    def writes(self) -> tuple[str, ...]:
        """The roles of its result."""
        return (*self.makes, *self.rewrites)


# --- who watches --------------------------------------------------------------------------------
#
# What the watching hooks get: plain values, a copy for each watcher, so that nothing comes back.


@dataclass(frozen=True)
class RunStarted:
    """A run begins. ``stages`` are the names in their order, ``device`` and ``model`` as the config has them."""

    run: str
    dataset: str
    model: str
    device: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class RunEnded:
    """A run is over: ``state`` is ``Completed``, ``Failed`` (an error, a missed gate) or ``Cancelled``.

    ``metrics`` are those of `flowlab run --json`, empty where the run did not get so far; ``error`` is its message,
    empty where there is none; ``seconds`` by the wall's clock.
    """

    run: str
    dataset: str
    state: str
    seconds: float
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class StageStarted:
    """A stage is looked up in the store, and done if it is not there. `StageEnded` or `StageFailed` follows."""

    run: str
    stage: str


@dataclass(frozen=True)
class StageEnded:
    """A stage has its result: from the store (``cached``), or made now in ``seconds``.

    ``fingerprint`` is its key in the store; ``metrics`` are small JSON, ``warnings`` sentences.
    """

    run: str
    stage: str
    cached: bool
    seconds: float
    fingerprint: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageFailed:
    """A stage raised. ``error`` is its message. A damaged input is made again: then the stage starts once more."""

    run: str
    stage: str
    seconds: float
    error: str
