"""Runs a program's ELF on an emulated core. A process of its own: unicorn is under the GPL, and flowlab is not.

    python -m flowlab.cpu.emulator job.json

The job names ELF files of one program, one of them with traces, and the core: what it is emulated as, and the
instructions that it has where the emulator knows more. Features lie in a file of float32. Memory is flash, which cannot
be written, RAM of the device's size, whose upper part is the stack and lies by itself, and a window that the emulator
lends for features and results. Whatever else is touched, a stack that needs more than is left, and every instruction
that the core has not, end the run with the address and the function in which it stands.

Instructions are counted block by block, each block's once taken apart: exact, those that a condition skips included.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGE = 0x1000
WORD_BYTES = 4
STACK_AT, OVERRUN, LEAST_STACK = 0x3000_0000, 1 << 24, 64
LENT_AT, RETURN_AT = 0x7000_0000, 0x7900_0000
MOST_ONE_BY_ONE = 5_000_000  # instructions: each takes the emulator a microsecond
TRACE = 20  # instructions that a trace takes, about: nine stores of constants
PORT_WORDS = 9  # pointer, bytes of a value, channels, rows, columns, and the three distances
THUMB_STATE = 1 << 5  # of the status register: what runs is Thumb
PATTERN = 0xA5  # what untouched RAM holds
LONGEST_S = 20.0  # of one vector; FLOWLAB_EMULATOR_SECONDS says otherwise


class EmulationError(Exception):
    """The program did what its core or its memory does not allow."""


@dataclass
class Image:
    """What an ELF file says: bytes by address, symbols, section sizes."""

    segments: list[tuple[int, bytes]]
    symbols: dict[str, int]
    code: list[tuple[int, int]]  # from where to where .text holds instructions; constants lie between them
    functions: list[tuple[int, int, str]]
    sizes: dict[str, int]
    text: tuple[int, bytes]
    bss_end: int

    @classmethod
    def read(cls, path: Path, ram_at: int) -> Image:
        """Read it with pyelftools."""
        from elftools.elf.elffile import ELFFile

        with path.open("rb") as file:
            elf = ELFFile(file)
            sections = [one for one in elf.iter_sections() if one["sh_flags"] & 2]
            table = elf.get_section_by_name(".symtab")
            symbols = {one.name: int(one["st_value"]) for one in table.iter_symbols() if one.name}
            marks = sorted(
                (int(one["st_value"]), one.name[:2] in ("$t", "$a"))
                for one in table.iter_symbols()
                if one.name[:2] in ("$t", "$a", "$d") and int(one["st_value"]) < ram_at
            )
            functions = sorted(
                (int(one["st_value"]) & ~1, int(one["st_size"]), one.name)
                for one in table.iter_symbols()
                if one["st_info"]["type"] == "STT_FUNC"
            )
            sizes = dict.fromkeys(("text", "rodata", "data", "bss"), 0)
            for one in sections:
                kind = one.name.removeprefix(".").partition(".")[0]
                sizes[kind if kind in sizes else "rodata"] += int(one["sh_size"])
            loaded = [(int(one["sh_addr"]), one.data()) for one in sections if one["sh_type"] == "SHT_PROGBITS"]
            (text,) = [(int(one["sh_addr"]), one.data()) for one in sections if one.name == ".text"]
            ends = [int(one["sh_addr"] + one["sh_size"]) for one in sections if one["sh_addr"] >= ram_at]
        stops = [at for at, _ in marks[1:]] + [text[0] + len(text[1])]
        code = [(at, min(stop, stops[-1])) for (at, is_code), stop in zip(marks, stops, strict=True) if is_code]
        return cls(loaded, symbols, code, functions, sizes, text, max(ends, default=ram_at))

    def where(self, address: int) -> str:
        """The function in which an address lies."""
        for start, size, name in self.functions:
            if start <= address < start + max(size, 1):
                return f"{name} + {address - start:#x}"
        return "no function"


class Machine:
    """One emulated core with one image loaded."""

    def __init__(self, image: Image, job: Mapping[str, Any]) -> None:
        import unicorn

        self.image, self.job = image, job
        thumb = bool(image.symbols["device_run"] & 1)
        self.uc = _core(job["emulated_as"], thumb=thumb)
        used = image.bss_end - job["ram_at"]
        self.stack_size = (job["ram"] - used) & ~7
        if self.stack_size < LEAST_STACK:
            raise EmulationError(
                f"{used:,} bytes of static memory leave {self.stack_size:,} of {job['ram']:,} for the stack"
            )
        self.uc.mem_map(job["flash_at"], _pages(job["flash"]), unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.uc.mem_map(job["ram_at"], _pages(used), 3)
        self.uc.mem_map(STACK_AT, _pages(self.stack_size), 3)  # by itself: what runs over it leaves all memory
        self.uc.mem_map(LENT_AT, _pages(4 * max(job["features"], job["results"])), 3)
        self.uc.mem_map(RETURN_AT, PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.port: list[int] = []
        self.crcs: list[int] = []
        self.marks: list[int] = []  # instructions counted when each layer was done
        self.uc.mmio_map(job["port_at"], PAGE, None, None, self._written, None)
        self.count = 0
        self.blocks: dict[int, int] = {}
        self.counting = False
        self.faults = ""
        self.uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._invalid)
        for address, data in image.segments:
            self.uc.mem_write(address, data)
        self.fresh_ram()

    def fresh_ram(self) -> None:
        """What start-up code leaves: zeros up to the end of .bss, and a pattern where the stack will be."""
        start = self.job["ram_at"]
        self.uc.mem_write(start, bytes(self.image.bss_end - start))
        self.uc.mem_write(STACK_AT, bytes([PATTERN]) * self.stack_size)
        for address, data in self.image.segments:
            if address >= start:
                self.uc.mem_write(address, data)

    def watch_blocks(self) -> None:
        """Count from now on; hooks must be there before the first run."""
        import capstone
        import unicorn
        from unicorn import arm_const as arm

        always_thumb = bool(self.image.symbols["device_run"] & 1)
        of_thumb = capstone.CS_MODE_THUMB | (capstone.CS_MODE_MCLASS if always_thumb else 0)
        taken_apart = {
            thumb: capstone.Cs(capstone.CS_ARCH_ARM, of_thumb if thumb else capstone.CS_MODE_ARM)
            for thumb in (True, False)
        }

        def block(uc: Any, address: int, size: int, _: Any) -> None:
            if not self.counting:
                return
            found = self.blocks.get(address)
            if found is None:
                code = bytes(uc.mem_read(address, size))
                # a core with both sets runs gcc's support routines in Thumb
                thumb = always_thumb or bool(uc.reg_read(arm.UC_ARM_REG_CPSR) & THUMB_STATE)
                sizes = [length for _, length, _, _ in taken_apart[thumb].disasm_lite(code, address)]
                if sum(sizes) != size:
                    self.faults = f"a block of {size} bytes that cannot be taken apart at {address:#x}"
                    uc.emu_stop()
                found = self.blocks[address] = len(sizes)
            self.count += found

        self.uc.hook_add(unicorn.UC_HOOK_BLOCK, block)

    def watch_instructions(self) -> None:
        """Count one by one: slow, and right at any point of a block; without those that a condition skips."""
        import unicorn

        def one(uc: Any, address: int, size: int, _: Any) -> None:
            self.count += self.counting

        self.uc.hook_add(unicorn.UC_HOOK_CODE, one)

    def call(self, name: str, argument: int) -> None:
        """Call a function of one pointer.

        Raises:
            EmulationError: naming the address and the function, if the core or the memory does not allow it.
        """
        import unicorn
        from unicorn import arm_const as arm

        for register, value in (
            (arm.UC_ARM_REG_SP, STACK_AT + self.stack_size),
            (arm.UC_ARM_REG_LR, RETURN_AT | (self.image.symbols[name] & 1)),
            (arm.UC_ARM_REG_R0, argument),
        ):
            self.uc.reg_write(register, value)
        try:
            self.uc.emu_start(self.image.symbols[name], RETURN_AT, timeout=int(_longest_s() * 1e6))
        except unicorn.UcError as error:
            at = self.uc.reg_read(arm.UC_ARM_REG_PC)
            said = self.faults or f"{error}"
            raise EmulationError(f"{said} at {at:#x} ({self.image.where(at)})") from None
        if self.faults:
            raise EmulationError(self.faults)
        if self.uc.reg_read(arm.UC_ARM_REG_PC) & ~1 != RETURN_AT:
            raise EmulationError(f"{name} did not come back within {_longest_s():g} s")

    def _invalid(self, uc: Any, access: int, address: int, size: int, value: int, _: Any) -> bool:
        below = STACK_AT - address
        if 0 < below <= OVERRUN:
            self.faults = f"the stack needs at least {below:,} bytes more than the {self.stack_size:,} that are left"
        else:
            self.faults = f"{size} bytes at {address:#x} that it may not touch"
        return False

    def _written(self, uc: Any, offset: int, size: int, value: int, _: Any) -> None:
        """A word of a trace; with the last one the values are read where they lie."""
        self.port.append(value)
        if offset != 4 * (PORT_WORDS - 1):
            return
        self.marks.append(self.count)
        pointer, width, channels, rows, columns, *by = self.port
        self.port = []
        data = bytearray()
        last = (channels - 1) * by[0] + (rows - 1) * by[1] + (columns - 1) * by[2]
        values = bytes(uc.mem_read(pointer, (last + 1) * width))[::width]  # the low byte of each
        for channel in range(channels):
            for row in range(rows):
                at = channel * by[0] + row * by[1]
                data += values[at : at + (columns - 1) * by[2] + 1 : by[2]]
        self.crcs.append(zlib.crc32(bytes(data)))

    def stack(self) -> int:
        """Bytes of the stack that were touched."""
        return len(bytes(self.uc.mem_read(STACK_AT, self.stack_size)).lstrip(bytes([PATTERN])))


def _core(emulated_as: str, *, thumb: bool) -> Any:
    """An emulated core of this model, and no other.

    Without the flag for microcontroller cores, which makes every core the same one whatever model is asked for.
    """
    import unicorn
    from unicorn import arm_const as arm

    model = getattr(arm, f"UC_CPU_ARM_{emulated_as}")
    mode = unicorn.UC_MODE_THUMB if thumb else unicorn.UC_MODE_ARM
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM, mode, model)
    if uc.ctl_get_cpu_model() != model:
        raise EmulationError(f"the emulator made another core than {emulated_as}")
    return uc


def _longest_s() -> float:
    return float(os.environ.get("FLOWLAB_EMULATOR_SECONDS") or LONGEST_S)


def _pages(size: int) -> int:
    return -(-max(size, 1) // PAGE) * PAGE


def unknown_instructions(image: Image, allowed: Sequence[str]) -> list[str]:
    """Instructions of the program that the core has not, of those that the emulator would run all the same."""
    import capstone

    if not allowed:
        return []
    engine = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    found = []
    start, code = image.text
    for first, stop in image.code:
        read = first
        for address, length, word, _ in engine.disasm_lite(code[first - start : stop - start], first):
            read = address + length
            plain = word.partition(".")[0]
            if plain not in allowed and not _conditional(plain, allowed):
                found.append(f"{word} at {address:#x} ({image.where(address)})")
        if stop - read >= WORD_BYTES:  # less is what aligns the next function
            found.append(f"instruction that can be taken apart at {read:#x} ({image.where(read)})")
    return found


def _conditional(word: str, allowed: Sequence[str]) -> bool:
    """A branch with its condition, or an instruction that sets flags."""
    conditions = ("eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le")
    return (word[:-2] == "b" and word[-2:] in conditions) or (word.endswith("s") and word[:-1] in allowed)


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run every vector on the plain image, and once more on the traced one; count the first ones.

    Returns:
        ``words``, ``crcs`` as lists a vector, ``instructions``, ``stack``, ``sizes``, ``network`` (bytes), and
        ``layers``: instructions of each layer that is traced.
    """
    plain, traced = (Image.read(Path(job[name]), job["ram_at"]) for name in ("plain", "traced"))
    unknown = unknown_instructions(plain, job["instructions"])
    if unknown:
        raise EmulationError(f"the core has no {'; no '.join(unknown[:3])}")
    features = Path(job["features_file"]).read_bytes()
    width = 4 * job["features"]
    vectors = [features[at : at + width] for at in range(0, len(features), width)]
    counted = Machine(plain, job)
    counted.watch_blocks()
    counts = []
    for vector in vectors[: job["counted"]]:
        _prepare(counted, vector)
        counted.count, counted.counting = 0, True
        counted.call("device_run", LENT_AT)
        counted.counting = False
        counts.append(counted.count)
    words = [_one(machine, job, vector) for machine in [Machine(plain, job)] for vector in vectors]
    machine, crcs = Machine(traced, job), []
    for vector in vectors:
        machine.crcs = []
        _prepare(machine, vector)
        machine.call("device_run", LENT_AT)
        crcs.append(machine.crcs)
    return {
        "layers": _by_layer(traced, job, vectors[0]) if counts and counts[0] <= MOST_ONE_BY_ONE else [],
        "words": words,
        "crcs": crcs,
        "instructions": counts,
        "stack": counted.stack(),
        "sizes": plain.sizes,
        "network": network_bytes(Image.read(Path(job["bare"]), job["ram_at"])),
    }


def _by_layer(traced: Image, job: Mapping[str, Any], vector: bytes) -> list[int]:
    """Instructions of each layer that ``model_run`` traces, by the build with traces, without what a trace takes."""
    machine = Machine(traced, job)
    machine.watch_instructions()
    _prepare(machine, vector)
    machine.marks, machine.count, machine.counting = [], 0, True
    machine.call("device_run", LENT_AT)
    return [max(0, after - before - TRACE) for before, after in zip([0, *machine.marks], machine.marks, strict=False)]


def network_bytes(image: Image) -> int:
    """Code and constants of ``model_run`` and all that it needs, without what calls it here."""
    ours = sum(size for _, size, name in image.functions if name.startswith("device_"))
    return image.sizes["text"] + image.sizes["rodata"] - ours


def _prepare(machine: Machine, vector: bytes) -> None:
    machine.uc.mem_write(LENT_AT, vector)
    machine.call("device_quantize", LENT_AT)


def _one(machine: Machine, job: Mapping[str, Any], vector: bytes) -> list[int]:
    """The results of one vector, as words."""
    _prepare(machine, vector)
    machine.call("device_run", LENT_AT)
    machine.call("device_results", LENT_AT)
    count = job["results"]
    return list(struct.unpack(f"<{count}i", bytes(machine.uc.mem_read(LENT_AT, 4 * count))))


def main(arguments: list[str]) -> int:
    """Run a job file; its results stand beside it. 0, or 1 with one line on stderr."""
    path = Path(arguments[0])
    job = json.loads(path.read_text(encoding="utf-8"))
    try:
        result = run(job)
    except EmulationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    path.with_name("results.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
