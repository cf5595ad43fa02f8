"""What strict memory costs: the same work on a card with the rules and on one without: python -m bench.strict

Kernels run through the driver and hcq, so that caches, page tables and flushes all take part. The two cards are
measured in turns; processor time of all threads is compared, and the best of several counts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import hcq
import mock
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.hal.mock import MockHal
from mock.isa.jit import wait_for_compiler
from mock.isa.jit.kernels import COMPILED_SECONDS
from mock.rules import RULES

__all__ = ["Cost", "main", "measure"]

LLVM_IR = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workitem.id.x()
declare i32 @llvm.amdgcn.workgroup.id.x()
define amdgpu_kernel void @add(ptr addrspace(1) %out, ptr addrspace(1) %a, ptr addrspace(1) %b) #0 {
  %g = call i32 @llvm.amdgcn.workgroup.id.x()
  %w = call i32 @llvm.amdgcn.workitem.id.x()
  %gs = mul i32 %g, 256
  %i = add i32 %gs, %w
  %j = zext i32 %i to i64
  %p = getelementptr float, ptr addrspace(1) %a, i64 %j
  %q = getelementptr float, ptr addrspace(1) %b, i64 %j
  %r = getelementptr float, ptr addrspace(1) %out, i64 %j
  %x = load float, ptr addrspace(1) %p
  %y = load float, ptr addrspace(1) %q
  %z = fadd float %x, %y
  store float %z, ptr addrspace(1) %r
  ret void
}
define amdgpu_kernel void @chain(ptr addrspace(1) %out, ptr addrspace(1) %a, ptr addrspace(1) %b) #0 {
entry:
  %w = call i32 @llvm.amdgcn.workitem.id.x()
  %j = zext i32 %w to i64
  %p = getelementptr float, ptr addrspace(1) %a, i64 %j
  %x = load float, ptr addrspace(1) %p
  br label %loop
loop:
  %n = phi i32 [0, %entry], [%n1, %loop]
  %v = phi float [%x, %entry], [%v1, %loop]
  %v1 = call float @llvm.fma.f32(float %v, float %x, float %x)
  %n1 = add i32 %n, 1
  %more = icmp ult i32 %n1, 4096
  br i1 %more, label %loop, label %done
done:
  %r = getelementptr float, ptr addrspace(1) %out, i64 %j
  store float %v1, ptr addrspace(1) %r
  ret void
}
declare float @llvm.fma.f32(float, float, float)
attributes #0 = { "amdgpu-no-implicitarg-ptr" "amdgpu-flat-work-group-size"="256,256" }
"""
LANES = 256
NOTHING = "".join(f"-{rule}" for rule in RULES if rule != "tlb")
"""Rule ``tlb`` stays: TLBs that look at the tables again with every packet are slower than those that do not."""


class Cost(NamedTuple):
    """Best processor seconds of one piece of work without and with the rules."""

    what: str
    relaxed: float
    strict: float

    @property
    def loss(self) -> float:
        """Share of the speed that is lost."""
        return 1 - self.relaxed / self.strict

    def __str__(self) -> str:
        return (f"{self.what:<44} off {self.relaxed * 1e3:9.2f} ms   on {self.strict * 1e3:9.2f} ms   "
                f"loss {100 * self.loss:6.1f} %")


class _Card:
    def __init__(self, strict: str, elements: int) -> None:
        self.machine = mock.Machine([mock.Gpu("gfx1100", vram="256M", strict=strict)])
        self.device = Device.open(MockHal(self.machine))
        self.dev = hcq.Device(AmBackend(self.device))
        self.programs = {name: self.dev.program(_code(), name) for name in ("add", "chain")}
        self.elements = elements
        self.out, self.a, self.b = (self.dev.alloc(4 * elements) for _ in range(3))
        self.host = np.random.default_rng(0).random(elements, np.float32)
        self.a.copyin(self.host)
        self.b.copyin(self.host)

    def close(self) -> None:
        self.dev.synchronize()
        self.device.close()
        self.machine.close()

    def _launch(self, name: str, out: hcq.Buffer, groups: int, times: int = 1) -> None:
        for _ in range(times):
            self.programs[name](out, self.a, self.b, grid=groups, block=LANES)
        self.dev.synchronize()

    def work(self) -> dict[str, Callable[[], object]]:
        groups = self.elements // LANES
        size = 4 * self.elements >> 20
        return {f"add of {size} MiB, launch to result": lambda: self._launch("add", self.out, groups),
                f"the same in place, {size} MiB": lambda: self._launch("add", self.a, groups),
                "multiply-adds, 512 waves, hardly any memory": lambda: self._launch("chain", self.out, 64),
                "100 launches of one workgroup": lambda: self._launch("add", self.out, 1, 100),
                f"copy in and out by SDMA, {size} MiB": self._copies}

    def _copies(self) -> None:
        self.out.copyin(self.host)
        self.out.copyout(self.host)


def _code() -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    code: bytes = machine.emit_object(binding.parse_assembly(LLVM_IR))
    return code


def _boot(strict: str) -> float:
    with mock.Machine([mock.Gpu("gfx1100", vram="256M", strict=strict)]) as machine:
        start = time.process_time()
        with Device.open(MockHal(machine)):
            return time.process_time() - start


def _warm(*works: Callable[[], object]) -> None:
    """Both for so long that their code is optimised."""
    for work in works:
        until = time.perf_counter() + 2 * COMPILED_SECONDS
        work()
        while time.perf_counter() < until:
            work()
    wait_for_compiler()


def measure(elements: int = 1 << 22, repeat: int = 15) -> list[Cost]:
    """The cost of each piece of work."""
    os.environ.setdefault("AMDRV_ISA", "jit")
    relaxed, strict = _Card(NOTHING, elements), _Card("", elements)
    try:
        found = []
        for (what, without), with_rules in zip(relaxed.work().items(), strict.work().values(), strict=True):
            _warm(without, with_rules)
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(repeat):
                for work, seconds in zip((without, with_rules), times, strict=True):
                    start = time.process_time()
                    work()
                    seconds.append(time.process_time() - start)
            found.append(Cost(what, *(min(seconds) for seconds in times)))
    finally:
        relaxed.close()
        strict.close()
    boots = [(_boot(NOTHING), _boot("")) for _ in range(repeat)]
    found.append(Cost("boot", min(first for first, _ in boots), min(second for _, second in boots)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    options = parser.parse_args()
    for cost in measure(*((1 << 18, 3) if options.quick else ())):
        print(cost, flush=True)


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
