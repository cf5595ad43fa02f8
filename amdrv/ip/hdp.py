"""HDP: the host data path, a write buffer between the CPU's window on VRAM and the engines.

What the CPU stored through BAR 0 is seen by engines only after a flush.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["Hdp"]


class Hdp:
    def __init__(self, device: Device) -> None:
        self.device, self.regs, self.pci = device, device.regs, device.pci

    def flush(self) -> None:
        """hdp_v6_0_flush_hdp. The read that follows waits until the write has arrived (newer kernels' amdgpu_hdp.c)."""
        self.pci.fence()                                # earlier stores have left the CPU's write-combining buffers
        self.regs.REMAP_HDP_MEM_FLUSH.write(0)
        self.regs.RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE.read()
        if self.device.memory is not None:
            self.device.memory.count_changes()
