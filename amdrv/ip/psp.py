"""PSP: the security processor. It checks and loads every other firmware; nothing runs without it.

From cold: the boot loader in ROM is given the parts of the PSP's own system one by one; then commands go through a
ring: the table of contents, the SMU's firmware, a trusted memory region (TMR), every engine's firmware, and at last
the order to the RLC to load them into the graphics core (Linux 6.1, amdgpu_psp.c, psp_hw_start and
psp_load_non_psp_fw; psp_v13_0.c).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from amdrv.errors import BootError, FirmwareError, WaitTimeout
from amdrv.facts import psp as facts
from amdrv.wait import wait_until

if TYPE_CHECKING:
    from amdrv.device import Device
    from amdrv.firmware import Component, Image
    from amdrv.memory import Allocation

__all__ = ["Psp"]

RING_BYTES = 4096               # psp_v13_0_ring_init
FRAME_BYTES = ctypes.sizeof(facts.psp_gfx_rb_frame)
STAGING_BYTES = 1 << 20         # psp_sw_init: PSP_1_MEG, aligned likewise; grows for larger images
RESPONSE = facts.GFX_FLAG_RESPONSE
BOOTLOADER_READY, BOOTLOADER_ERROR = 1 << 31, 0xFF      # psp_v13_0_wait_for_bootloader
BOOTLOADER_TIMEOUT = 10.0       # seconds; it is training memory meanwhile
RING_TIMEOUT = 5.0
COMMAND_TIMEOUT = 10.0
HANDSHAKE_DELAY = 0.02          # psp_v13_0_ring_create and _load_sos: "there might be handshake issue with hardware"

COMMANDS = {number: name.removeprefix("GFX_CMD_ID_") for name, number in facts.ENUMS["psp_gfx_cmd_id"].items()}


class Psp:
    def __init__(self, device: Device) -> None:
        self.device, self.regs = device, device.regs
        self.booted = False
        self.tmr: tuple[int, int] | None = None         # (VRAM offset, bytes)
        self.loaded = 0                                 # parts of the system that the boot loader has taken
        self._fence_value = 0

    @property
    def alive(self) -> bool:
        """The PSP's system runs already: someone has booted this card (psp_v13_0_is_sos_alive)."""
        return self.regs.MP0_SMN_C2PMSG_81.read() != 0

    @property
    def stuck(self) -> bool:
        """The boot loader has refused something and waits for a reset: bits 7:0 hold its error."""
        value = int(self.regs.MP0_SMN_C2PMSG_35.read())
        return bool(value & BOOTLOADER_READY and value & BOOTLOADER_ERROR)

    def silent(self) -> bool:
        """Neither the boot loader nor the system answers, after as long as the boot loader may take."""
        def answers() -> bool:
            return self.alive or bool(int(self.regs.MP0_SMN_C2PMSG_35.read()) & BOOTLOADER_READY)
        try:
            wait_until(answers, BOOTLOADER_TIMEOUT, "PSP boot loader or system to answer")
        except WaitTimeout:
            return True
        return False

    def boot(self) -> None:
        firmware, memory = self.device.firmware, self.device.require_memory()
        payloads = [part.payload for part in firmware.bootloader] + [
            image.payload for image in (firmware.toc, firmware.smu, *firmware.images)]
        self._staging = memory.alloc(max(STAGING_BYTES, *map(len, payloads)), kind="system", align=STAGING_BYTES,
                                     name="PSP staging")
        self._fence = memory.alloc(4096, kind="system", name="PSP fence")
        assert self._staging.view is not None and self._fence.view is not None
        self._fence_word = self._fence.view[:4].view(np.uint32)
        self._ring_offset = memory.boot_pages.allocate(RING_BYTES, contiguous=True)[0][0]
        self._command_offset = memory.boot_pages.allocate(facts.PSP_CMD_BUFFER_SIZE, contiguous=True)[0][0]

        for component in firmware.bootloader:
            self._bootload(component)
            self.loaded += 1
        self._wait_for_sos()
        self._create_ring()
        tmr_bytes = self._load_toc(firmware.toc)
        self.load(firmware.smu)
        self._setup_tmr(tmr_bytes)
        for image in firmware.images:
            self.load(image)
        self._command(facts.GFX_CMD_ID_AUTOLOAD_RLC, "start the RLC's autoload")
        self.booted = True

    def adopt(self, tmr_bytes: int) -> None:
        """The system and every firmware run since an earlier boot: keep clear of their memory, which is where a boot
        from cold puts it."""
        pages = self.device.require_memory().boot_pages
        for size in (RING_BYTES, facts.PSP_CMD_BUFFER_SIZE):
            pages.allocate(size, contiguous=True)
        self.tmr = pages.allocate(tmr_bytes, contiguous=True)[0]

    # -- boot loader ------------------------------------------------------------------------------------------------

    def _bootload(self, component: Component) -> None:
        """psp_v13_0_bootloader_load_component"""
        what = f"PSP boot loader, {component.name} of {component.file}"
        self._await_bootloader(what)
        self._stage(component.payload)
        self.regs.MP0_SMN_C2PMSG_36.write(self._staging.address >> 20 & 0xFFFF_FFFF)
        self.regs.MP0_SMN_C2PMSG_35.write(component.command)
        if component.command != facts.PSP_BL__LOAD_SOSDRV:      # after it, the boot loader is gone
            self._await_bootloader(what)

    def _await_bootloader(self, what: str) -> None:
        register = self.regs.MP0_SMN_C2PMSG_35
        try:
            value = wait_until(lambda: (int(register.read()) & BOOTLOADER_READY and int(register.read())),
                               BOOTLOADER_TIMEOUT, f"{what} (MP0_SMN_C2PMSG_35 bit 31)",
                               seen=lambda: int(register.read()))
        except WaitTimeout as error:
            raise BootError(f"{error}; the boot loader does not answer: reset or power-cycle the card") from error
        if value & BOOTLOADER_ERROR:
            raise FirmwareError(f"{what}: refused with code {value & BOOTLOADER_ERROR:#x}; the file is damaged or not "
                                "for this card")

    def _wait_for_sos(self) -> None:
        """psp_v13_0_bootloader_load_sos: the sign of life changes."""
        time.sleep(HANDSHAKE_DELAY)
        try:
            wait_until(lambda: self.alive, BOOTLOADER_TIMEOUT, "PSP system (sOS) to come up (MP0_SMN_C2PMSG_81)",
                       seen=lambda: f"C2PMSG_81 {int(self.regs.MP0_SMN_C2PMSG_81.read()):#x}, boot loader "
                                    f"{int(self.regs.MP0_SMN_C2PMSG_35.read()):#x}")
        except WaitTimeout as error:
            raise FirmwareError(f"{error}; the file psp_*_sos.bin is damaged or not for this card") from error

    def _stage(self, data: bytes) -> None:
        """psp_copy_fw: zeros, then the image."""
        view = self._staging.view
        assert view is not None
        view[:len(data)] = np.frombuffer(data, np.uint8)
        view[len(data):] = 0
        self.device.pci.fence()

    # -- ring -------------------------------------------------------------------------------------------------------

    def _create_ring(self) -> None:
        """psp_v13_0_ring_create"""
        control, memory = self.regs.MP0_SMN_C2PMSG_64, self.device.require_memory()
        wait_until(lambda: control.read() & RESPONSE, RING_TIMEOUT, "PSP ready for a ring (MP0_SMN_C2PMSG_64)",
                   seen=lambda: int(control.read()))
        memory.view(self._ring_offset, RING_BYTES)[:] = 0
        self.device.hdp.flush()
        address = self.device.gmc.fb_start + self._ring_offset
        self.regs.MP0_SMN_C2PMSG_69.write(address & 0xFFFF_FFFF)
        self.regs.MP0_SMN_C2PMSG_70.write(address >> 32)
        self.regs.MP0_SMN_C2PMSG_71.write(RING_BYTES)
        control.write(facts.PSP_RING_TYPE__KM << 16)
        time.sleep(HANDSHAKE_DELAY)
        wait_until(lambda: control.read() & (RESPONSE | facts.GFX_CMD_STATUS_MASK) == RESPONSE, RING_TIMEOUT,
                   "PSP ring created (MP0_SMN_C2PMSG_64)", seen=lambda: int(control.read()))

    def _command(self, number: int, what: str, fill: facts.psp_gfx_cmd_resp | None = None) -> facts.psp_gfx_resp:
        """psp_cmd_submit_buf and psp_ring_cmd_submit: one command, and its answer.

        :raises FirmwareError: the PSP refused.
        """
        memory = self.device.require_memory()
        command = fill if fill is not None else facts.psp_gfx_cmd_resp()
        command.cmd_id = number
        buffer = memory.view(self._command_offset, ctypes.sizeof(command))
        buffer[:] = np.frombuffer(bytes(command), np.uint8)

        self._fence_value += 1
        value, wptr = self._fence_value, int(self.regs.MP0_SMN_C2PMSG_67.read())
        frame = facts.psp_gfx_rb_frame()
        at = self.device.gmc.fb_start + self._command_offset
        frame.cmd_buf_addr_lo, frame.cmd_buf_addr_hi = at & 0xFFFF_FFFF, at >> 32
        frame.fence_addr_lo, frame.fence_addr_hi = self._fence.address & 0xFFFF_FFFF, self._fence.address >> 32
        frame.fence_value = value
        memory.view(self._ring_offset + 4 * wptr % RING_BYTES, FRAME_BYTES)[:] = np.frombuffer(bytes(frame), np.uint8)
        self.device.hdp.flush()
        self.regs.MP0_SMN_C2PMSG_67.write((wptr + FRAME_BYTES // 4) % (RING_BYTES // 4))

        name = COMMANDS.get(number, hex(number))
        try:
            wait_until(lambda: int(self._fence_word[0]) == value, COMMAND_TIMEOUT, f"PSP command {name} ({what})",
                       seen=lambda: f"fence {int(self._fence_word[0])} of {value}")
        except WaitTimeout as error:
            raise FirmwareError(f"{error}; the PSP hangs: reset the card") from error
        self.device.hdp.flush()
        response = facts.psp_gfx_cmd_resp.from_buffer_copy(buffer.tobytes()).resp
        if response.status:
            raise FirmwareError(f"PSP command {name} ({what}) was refused with status {response.status:#x}; the "
                                "firmware file is damaged or not for this card")
        return response

    def _load_toc(self, toc: Image) -> int:
        """psp_load_toc: the PSP says how much trusted memory the firmware will need."""
        self._stage(toc.payload)
        command = facts.psp_gfx_cmd_resp()
        load = command.cmd.cmd_load_toc
        load.toc_phy_addr_lo, load.toc_phy_addr_hi = _halves(self._staging)
        load.toc_size = len(toc.payload)
        return self._command(facts.GFX_CMD_ID_LOAD_TOC, f"table of contents, {toc.file}", command).tmr_size

    def _setup_tmr(self, nbytes: int) -> None:
        """psp_tmr_init and psp_tmr_load"""
        if nbytes <= 0:
            raise FirmwareError("the PSP asks for no trusted memory: its table of contents is empty")
        memory = self.device.require_memory()
        nbytes = -(-nbytes // facts.PSP_TMR_ALIGNMENT) * facts.PSP_TMR_ALIGNMENT
        offset = memory.boot_pages.allocate(nbytes, contiguous=True)[0][0]
        self.tmr = offset, nbytes
        command = facts.psp_gfx_cmd_resp()
        setup = command.cmd.cmd_setup_tmr
        address, physical = self.device.gmc.fb_start + offset, self.device.gmc.fb_offset + offset
        setup.buf_phy_addr_lo, setup.buf_phy_addr_hi = address & 0xFFFF_FFFF, address >> 32
        setup.buf_size = nbytes
        setup.bitfield.virt_phy_addr = 1
        setup.system_phy_addr_lo, setup.system_phy_addr_hi = physical & 0xFFFF_FFFF, physical >> 32
        self._command(facts.GFX_CMD_ID_SETUP_TMR, f"{nbytes >> 20} MiB of trusted memory", command)

    def load(self, image: Image) -> None:
        """psp_execute_non_psp_fw_load: one firmware."""
        self._stage(image.payload)
        command = facts.psp_gfx_cmd_resp()
        load = command.cmd.cmd_load_ip_fw
        load.fw_phy_addr_lo, load.fw_phy_addr_hi = _halves(self._staging)
        load.fw_size, load.fw_type = len(image.payload), image.fw_type
        self._command(facts.GFX_CMD_ID_LOAD_IP_FW, f"{image.name} of {image.file}", command)

    # -- the way out ------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """psp_ring_destroy. The system, the trusted memory and the firmware in it stay until the card is reset: the
        next boot of this driver takes them over."""
        if not self.booted:
            return
        self.booted = False
        control = self.regs.MP0_SMN_C2PMSG_64
        control.write(facts.GFX_CTRL_CMD_ID_DESTROY_RINGS)
        time.sleep(HANDSHAKE_DELAY)
        wait_until(lambda: control.read() & RESPONSE, RING_TIMEOUT, "PSP ring destroyed (MP0_SMN_C2PMSG_64)",
                   seen=lambda: int(control.read()))


def _halves(allocation: Allocation) -> Sequence[int]:
    return allocation.address & 0xFFFF_FFFF, allocation.address >> 32
