"""NBIO: the card's own side of PCIe. The register BAR, the doorbell apertures, interrupt delivery.

Registers are reached in two ways: directly, where they lie within the register BAR, and through the RSMU
index/data pair beyond it (Linux 6.1, amdgpu_device.c, amdgpu_device_wreg and amdgpu_device_indirect_wreg).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from amdrv.errors import BootError
from amdrv.hal import PciDevice, Region
from amdrv.regs import table_for

if TYPE_CHECKING:
    from amdrv.device import Device
    from amdrv.ip.discovery import Discovery

__all__ = ["Mmio", "Nbio"]

# PCI Local Bus Specification 3.0, 6.2.2; PCI Express Base Specification 5.0, 7.5.3.16
COMMAND, COMMAND_MEMORY, COMMAND_MASTER = 0x04, 1 << 1, 1 << 2
CAP_EXPRESS = 0x10
DEVICE_CONTROL_2, ATOMIC_OP_REQUESTER_ENABLE = 0x28, 1 << 6

# Linux 6.1, amdgpu_doorbell.h, AMDGPU_NAVI10_DOORBELL_ASSIGNMENT: numbers of 64-bit doorbells
DOORBELL_KIQ = 0x000
DOORBELL_MEC_RING0 = 0x003
DOORBELL_USERQUEUE_END = 0x08A
DOORBELL_SDMA_ENGINE0 = 0x100
DOORBELL_SDMA_RANGE = 20            # soc21.c: doorbells (32-bit ones) that one SDMA engine may use, halved
DOORBELL_SDMA_STRIDE = 0x10A - 0x100
DOORBELL_IH = 0x178

# Ports of the doorbell fabric (S2A) and the AXI write id behind each: nbio_v4_3.c
S2A_GC = ((0, 0x3), (3, 0x6))       # nbio_v4_3_gc_doorbell_init: 0x30000007 and 0x3000000d
S2A_IH = (1, 0x0)                   # nbio_v4_3_ih_doorbell_range
S2A_SDMA = (2, 0xE)                 # nbio_v4_3_sdma_doorbell_range
S2A_ADDRESS_31_28 = 0x3             # of GC's and SDMA's ports


class Mmio:
    """One access to a register, by dword address, whichever way leads there."""

    def __init__(self, region: Region, discovery: Discovery) -> None:
        self._region = region
        self._limit = region.size // 4
        nbif = discovery.require("NBIF")
        table = table_for(nbif.name, nbif.version)

        def byte_offset(name: str) -> int:
            register = table[name]
            assert register.base_idx is not None
            return 4 * (nbif.bases[register.base_idx] + register.offset)

        self._index, self._data = byte_offset("BIF_BX_PF0_RSMU_INDEX"), byte_offset("BIF_BX_PF0_RSMU_DATA")
        self._lock = threading.Lock()

    def read32(self, address: int) -> int:
        if address < self._limit:
            return self._region.read32(4 * address)
        with self._lock:
            self._region.write32(self._index, 4 * address)
            self._region.read32(self._index)            # the index has arrived before the data is asked for
            return self._region.read32(self._data)

    def write32(self, address: int, value: int) -> None:
        if address < self._limit:
            self._region.write32(4 * address, value)
            return
        with self._lock:
            self._region.write32(self._index, 4 * address)
            self._region.read32(self._index)
            self._region.write32(self._data, value)
            self._region.read32(self._data)


class Nbio:
    """First stage after discovery: the card may do DMA, and doorbells and the HDP flush have their places."""

    def __init__(self, device: Device) -> None:
        self.device, self.regs, self.pci = device, device.regs, device.pci

    def boot(self) -> None:
        self._enable_bus_master()
        self._enable_atomics()
        # nbio_v4_3_remap_hdp_registers: the flush registers appear in the last page of the low half MiB
        self.regs.BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL.write(4 * self.regs.REMAP_HDP_MEM_FLUSH.address)
        self.regs.BIF_BX0_REMAP_HDP_REG_FLUSH_CNTL.write(4 * self.regs.REMAP_HDP_REG_FLUSH.address)
        # nbio_v4_3_enable_doorbell_aperture
        self.regs.RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN.update(bif_doorbell_aper_en=1)

    def shutdown(self) -> None:
        self.regs.RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN.update(bif_doorbell_aper_en=0)
        disable_bus_master(self.pci)

    def _enable_bus_master(self) -> None:
        command = self.pci.config.read(COMMAND, 2)
        self.pci.config.write(COMMAND, 2, command | COMMAND_MEMORY | COMMAND_MASTER)
        if not self.pci.config.read(COMMAND, 2) & COMMAND_MASTER:
            raise BootError(f"bus mastering of {self.device.function.address} cannot be enabled; something above "
                            "(a VM, a bridge) forbids the card's DMA")

    def _enable_atomics(self) -> None:
        """AtomicOps to host memory, as pci_enable_atomic_ops_to_root does for amdgpu (amdgpu_device_init)."""
        express = self.pci.config.capability(CAP_EXPRESS)
        if express is None:
            raise BootError("the card shows no PCI Express capability; its configuration space is damaged")
        control = self.pci.config.read(express + DEVICE_CONTROL_2, 2)
        self.pci.config.write(express + DEVICE_CONTROL_2, 2, control | ATOMIC_OP_REQUESTER_ENABLE)

    # -- doorbells: who gets which range (numbers count 32-bit doorbells) -----------------------------------------

    def route_gc_doorbells(self) -> None:
        """nbio_v4_3_gc_doorbell_init: doorbells that no other port claims go to the graphics core."""
        for port, awid in S2A_GC:
            self._route(port, awid, 0, 0, S2A_ADDRESS_31_28)

    def route_ih_doorbell(self, index: int) -> None:
        port, awid = S2A_IH
        self._route(port, awid, index, 2, 0)

    def route_sdma_doorbells(self, index: int, count: int) -> None:
        port, awid = S2A_SDMA
        self._route(port, awid, index, count, S2A_ADDRESS_31_28)

    def close_ih_doorbell(self) -> None:
        self.regs[f"S2A_DOORBELL_ENTRY_{S2A_IH[0]}_CTRL"].update(
            **{f"S2A_DOORBELL_PORT{S2A_IH[0]}_RANGE_SIZE": 0})

    def close_sdma_doorbells(self) -> None:
        self.regs[f"S2A_DOORBELL_ENTRY_{S2A_SDMA[0]}_CTRL"].update(
            **{f"S2A_DOORBELL_PORT{S2A_SDMA[0]}_RANGE_SIZE": 0})

    def _route(self, port: int, awid: int, offset: int, size: int, address_31_28: int) -> None:
        prefix = f"S2A_DOORBELL_PORT{port}_"
        self.regs[f"S2A_DOORBELL_ENTRY_{port}_CTRL"].write(**{
            prefix + "ENABLE": 1, prefix + "AWID": awid, prefix + "RANGE_OFFSET": offset,
            prefix + "RANGE_SIZE": size, prefix + "AWADDR_31_28_VALUE": address_31_28})

    # -- interrupts ------------------------------------------------------------------------------------------------

    def control_interrupts(self, dummy_page: int) -> None:
        """nbio_v4_3_ih_control: no dummy read before an MSI, and a harmless place for one."""
        self.regs.BIF_BX0_INTERRUPT_CNTL2.write(dummy_page >> 8 & 0xFFFF_FFFF)
        self.regs.BIF_BX0_INTERRUPT_CNTL.update(ih_dummy_rd_override=0, ih_req_nonsnoop_en=0)


def disable_bus_master(pci: PciDevice) -> None:
    """The card's DMA ends; whatever it still wants to write is dropped by the bridge."""
    pci.config.write(COMMAND, 2, pci.config.read(COMMAND, 2) & ~COMMAND_MASTER)
