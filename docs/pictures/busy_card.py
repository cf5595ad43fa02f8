"""A mock card that worked and met an error, as a snapshot: what the screens of docs/tools.md look at.

Our driver boots it, copies a little, starts a kernel, and then one whose end is no instruction: its waves stand.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import hcq
import mock
import mock.snapshot
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.hal.mock import MockHal

__all__ = ["make"]

S_ENDPGM, NO_INSTRUCTION = bytes.fromhex("0000b0bf"), b"\xff" * 4
SCALE = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workitem.id.x()
define amdgpu_kernel void @scale(ptr addrspace(1) %out, float %factor) {
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  %place = getelementptr float, ptr addrspace(1) %out, i32 %item
  %value = load float, ptr addrspace(1) %place
  %scaled = fmul float %value, %factor
  store float %scaled, ptr addrspace(1) %place
  ret void
}
"""


def compiled(source: str) -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    return bytes(target.emit_object(binding.parse_assembly(source)))


def make(path: Path) -> tuple[Path, int]:
    """The snapshot's file, and the GPU address of a buffer in it."""
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine:
        hal = MockHal(machine)
        card = Device.open(hal=hal, address=hal.functions()[0].address)
        device = hcq.Device(AmBackend(card, 0))
        data = np.arange(1 << 12, dtype=np.float32)
        buffer = device.alloc(data.nbytes).copyin(data)
        code = compiled(SCALE)
        device.program(code, "scale")(buffer, np.float32(2), grid=1, block=64)
        assert np.array_equal(buffer.copyout(np.empty_like(data))[:64], 2 * data[:64])
        device.program(code.replace(S_ENDPGM, NO_INSTRUCTION, 1), "scale")(buffer, np.float32(3), grid=2, block=64)
        end = time.monotonic() + 60
        while not any(queue.hung for queue in machine.gpus[0].mec.everyone()):
            assert time.monotonic() < end
            time.sleep(0.01)
        address = next(each.address for each in card.require_memory().alive if each.size >= data.nbytes
                       and each.kind == "vram")
        mock.snapshot.save(machine, path)
        card._closed = True                 # its queue hangs, on purpose: nobody waits for a clean end
    return path, address
