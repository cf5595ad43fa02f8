"""Two software cards of one machine as hcq devices, and a kernel for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import hcq
import mock
from amdrv.backend import open_backend
from amdrv.hal.mock import MockHal

ADD = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workgroup.id.x()
declare i32 @llvm.amdgcn.workitem.id.x()
define amdgpu_kernel void @add(ptr addrspace(1) %out, ptr addrspace(1) %in, i32 %k) {
  %g = call i32 @llvm.amdgcn.workgroup.id.x()
  %l = call i32 @llvm.amdgcn.workitem.id.x()
  %b = mul i32 %g, 64
  %i = add i32 %b, %l
  %pi = getelementptr i32, ptr addrspace(1) %in, i32 %i
  %po = getelementptr i32, ptr addrspace(1) %out, i32 %i
  %x = load i32, ptr addrspace(1) %pi
  %y = add i32 %x, %k
  store i32 %y, ptr addrspace(1) %po
  ret void
}
"""
"""out[i] = in[i] + k, blocks of 64."""


def compiled(source: str = ADD, arch: str = "gfx1100") -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu=arch, opt=2)
    code: bytes = machine.emit_object(binding.parse_assembly(source))
    return code


@contextmanager
def cards(count: int = 2, vram: str = "128M") -> Iterator[list[hcq.Device]]:
    with ExitStack() as stack:
        machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram=vram) for _ in range(count)])
        stack.callback(machine.close)
        hal = MockHal(machine)
        yield [stack.enter_context(hcq.Device(open_backend(number, hal=hal))) for number in range(count)]


def notes(device: hcq.Device) -> list[object]:
    """What the card itself found wrong."""
    return list(device.backend.device.pci.board.notes)      # type: ignore[attr-defined]
