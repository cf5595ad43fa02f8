"""A card to poke at: the smallest raw driver there can be, on the plain interface and the register tables alone."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mock
from amdrv.facts import psp
from mock import firmware
from mock.registers import names_of

FB_BASE = 0x80_0000_0000
HDP_PAGE = 0x7F000          # where Linux puts the remapped HDP registers (Linux 6.1, soc21.c, rmmio_remap)


class Card:
    """``card.write("NAME", value)``, ``card.read("NAME")``, ``card.memory(offset, size)`` and so on, over a board."""

    def __init__(self, machine: mock.Machine, index: int = 0) -> None:
        self.machine, self.board = machine, machine.gpus[index]
        self.names = names_of("gfx1100")
        self.keep: list[object] = []
        self.msi: list[int] = []
        self.board.on_msi(self.msi.append)
        self.board.write_config(0x04, 2, 0x0006)

    def rule(self, rule: str) -> str:
        """The newest note of a rule, or an empty string."""
        notes = self.board.notes.of(rule)
        return notes[-1].text if notes else ""

    def dword(self, name: str) -> int:
        return self.names.find(name)[1]

    def read(self, name: str) -> int:
        dword = self.dword(name)
        if dword < 0x40000:
            return self.board.read_bar(5, 4 * dword, 4)
        self.write("BIF_BX_PF0_RSMU_INDEX", 4 * dword)
        return self.read("BIF_BX_PF0_RSMU_DATA")

    def write(self, name: str, value: int = 0, **fields: int) -> None:
        register, dword = self.names.find(name)
        value = register.merge(value, fields)
        if dword < 0x40000:
            self.board.write_bar(5, 4 * dword, 4, value)
        else:
            self.write("BIF_BX_PF0_RSMU_INDEX", 4 * dword)
            self.write("BIF_BX_PF0_RSMU_DATA", value)

    def wait(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"not within {seconds} s\n{self.board.notes}"
            time.sleep(0)
        return value

    def memory(self, offset: int, size: int, dtype: Any = np.uint8) -> np.ndarray:
        """A window on video memory."""
        return np.frombuffer(self.board.bar_memory(0, offset, size), dtype)

    def system(self, size: int) -> tuple[np.ndarray, int]:
        """System memory (uint8[size], zeros) and its bus address."""
        raw = np.zeros(size + 4096, np.uint8)
        start = -raw.ctypes.data % 4096
        memory = raw[start:start + size]
        self.keep.append(raw)
        return memory, self.machine.bus.attach(int(memory.ctypes.data), size)

    def flush(self) -> None:
        self.board.write_bar(5, HDP_PAGE, 4, 0)

    def setup(self) -> None:
        """NBIO's remapped page, and the MM hub open for VMID 0 inside of the frame buffer."""
        self.write("BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL", HDP_PAGE)
        top = FB_BASE + self.board.vram.size - 1
        self.write("MMMC_VM_SYSTEM_APERTURE_LOW_ADDR", FB_BASE >> 18)
        self.write("MMMC_VM_SYSTEM_APERTURE_HIGH_ADDR", top >> 18)
        self.write("MMMC_VM_MX_L1_TLB_CNTL", ENABLE_L1_TLB=1, SYSTEM_ACCESS_MODE=3, ENABLE_ADVANCED_DRIVER_MODEL=1)
        self.write("MMVM_L2_CNTL", ENABLE_L2_CACHE=1)
        self.write("MMVM_L2_CNTL2", INVALIDATE_ALL_L1_TLBS=1, INVALIDATE_L2_CACHE=1)

    # ---- PSP

    IMAGE, RING, COMMAND, FENCE, TMR = 0x100000, 0x300000, 0x301000, 0x302000, 0x1000000

    def boot_loader(self, command: int, image: bytes) -> int:
        """One boot loader command; the content of C2PMSG_35 afterwards."""
        self.wait(lambda: self.read("MP0_SMN_C2PMSG_35") & 1 << 31)
        self.memory(self.IMAGE, len(image))[:] = np.frombuffer(image, np.uint8)
        self.flush()
        self.write("MP0_SMN_C2PMSG_36", (FB_BASE + self.IMAGE) >> 20)
        self.write("MP0_SMN_C2PMSG_35", command)
        return int(self.wait(lambda: self.read("MP0_SMN_C2PMSG_35") & 1 << 31 and self.read("MP0_SMN_C2PMSG_35")))

    def start_sos(self) -> None:
        for command in (psp.PSP_BL__LOAD_KEY_DATABASE, psp.PSP_BL__LOAD_TOS_SPL_TABLE, psp.PSP_BL__LOAD_SYSDRV,
                        psp.PSP_BL__LOAD_SOSDRV):
            assert self.boot_loader(command, firmware.image(firmware.BOOTLOADER[command])) == 1 << 31
        self.wait(lambda: self.read("MP0_SMN_C2PMSG_81"))

    def mailbox(self, value: int) -> int:
        self.write("MP0_SMN_C2PMSG_64", value)
        return int(self.wait(lambda: self.read("MP0_SMN_C2PMSG_64") & 1 << 31 and self.read("MP0_SMN_C2PMSG_64")))

    def create_ring(self, size: int = 0x1000) -> int:
        self.write("MP0_SMN_C2PMSG_69", (FB_BASE + self.RING) & 0xFFFFFFFF)
        self.write("MP0_SMN_C2PMSG_70", (FB_BASE + self.RING) >> 32)
        self.write("MP0_SMN_C2PMSG_71", size)
        return self.mailbox(psp.GFX_CTRL_CMD_ID_INIT_GPCOM_RING)

    def command(self, number: int, *, wait: bool = True, flush: bool = True, **fields: int) -> psp.psp_gfx_resp:
        """One command through the ring; ``fields`` as ``struct__field``."""
        command = psp.psp_gfx_cmd_resp(cmd_id=number)
        for name, value in fields.items():
            struct, field = name.split("__")
            setattr(getattr(command.cmd, struct), field, value)
        wptr = self.read("MP0_SMN_C2PMSG_67")
        value = wptr + 100
        frame = psp.psp_gfx_rb_frame(
            cmd_buf_addr_lo=(FB_BASE + self.COMMAND) & 0xFFFFFFFF, cmd_buf_addr_hi=(FB_BASE + self.COMMAND) >> 32,
            fence_addr_lo=(FB_BASE + self.FENCE) & 0xFFFFFFFF, fence_addr_hi=(FB_BASE + self.FENCE) >> 32,
            fence_value=value)
        fence = self.memory(self.FENCE, 4, np.uint32)
        fence[0] = 0
        self.flush()
        buffer = self.memory(self.COMMAND, 1024)
        buffer[:] = np.frombuffer(bytes(command), np.uint8)
        self.memory(self.RING + 4 * wptr, ctypes.sizeof(frame))[:] = np.frombuffer(bytes(frame), np.uint8)
        if flush:
            self.flush()
        self.write("MP0_SMN_C2PMSG_67", (wptr + 16) % 1024)
        if wait:
            self.wait(lambda: fence[0] == value)
        return psp.psp_gfx_resp.from_buffer_copy(buffer[864:960].tobytes())

    def load(self, kind: str, image: bytes | None = None) -> int:
        """LOAD_IP_FW of a synthetic image; the status."""
        number = psp.ENUMS["psp_gfx_fw_type"]["GFX_FW_TYPE_" + kind]
        image = firmware.image(kind) if image is None else image
        self.memory(self.IMAGE, len(image))[:] = np.frombuffer(image, np.uint8)
        return self.command(psp.GFX_CMD_ID_LOAD_IP_FW, cmd_load_ip_fw__fw_phy_addr_lo=FB_BASE + self.IMAGE & 0xFFFFFFFF,
                            cmd_load_ip_fw__fw_phy_addr_hi=FB_BASE + self.IMAGE >> 32,
                            cmd_load_ip_fw__fw_size=len(image), cmd_load_ip_fw__fw_type=number).status

    def load_toc(self) -> psp.psp_gfx_resp:
        image = firmware.image("TOC")
        self.memory(self.IMAGE, len(image))[:] = np.frombuffer(image, np.uint8)
        return self.command(psp.GFX_CMD_ID_LOAD_TOC, cmd_load_toc__toc_phy_addr_lo=FB_BASE + self.IMAGE & 0xFFFFFFFF,
                            cmd_load_toc__toc_phy_addr_hi=FB_BASE + self.IMAGE >> 32, cmd_load_toc__toc_size=len(image))

    def setup_tmr(self, size: int) -> int:
        return self.command(psp.GFX_CMD_ID_SETUP_TMR, cmd_setup_tmr__buf_phy_addr_lo=FB_BASE + self.TMR & 0xFFFFFFFF,
                            cmd_setup_tmr__buf_phy_addr_hi=FB_BASE + self.TMR >> 32,
                            cmd_setup_tmr__buf_size=size).status

    def start_smu(self) -> None:
        """Everything up to a running SMU."""
        self.setup()
        self.start_sos()
        assert self.create_ring() == 1 << 31
        assert self.load("SMU") == 0

    def smu(self, message: int, argument: int = 0) -> tuple[int, int]:
        """(result, argument) of a message."""
        self.write("MP1_SMN_C2PMSG_90", 0)
        self.write("MP1_SMN_C2PMSG_82", argument)
        self.write("MP1_SMN_C2PMSG_66", message)
        result = self.wait(lambda: self.read("MP1_SMN_C2PMSG_90"))
        return int(result), self.read("MP1_SMN_C2PMSG_82")


@pytest.fixture(autouse=True)
def firmware_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reset the card's firmware is ready when it was polled for, not after some time."""
    monkeypatch.setattr("mock.nbio.READY_SECONDS", 1e9)


@pytest.fixture
def machine() -> Iterator[mock.Machine]:
    with mock.Machine([mock.Gpu("gfx1100", vram="64M")]) as made:
        yield made


@pytest.fixture
def card(machine: mock.Machine) -> Card:
    return Card(machine)


@pytest.fixture
def make_card() -> Iterator[Callable[..., Card]]:
    machines: list[mock.Machine] = []

    def make(**options: Any) -> Card:
        machines.append(mock.Machine([mock.Gpu(**{"vram": "64M", **options})]))
        return Card(machines[-1])
    yield make
    for made in machines:
        made.close()
