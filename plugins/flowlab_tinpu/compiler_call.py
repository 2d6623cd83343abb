"""The documented call of TI's compiler for a device: what turns the exported ONNX into code for silicon.

The compiler (``ti_mcu_nnc``) is closed; flowlab writes the call beside the program, and runs it where it is.
Its target string comes from the compile preset; TI's own tool rewrites ``skip_normalize`` and ``output_int`` in it
where they stand, and so does this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flowlab.contracts import Preset

if TYPE_CHECKING:
    from flowlab.contracts import LowerJob
    from flowlab_tinpu.device_table import Row

QUOTED = ("--cross-compiler", "--cross-compiler-options", "--target")  # whatever they hold
DEFAULT = "default_preset"
SOFT = "forced_soft_npu_preset"
COMPRESS = "compress_npu_layer_data"
COMPRESSES = (
    "TI's compiler packs weights below 8 bits, as flowlab's program always does: at most 1/2 of the weights' bytes "
    "saved at 4 bits, 3/4 at 2, none at 8"
)

TASKS: Mapping[str, tuple[str, ...]] = {
    "cls": (
        "arc_fault", "ecg_classification", "motor_fault", "blower_imbalance", "generic_timeseries_classification",
        "pir_detection",
    ),
    "reg": ("generic_timeseries_regression",),
    "ad": ("generic_timeseries_anomalydetection",),
    "fcst": ("generic_timeseries_forecasting",),
}  # fmt: skip

_INTEGERS = "skip_normalize=true output_int=true"
_FLOATS = "skip_normalize=true output_int=false"
_SOFT_INT = f"c, ti-npu type=soft {_INTEGERS}"
_HARD_INT = f"c, ti-npu type=hard {_INTEGERS}"
_PLAIN_SOFT = "c, ti-npu type=soft"
_CDE = "c, ti-npu type=m33cde"
_RAW_FLOAT = "skip_normalize=false output_int=false"

_C28 = {"cls": _SOFT_INT, "ad": _SOFT_INT, "fcst": _PLAIN_SOFT, "reg": f"c, ti-npu type=soft {_RAW_FLOAT}"}
_C29 = {"cls": _SOFT_INT, "ad": _SOFT_INT, "fcst": _PLAIN_SOFT, "reg": f"c, ti-npu type=soft {_FLOATS}"}
_M33 = {
    "cls": _SOFT_INT, "ad": f"c, ti-npu type=soft {_FLOATS}", "reg": f"c, ti-npu type=soft {_FLOATS}",
    "fcst": _PLAIN_SOFT,
}  # fmt: skip
_MSPM0 = dict.fromkeys(TASKS, _SOFT_INT)

_DEFAULT: Mapping[str, Mapping[str, str]] = {
    "F28P55": {"cls": _HARD_INT, "ad": "c, ti-npu", "fcst": _PLAIN_SOFT, "reg": f"c, ti-npu type=hard {_RAW_FLOAT}"},
    "F29H85": {**_C29, "ad": _PLAIN_SOFT},
    "F29P58": _C29, "F29P32": _C29,
    "MSPM0G5187": dict.fromkeys(TASKS, _HARD_INT), "MSPM0G3507": _MSPM0, "MSPM0G3519": _MSPM0,
    "AM13E2": {**_M33, "cls": _HARD_INT},
    "MSPM33C32": _M33, "AM263": _M33,
    "AM263P": dict.fromkeys(TASKS, "c"), "AM261": dict.fromkeys(TASKS, "c"),
    "CC2755": {"cls": _CDE}, "CC2745": {"cls": _CDE}, "CC35X1": {"cls": _CDE},
    "CC1352": {"cls": _PLAIN_SOFT}, "CC1312": {"cls": _PLAIN_SOFT},
    "CC1314": {"cls": _PLAIN_SOFT}, "CC1354": {"cls": _PLAIN_SOFT},
}  # fmt: skip
_FORCED = {
    "F28P55": {"cls": _SOFT_INT, "reg": _SOFT_INT, "ad": _PLAIN_SOFT, "fcst": _PLAIN_SOFT},
    "MSPM0G5187": _MSPM0,
    "AM13E2": _MSPM0,
}
_COMPRESSED = {
    "F28P55": dict.fromkeys(TASKS, f"{_HARD_INT} opt_for_space=true"),
    "MSPM0G5187": dict.fromkeys(TASKS, f"{_HARD_INT} opt_for_space=true"),
    "AM13E2": dict.fromkeys(TASKS, f"c, ti-npu {_INTEGERS} opt_for_space=true"),
}

_ARM33 = (
    "-DARM_CPU_INTRINSICS_EXIST -mcpu=cortex-m33 -mfloat-abi=hard -mfpu=fpv5-sp-d16 -mlittle-endian -O3 -I. "
    "-Wno-return-type"
)
_C2000 = (
    "--abi=eabi -O3 --opt_for_speed=5 --c99 -v28 -ml -mt --gen_func_subsections --float_support={fpu} "
    "-I$C2000_CG_ROOT/include -I."
)
_OPTIONS: Mapping[str, tuple[str, str]] = {
    "C28x": ("cl2000", _C2000.format(fpu="fpu32")),
    "C28x-FPU64": ("cl2000", _C2000.format(fpu="fpu64")),
    "C29x": ("c29clang", "-O3 -ffast-math -I$CG_TOOL_ROOT/include -I."),
    "Cortex-M0+": (
        "tiarmclang",
        "-Os -mcpu=cortex-m0plus -march=thumbv6m -mtune=cortex-m0plus -mthumb -mfloat-abi=soft -I. -Wno-return-type",
    ),
    "Cortex-M4F": (
        "tiarmclang",
        "-DARM_CPU_INTRINSICS_EXIST -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16 -O3 -Wl,-u,_c_int00 "
        "-Wno-return-type -march=armv7e-m -mthumb",
    ),
    "Cortex-R5F": (
        "tiarmclang",
        "-DARM_CPU_INTRINSICS_EXIST -mcpu=cortex-r5 -mfloat-abi=hard -mfpu=vfpv3-d16 -mlittle-endian -O3 -I. "
        "-Wno-return-type",
    ),
}
_MARCH33 = {
    "AM13E2": "thumbv8.1-m.main+cdecp0", "MSPM33C32": "thumbv8.1-m.main+cdecp0",
    "MSPM33C34": "thumbv8.1-m.main+cdecp0", "CC1314": "armv8-m.main", "CC1354": "armv8-m.main",
}  # fmt: skip
_CDE33 = "thumbv8.1-m.main+cdecp0 -Wno-incompatible-pointer-types"


def cross_compiler(row: Row) -> tuple[str, str]:
    """The cross-compiler that TI's tool calls for a device, and its options."""
    if row.core == "Cortex-M33":
        return "tiarmclang", f"{_ARM33} -march={_MARCH33.get(row.name, _CDE33)}"
    return _OPTIONS[row.core]


def presets(rows: Iterable[Row]) -> tuple[Preset, ...]:
    """The compile presets of TI's tool, one for each device and kind of task."""
    found: list[Preset] = []
    for row in rows:
        for name, summary, table in (
            (DEFAULT, "TI's default for the device and task", _DEFAULT),
            (SOFT, "every layer on the CPU; saves no bytes of weights", _FORCED),
            (COMPRESS, COMPRESSES, _COMPRESSED),
        ):
            strings = table.get(row.name, _C28 if row.mcpu == "c28" and name == DEFAULT else {})
            found += [_preset(row, name, summary, TASKS[group], target) for group, target in strings.items()]
    return tuple(found)


def _preset(row: Row, name: str, summary: str, tasks: tuple[str, ...], target: str) -> Preset:
    compiler, options = cross_compiler(row)
    values = {
        "target": target,
        "target_c_mcpu": row.mcpu,
        "cross_compiler": compiler,
        "cross_compiler_options": options,
    }
    return Preset("compile", name, values, summary, {"target_device": (row.name,), "task_type": tasks})


def target_string(row: Row, settings: Mapping[str, Any], *, skip_normalize: bool, output_int: bool) -> str:
    """TI's target string: from the settings or the device's default, with the two flags set where they stand."""
    text = str(settings.get("target") or (_HARD_INT if row.npu else _SOFT_INT))
    text = re.sub(r"skip_normalize=\w+", f"skip_normalize={str(skip_normalize).lower()}", text)
    return re.sub(r"output_int=\w+", f"output_int={str(output_int).lower()}", text)


def without_npu(target: str) -> str:
    """A target string that leaves the NPU alone, as TI's tool rewrites it where nothing is quantized for the NPU."""
    return target.replace("type=hard", "type=soft")


def runs_on_cpu(target: str) -> bool:
    """Whether a target string asks for every layer on the CPU."""
    return "type=soft" in target


def compiler_words(row: Row, settings: Mapping[str, Any], target: str, onnx: str, library: str) -> list[str]:
    """The documented call, word by word."""
    compiler, options = cross_compiler(row)
    compiler = str(settings.get("cross_compiler") or compiler)
    options = str(settings.get("cross_compiler_options") or options)
    mcpu = str(settings.get("target_c_mcpu") or row.mcpu)
    return [
        "tvmc", "compile", onnx, f"--target={target}", f"--target-c-mcpu={mcpu}", f"--cross-compiler={compiler}",
        f"--cross-compiler-options={options}", "--output-format=a", "--runtime=crt", "--executor=aot",
        "--executor-aot-interface-api=c", "--executor-aot-unpacked-api=1", "--opt-level=3", "--pass-config",
        "tir.disable_vectorize=1", "--pass-config", "tir.usmp.algorithm=hill_climb", "-o", library,
    ]  # fmt: skip


def compiler_call(row: Row, job: LowerJob, target: str) -> str:
    """The shell command that compiles the exported ONNX with TI's compiler, with what it needs said above it."""
    words = compiler_words(row, job.settings, target, job.onnx_place, f"{job.program_place}/mod.a")
    tool, verb, onnx, *options, last, library = map(_quoted, words)
    lines = " \\\n    ".join([*options, f"{last} {library}"]).replace("--pass-config \\\n    ", "--pass-config ")
    return f"""\
# How TI's compiler (ti_mcu_nnc 2.1, closed) makes a library for {row.name} from the exported network; where it is
# installed, flowlab runs this too. The program beside it runs on an open model of the NPU, not on what this makes.
# Run it in the folder with {job.onnx_place}, SHA-256 {job.source_sha256}.
# $C2000_CG_ROOT, $CG_TOOL_ROOT and $ARM_LLVM_CGT_PATH lead to TI's compilers.
{tool} {verb} {onnx} \\
    {lines}
"""


def _quoted(word: str) -> str:
    """A word as a shell reads it: variables stay variables."""
    name, equals, value = word.partition("=")
    return f'{name}{equals}"{value}"' if equals and (" " in value or "," in value or name in QUOTED) else word
