"""Anything at all as machine code, code objects and arguments: one clear error each, and no crash of the process."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoder import FORMATS, random_words

import mock.isa as isa
from mock.isa.decode import decode
from mock.isa.disassembler import disassemble, format_instruction
from mock.isa.dispatch import IllegalInstruction
from mock.isa.standalone import CodeObject

LAUNCH: dict[str, Any] = {"grid": (1,), "block": (64,), "rsrc1": 7 | 0xf0 << 12, "rsrc2": 2 << 1, "watchdog": 0.3}


class Page:
    """An address space of one page that nobody can get out of."""

    plain = True
    generation = 0

    def __init__(self, code: bytes) -> None:
        self.memory = np.zeros(3 * 4096, np.uint8)
        self.base = -(-int(self.memory.ctypes.data) // 4096) * 4096
        at = self.base - int(self.memory.ctypes.data)
        self.memory[at:at + len(code)] = np.frombuffer(code, np.uint8)
        rest = np.frombuffer(bytes.fromhex("00009fbf") * 1024, np.uint8)        # s_code_end
        self.memory[at + len(code):at + 4096] = rest[:4096 - len(code)]

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        outside = (addresses < np.uint64(self.base)) | (addresses >= np.uint64(self.base + 4096))
        if outside.any():
            raise isa.MemoryFault(f"{int(addresses[outside][0]):#x} is outside")
        return addresses


@given(st.binary(min_size=0, max_size=24))
@settings(max_examples=500, deadline=None)
def test_any_bytes_decode_and_print_or_are_refused_with_pc_and_bits(code: bytes) -> None:
    try:
        instruction = decode(code, 0x1000)
    except IllegalInstruction as error:
        assert "at pc 0x1000, bits " in str(error) and len(str(error).splitlines()) == 1
        return
    assert 4 <= instruction.size <= 20 and code.startswith(instruction.bits)
    for wave_size in (32, 64):
        text = format_instruction(instruction, wave_size=wave_size)
        assert text.startswith(instruction.mnemonic.split(" ")[0]) and "\n" not in text


@pytest.mark.parametrize("name", FORMATS)
def test_any_bits_of_a_format_decode_and_print_or_are_refused(name: str) -> None:
    taken = 0
    for code in random_words(random.Random(name), name, 3000):
        try:
            taken += bool(str(decode(code)))
        except IllegalInstruction as error:
            assert "bits" in str(error)
    assert taken, "all of them were refused"


def run_bytes(code: bytes, executor: str) -> str:
    """How a run of any bytes ended; only the package's own errors may come out."""
    page = Page(code)
    dispatch = isa.Dispatch(code_address=page.base, rsrc1=LAUNCH["rsrc1"], rsrc2=LAUNCH["rsrc2"], rsrc3=0,
                            user_sgprs=(page.base & 0xffffffff, page.base >> 32), grid=(1, 1, 1), block=(64, 1, 1),
                            lds_bytes=1024)
    try:
        isa.execute(dispatch, page, executor=executor, watchdog=0.3, check_hazards=False)
    except isa.IsaError as error:
        assert str(error), "an error says something"
        if isinstance(error, isa.IllegalInstruction):
            assert "at pc 0x" in str(error) and "bits " in str(error)
        elif isinstance(error, isa.MemoryFault):
            assert any(re.search(r"at pc 0x[0-9a-f]+", note) for note in error.__notes__)
        return type(error).__name__
    return "ended"


def programs(seed: int, count: int) -> list[bytes]:
    """Valid and random instructions of every format, one after the other."""
    rng = random.Random(seed)
    valid: list[bytes] = []
    for name in FORMATS:
        for code in random_words(rng, name, 200):
            try:
                valid.append(decode(code).bits)
            except IllegalInstruction:
                continue
    return [b"".join(rng.choice(valid) if rng.random() < 0.95 else rng.randbytes(4)
                     for _ in range(rng.randrange(1, 12))) for _ in range(count)]


@pytest.mark.parametrize(("executor", "count"), [("interpreter", 150), pytest.param("interpreter", 2000,
                                                                                  marks=pytest.mark.slow),
                                                 pytest.param("jit", 60, marks=pytest.mark.slow)])
def test_any_program_ends_or_says_why_not(executor: str, count: int) -> None:
    endings = {run_bytes(code, executor) for code in programs(7, count)}
    assert "IllegalInstruction" in endings and len(endings) > 1


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_code_object_is_refused(compile_kernels: Callable[..., bytes], data: st.DataObject) -> None:
    """One byte or a cut: it loads, or one error of ours says what is wrong with it."""
    good = compile_kernels("ordinary.cl", "O2")
    if data.draw(st.booleans()):
        bad = good[:data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.one_of(st.integers(0, 200), st.integers(len(good) - 3000, len(good) - 1)))
        bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1:]
    try:
        code = CodeObject(bad)
    except isa.IsaError as error:
        assert str(error)
        return
    assert len(code.image) < 1 << 30
    for kernel in code.kernels.values():
        with contextlib.suppress(isa.IsaError):
            list(disassemble(bytes(code.image[kernel.entry - code.base:][:64]), kernel.entry))


@pytest.mark.parametrize(("change", "message"), [
    ({"grid": ()}, r"grid must be one to three sizes, as in \(64,\), not \(\)"),
    ({"grid": 4}, "grid must be one to three sizes"),
    ({"grid": (1, 1, 1, 1)}, "grid must be one to three sizes"),
    ({"grid": (-1,)}, "grid must have sizes from 0"),
    ({"block": (0,)}, "block must have sizes from 1"),
    ({"block": (2048,)}, "a workgroup holds at most 1024 work-items, not 2048"),
    ({"wave_size": 48}, "wave_size must be 32 or 64, not 48"),
    ({"executor": "fast"}, "executor must be one of auto, jit, interpreter, not 'fast'"),
    ({"memory": "device"}, r"memory must be 'host' or an address space with translate\(\), not 'device'"),
    ({"memory": object()}, "memory must be 'host' or an address space"),
    ({"rsrc1": None}, "raw machine code needs rsrc1 and rsrc2"),
    ({"rsrc2": 1 << 32}, "rsrc2 must be a 32-bit register value, not 4294967296"),
    ({"user_sgprs": (1, 2, 3)}, "3 user_sgprs are given, rsrc2.USER_SGPR asks for 2"),
    ({"lds_bytes": 1 << 20}, "lds_bytes must be 0 to 65536, not 1048576"),
    ({"scratch_bytes_per_lane": -4}, "scratch_bytes_per_lane must be 0 to"),
    ({"watchdog": 0}, "watchdog must be a positive number of seconds, not 0"),
    ({"tba": 3}, "trap handler address 0x3 must be a multiple of 4"),
    ({"speed": 9}, "unknown option speed; there are check_hazards"),
    ({"code": b""}, "machine code is a positive number of dwords, not 0 bytes"),
    ({"code": b"abc"}, "machine code is a positive number of dwords, not 3 bytes"),
])
def test_arguments_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    arguments = {"code": bytes.fromhex("0000b0bf"), **LAUNCH, **change}
    with pytest.raises(ValueError, match=message):
        isa.run(arguments.pop("code"), **arguments)
