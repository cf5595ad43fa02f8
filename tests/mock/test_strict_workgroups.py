"""Workgroups of one launch that hand data to each other, on a card with rule ``gl1``: what the reader forgets shows.

The reader loads the data, says so, waits for the writer's flag and loads the data again; between the two it does what
LLVM's memory model asks for (an acquire: buffer_gl0_inv and buffer_gl1_inv), or only a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from strict_card import LANES, StrictCard

import mock
from mock import isa

pytestmark = pytest.mark.skipif(not isa.has_native_code(), reason="needs llvmlite")

OLD, NEW = 0x0A0A0A0A, 0x0B0B0B0B
NOP, GL0_INV, GL1_INV, SCALAR_GL1_INV, DCACHE_INV = (
    word.to_bytes(4, "little") for word in (0xBF800000, 0xE0AC0000, 0xE0B00000, 0xF4800000, 0xF4840000))
"""First words of s_nop, and of the cache instructions, all of which have two."""
READ = "  %second = load i32, ptr addrspace(1) %p, align 4"
ACQUIRE = '  fence syncscope("agent") acquire\n' + READ
GLC = '  %second = load atomic i32, ptr addrspace(1) %p syncscope("agent") monotonic, align 4'
TWO = "  call void @llvm.amdgcn.s.dcache.inv()\n" * 2
SCALAR = "load i32, ptr addrspace(4) %constant, align 4"
BETWEEN = {"acquire": (ACQUIRE, ()), "nothing": (READ, ()), "glc": (GLC, ()), "gl0_only": (ACQUIRE, (GL1_INV,)),
           "gl1_only": (ACQUIRE, (GL0_INV,)), "scalar": (f"  %second = {SCALAR}", ()),
           "scalar_inv": (f"{TWO}  %second = {SCALAR}", (SCALAR_GL1_INV,)),
           "scalar_dcache_only": (f"{TWO}  %second = {SCALAR}", ())}
"""Kernel -> what the reader does between its loads; of an acquire, what is taken out; of two s_dcache_inv, what the
first becomes."""


def _kernel(name: str, first: str, between: str) -> str:
    return f"""
define amdgpu_kernel void @{name}(ptr addrspace(1) %out, ptr addrspace(1) %data, ptr addrspace(1) %flags) #0 {{
  %group = call i32 @llvm.amdgcn.workgroup.id.x()
  %lane = call i32 @llvm.amdgcn.workitem.id.x()
  %p = getelementptr i32, ptr addrspace(1) %data, i32 %lane
  %constant = addrspacecast ptr addrspace(1) %data to ptr addrspace(4)
  %seen = getelementptr i32, ptr addrspace(1) %flags, i32 1
  %reads = icmp eq i32 %group, 0
  br i1 %reads, label %reader, label %writer
reader:
{first}
  call void @llvm.amdgcn.s.waitcnt(i32 0)
  store atomic i32 1, ptr addrspace(1) %seen syncscope("agent") monotonic, align 4
  br label %wait
wait:
  %flag = load atomic i32, ptr addrspace(1) %flags syncscope("agent") monotonic, align 4
  %there = icmp eq i32 %flag, 1
  br i1 %there, label %go, label %wait
go:
{between}
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %lane
  store i32 %before, ptr addrspace(1) %q, align 4
  %r = getelementptr i32, ptr addrspace(1) %q, i32 {LANES}
  store i32 %second, ptr addrspace(1) %r, align 4
  ret void
writer:
  %ready = load atomic i32, ptr addrspace(1) %seen syncscope("agent") monotonic, align 4
  %write = icmp eq i32 %ready, 1
  br i1 %write, label %store, label %writer
store:
  store i32 {NEW}, ptr addrspace(1) %p, align 4
  fence syncscope("agent") release
  store atomic i32 1, ptr addrspace(1) %flags syncscope("agent") monotonic, align 4
  ret void
}}
"""


@cache
def _code(kernel: str) -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    between, patches = BETWEEN[kernel]
    scalar = kernel.startswith("scalar")
    first = f"  %before = {SCALAR}" if scalar else "  %before = load i32, ptr addrspace(1) %p, align 4"
    text = 'target triple = "amdgcn-amd-amdhsa"\n' + _kernel(kernel, first, between) + """
declare i32 @llvm.amdgcn.workitem.id.x()
declare i32 @llvm.amdgcn.workgroup.id.x()
declare void @llvm.amdgcn.s.dcache.inv()
declare void @llvm.amdgcn.s.waitcnt(i32)
attributes #0 = { "amdgpu-no-implicitarg-ptr" "amdgpu-flat-work-group-size"="1,64" }
"""
    machine = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=0)
    code: bytes = machine.emit_object(binding.parse_assembly(text))
    for word in patches:
        at = code.index(DCACHE_INV if scalar else word)
        code = code[:at] + (word + code[at + 4:at + 8] if scalar else NOP * 2) + code[at + 8:]
    assert scalar or kernel == "nothing" or kernel == "glc" or (GL0_INV in code) != (GL1_INV in code) or not patches
    return code


@pytest.fixture(scope="module", params=["+gl1", ""])
def card(request: Any) -> Iterator[StrictCard]:
    with mock.Machine([mock.Gpu("gfx1100", vram="128M", strict=request.param)]) as machine:
        card = StrictCard(machine)
        yield card
        card.close()


def hand_over(card: StrictCard, kernel: str) -> tuple[int, int, list[str]]:
    """(what the reader found first, and then; the notes)."""
    known = len(card.notes("gl1"))
    program = card.dev.program(_code(kernel), kernel)
    out, data, flags = (card.dev.alloc(4096) for _ in range(3))
    data.copyin(np.full(LANES, OLD, np.uint32))
    flags.copyin(np.zeros(2, np.uint32))
    program(out, data, flags, grid=(2,), block=(LANES,))
    found = out.copyout().view(np.uint32)
    first, second = set(found[:LANES].tolist()), set(found[LANES:2 * LANES].tolist())
    assert len(first) == len(second) == 1
    return first.pop(), second.pop(), card.notes("gl1")[known:]


@pytest.mark.parametrize("kernel", BETWEEN)
def test_a_hand_over(card: StrictCard, kernel: str) -> None:
    first, second, notes = hand_over(card, kernel)
    forgets = kernel in ("nothing", "gl0_only", "gl1_only", "scalar", "scalar_dcache_only")
    assert first == OLD
    if not forgets or not card.board.gpu.is_strict("gl1"):
        assert second == NEW and not notes
        return
    assert second == OLD
    line, = notes
    assert "DISPATCH_" in line and f"which holds {OLD:#010x} at 0x" in line
    assert f"where workgroup 1 of the same launch has stored {NEW:#010x}" in line and ": workgroup 0 loads from" in line
    cache, missing = {"nothing": ("GL0", "buffer_gl0_inv and buffer_gl1_inv"), "gl0_only": ("GL1", "buffer_gl1_inv"),
                      "gl1_only": ("GL0", "buffer_gl0_inv and buffer_gl1_inv"),
                      "scalar": ("the scalar cache", "s_dcache_inv and s_gl1_inv"),
                      "scalar_dcache_only": ("GL1", "s_gl1_inv")}[kernel]
    otherwise = "" if "scalar" in kernel else " (or glc at the load)"
    assert f"out of {cache}, which" in line and f"; {missing}{otherwise} is missing in between" in line
