"""A booted card that is driven packet by packet, so that a test can leave out any one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np

import hcq
import mock
from amdrv import pm4, sdma
from amdrv.backend import AmBackend
from amdrv.device import Allocation, Device
from amdrv.hal import Hal
from amdrv.hal.mock import MockHal
from amdrv.mmu.pte import EXECUTABLE, MTYPE_SHIFT, READABLE, SNOOPED, SYSTEM, VALID, WRITEABLE

LLVM_IR = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workitem.id.x()
@lds = internal addrspace(3) global [64 x i32] poison

define amdgpu_kernel void @vector(ptr addrspace(1) %out, ptr addrspace(1) %in) #0 {
  %i = call i32 @llvm.amdgcn.workitem.id.x()
  %p = getelementptr i32, ptr addrspace(1) %in, i32 %i
  %v = load i32, ptr addrspace(1) %p, align 4
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %i
  store i32 %v, ptr addrspace(1) %q, align 4
  ret void
}
define amdgpu_kernel void @device_scope(ptr addrspace(1) %out, ptr addrspace(1) %in) #0 {
  %i = call i32 @llvm.amdgcn.workitem.id.x()
  %p = getelementptr i32, ptr addrspace(1) %in, i32 %i
  %v = load atomic i32, ptr addrspace(1) %p syncscope("agent") monotonic, align 4
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %i
  store i32 %v, ptr addrspace(1) %q, align 4
  ret void
}
define amdgpu_kernel void @acquiring(ptr addrspace(1) %out, ptr addrspace(1) %in) #0 {
  %i = call i32 @llvm.amdgcn.workitem.id.x()
  fence syncscope("agent") acquire
  %p = getelementptr i32, ptr addrspace(1) %in, i32 %i
  %v = load i32, ptr addrspace(1) %p, align 4
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %i
  store i32 %v, ptr addrspace(1) %q, align 4
  ret void
}
define amdgpu_kernel void @atomic(ptr addrspace(1) %out, ptr addrspace(1) %in) #0 {
  %i = call i32 @llvm.amdgcn.workitem.id.x()
  %p = getelementptr i32, ptr addrspace(1) %in, i32 %i
  %v = atomicrmw add ptr addrspace(1) %p, i32 0 syncscope("agent") monotonic
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %i
  store i32 %v, ptr addrspace(1) %q, align 4
  ret void
}
define amdgpu_kernel void @scalar(ptr addrspace(1) %out, ptr addrspace(4) %in) #0 {
  %i = call i32 @llvm.amdgcn.workitem.id.x()
  %v = load i32, ptr addrspace(4) %in, align 4
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %i
  store i32 %v, ptr addrspace(1) %q, align 4
  ret void
}
define amdgpu_kernel void @constant(ptr addrspace(1) %out, ptr addrspace(1) %in) #0 {
  %i = call i32 @llvm.amdgcn.workitem.id.x()
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %i
  store i32 305419896, ptr addrspace(1) %q, align 4
  ret void
}
define amdgpu_kernel void @local(ptr addrspace(1) %out, ptr addrspace(1) %in) #0 {
  %i = call i32 @llvm.amdgcn.workitem.id.x()
  %p = getelementptr i32, ptr addrspace(3) @lds, i32 %i
  %v = load volatile i32, ptr addrspace(3) %p, align 4
  %q = getelementptr i32, ptr addrspace(1) %out, i32 %i
  store i32 %v, ptr addrspace(1) %q, align 4
  ret void
}
attributes #0 = { "amdgpu-no-implicitarg-ptr" "amdgpu-flat-work-group-size"="1,64" }
"""
CONSTANT = 305419896
LANES = 32
SDMA_INV = 1 << 14 | 1 << 15        # GL2_INV, GL2_WB of GCR_CNTL


@cache
def code_object() -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    code: bytes = machine.emit_object(binding.parse_assembly(LLVM_IR))
    return code


class StrictCard:
    """Card ``index`` of a machine, booted by the driver; the packets are the test's."""

    def __init__(self, machine: mock.Machine, index: int = 0) -> None:
        self.board = machine.gpus[index]
        self.device = Device.open(cast(Hal, MockHal(machine)), index=index)
        self.backend = AmBackend(self.device)
        self.dev = hcq.Device(self.backend)
        self._programs: dict[str, Any] = {}
        self._fence = self.alloc("system")
        self.kernarg = self.alloc("system")
        self.out = self.alloc("system")
        self._number = 0

    def close(self) -> None:
        self.device.close()

    # ---- memory

    def alloc(self, kind: str = "vram", nbytes: int = 4096) -> Allocation:
        return self.device.alloc(nbytes, kind=kind)     # type: ignore[arg-type]

    @staticmethod
    def words(allocation: Allocation) -> np.ndarray:
        """The CPU's view, uint32."""
        assert allocation.view is not None
        return allocation.view.view(np.uint32)

    def words_at(self, offset: int) -> np.ndarray:
        """A page of video memory as the CPU sees it, uint32[1024]."""
        return self.device.require_memory().view(offset, 4096, np.uint32)

    def map_again(self, allocation: Allocation, mtype: int) -> int:
        """Another address for an allocation, with the MTYPE of one's own choice."""
        memory = self.device.require_memory()
        address = memory.addresses.allocate(allocation.size, align=4096)
        flags = VALID | READABLE | WRITEABLE | EXECUTABLE | mtype << MTYPE_SHIFT
        base = 0 if allocation.kind != "vram" else memory.table_base
        if allocation.kind != "vram":
            flags |= SYSTEM | SNOOPED
        memory.tables.map(address, [(base + at, size) for at, size in allocation.segments], flags)
        self.device.flush_hdp()
        self.device.flush_tlb()
        return address

    # ---- work

    def run(self, words: list[int]) -> None:
        """Packets on the compute queue, to their end; the fence that tells of it touches no cache."""
        self._number += 1
        fence = pm4.build("RELEASE_MEM", EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX="END_OF_PIPE",
                          CACHE_POLICY="BYPASS", DST_SEL=0, DATA_SEL="LOW_32", INT_SEL="NONE",
                          ADDRESS=self._fence.address, DATA=self._number, INT_CTXID=0)
        self.device.compute_rings[0].submit(np.array([*words, *fence], np.uint32))
        self._wait(0)

    def copy_engine(self, words: list[int]) -> None:
        """The same on the first SDMA queue."""
        self._number += 1
        fence = sdma.build("FENCE", MTYPE="UC", ADDR=self._fence.address + 64, DATA=self._number)
        self.device.sdma_rings[0].submit(np.array([*words, *fence], np.uint32))
        self._wait(16)

    def _wait(self, at: int) -> None:
        word, end = self.words(self._fence), time.monotonic() + 120
        while int(word[at]) != self._number:
            assert time.monotonic() < end, f"the work does not end\n{self.board.notes}"
            self.device.check()
            time.sleep(0)

    def program(self, name: str) -> Any:
        if name not in self._programs:
            self._programs[name] = self.dev.program(code_object(), name)
        return self._programs[name]

    def launch(self, name: str, out: int, source: int = 0) -> list[int]:
        """Packets of a launch of one wave, and nothing else."""
        program = self.program(name)
        kernarg = self.words(self.kernarg).view(np.uint64)
        kernarg[:2] = out, source
        words: list[int] = []
        self.backend.compute.exec(words, program.kernel, self.kernarg.address, (1, 1, 1), (LANES, 1, 1))
        return words

    def entry(self, name: str) -> int:
        """Address of a kernel's code."""
        return int(self._programs[name].kernel.entry)

    def acquire(self, *, wait: bool = True, **bits: Any) -> list[int]:
        """``wait``: for the launches before it, too."""
        flush = pm4.build("EVENT_WRITE", EVENT_TYPE="CS_PARTIAL_FLUSH", EVENT_INDEX="PARTIAL_FLUSH") if wait else []
        fields = {"COHER_SIZE": (1 << 40) - 1, "COHER_BASE": 0, "POLL_INTERVAL": 10, **bits}
        return flush + pm4.build("ACQUIRE_MEM", **fields)

    @staticmethod
    def copy(target: int, source: int, nbytes: int = 4 * LANES, **bits: Any) -> list[int]:
        return sdma.build("COPY_LINEAR", COUNT=nbytes - 1, SRC_ADDR=source, DST_ADDR=target, **bits)

    def invalidate_by_sdma(self, control: int = SDMA_INV) -> list[int]:
        return sdma.build("GCR_REQ", BASE_VA=0, LIMIT_VA=0, GCR_CONTROL=control, VMID=0)

    def notes(self, rule: str) -> list[str]:
        return [note.text for note in self.board.notes.of(rule)]


MakeCard = Callable[..., StrictCard]
