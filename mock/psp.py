"""PSP: the security processor that starts everything else. Boot loader, secure OS, command ring, firmware loading.

The order that a driver must keep (Linux 6.1, psp_v13_0.c and amdgpu_psp.c), and what happens otherwise:

* C2PMSG_35 is 0x80000000 when the boot loader is ready; it takes key database, SPL table, system driver, SoC,
  interface, debug and RAS drivers, secure OS, in this order (those that Navi 31's file has: database, table, system
  driver, secure OS). A wrong order or an image that does not authenticate leaves an error code in bits 7:0, and the
  secure OS never comes alive (C2PMSG_81 stays 0). The image lies at C2PMSG_36 << 20.
* A ring is created once (C2PMSG_69 to 71, then C2PMSG_64) and destroyed before it is created again.
* Commands: LOAD_TOC, LOAD_IP_FW of the SMU, SETUP_TMR with at least the size that LOAD_TOC returned, LOAD_IP_FW of the
  rest, AUTOLOAD_RLC, which fails unless every needed firmware is there. A loaded image is copied into the TMR, so a
  driver that uses that memory for something else finds firmware in it.

The PSP reads and writes GPU addresses of VMID 0 through the MM hub, on a thread of its own; what the CPU stored through
BAR0 it sees after an HDP flush. Refusals are status words of the GlobalPlatform TEE Client API 1.0, 4.3.2, where Linux
names none; which one silicon gives in which case is not known.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from amdrv.facts import psp as facts
from mock.block import Block, on_read, on_write
from mock.engine import Aborted
from mock.faults import register

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Psp"]

READY = 1 << 31
MIB = 1 << 20
FRAME_BYTES = ctypes.sizeof(facts.psp_gfx_rb_frame)
COMMAND_BYTES = ctypes.sizeof(facts.psp_gfx_cmd_resp)
IMAGE_VERSION_AT = 0x60         # of a signed image (mock.firmware)
RESPONSE_OFFSET = facts.psp_gfx_cmd_resp.resp.offset
SOS_VERSION = 0x00310032        # of psp_13_0_0_sos.bin in linux-firmware of April 2025
SOS_LOOKS, SOS_SECONDS = 2, 1.0
"""The secure OS is alive at the second look at C2PMSG_81, or after so long. At the first it is not: Linux looks once
20 ms after the command, and then waits for another value (Linux 6.1, psp_v13_0.c, psp_v13_0_bootloader_load_sos)."""
ATTESTATION_COOKIE, ATTESTATION_BYTES = 0x143B6A37, 4096
"""Linux 6.1, amdgpu_fw_attestation.c, FW_ATTESTATION_DB_COOKIE and FW_ATTESTATION_MAX_SIZE."""
TMR_BYTES = 0x1300000
"""What LOAD_TOC answers; a figure of ours, large enough for the card's firmware."""

TEE_ERROR_BAD_FORMAT, TEE_ERROR_BAD_PARAMETERS, TEE_ERROR_BAD_STATE = 0xFFFF0005, 0xFFFF0006, 0xFFFF0007
TEE_ERROR_ITEM_NOT_FOUND, TEE_ERROR_OUT_OF_MEMORY, TEE_ERROR_SECURITY = 0xFFFF0008, 0xFFFF000C, 0xFFFF000F

BL_ERROR_ORDER, BL_ERROR_IMAGE, BL_ERROR_COMMAND = 0x01, 0x02, 0x03
"""In bits 7:0 of C2PMSG_35 (that they report errors: Linux 6.1, psp_v13_0_wait_for_bootloader; the values are ours)."""

BOOT_ORDER = {facts.PSP_BL__LOAD_KEY_DATABASE: "KEY_DATABASE", facts.PSP_BL__LOAD_TOS_SPL_TABLE: "TOS_SPL_TABLE",
              facts.PSP_BL__LOAD_SYSDRV: "SYSDRV", facts.PSP_BL__LOAD_SOCDRV: "SOCDRV",
              facts.PSP_BL__LOAD_INTFDRV: "INTFDRV", facts.PSP_BL__LOAD_DBGDRV: "DBGDRV",
              facts.PSP_BL__LOAD_RASDRV: "RASDRV", facts.PSP_BL__LOAD_SOSDRV: "SOSDRV"}
BOOT_REQUIRED = ("KEY_DATABASE", "TOS_SPL_TABLE", "SYSDRV")
"""Before the secure OS: what psp_13_0_0_sos.bin has. It has no SoC, interface, debug and RAS drivers of their own."""

BEFORE_TMR = ("SMU", "TOC")
"""Firmware that is taken before SETUP_TMR (Linux 6.1, amdgpu_psp.c, psp_hw_start, on PMFW and TMR)."""

AUTOLOAD_NEEDS = ("SMU", "SDMA_UCODE_TH0", "SDMA_UCODE_TH1", "RS64_MEC", "RS64_MEC_P0_STACK", "IMU_I", "IMU_D",
                  "RLC_IRAM", "RLC_DRAM_BOOT", "RLC_P", "RLC_V", "RLC_G")
"""Before AUTOLOAD_RLC. Linux loads more (the graphics pipe's PFP and ME, stacks of the other MEC pipes, RLC's restore
lists, the scheduler); that a card boots for computing without those is known from drivers that do not load them
(tinygrad 0.14, runtime/support/am/amdev.py, AMFirmware)."""

register("psp-never-ready", "the boot loader does not become ready, or the secure OS does not come alive")
register("psp-silent", "the PSP takes commands from its ring and never writes the fence")
register("firmware-refused", "LOAD_IP_FW (or LOAD_ASD, LOAD_TA, a boot loader command) answers with an error",
         "firmware", "status")
register("psp-status", "a ring command answers with this status, having done nothing", "command", "status")


def firmware_types() -> dict[int, str]:
    """{number: name} of GFX_FW_TYPE_*."""
    return {value: name.removeprefix("GFX_FW_TYPE_") for name, value in facts.ENUMS["psp_gfx_fw_type"].items()
            if name != "GFX_FW_TYPE_MAX"}


class Psp(Block):
    ip = "MP0"

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._types = firmware_types()
        self._engine = board.engine("psp")
        self._commands: dict[int, Callable[[facts.psp_gfx_cmd_resp], int]] = {
            facts.GFX_CMD_ID_LOAD_TOC: self._load_toc, facts.GFX_CMD_ID_SETUP_TMR: self._setup_tmr,
            facts.GFX_CMD_ID_DESTROY_TMR: self._destroy_tmr, facts.GFX_CMD_ID_LOAD_IP_FW: self._load_ip_fw,
            facts.GFX_CMD_ID_AUTOLOAD_RLC: self._autoload, facts.GFX_CMD_ID_LOAD_ASD: self._load_asd,
            facts.GFX_CMD_ID_LOAD_TA: self._load_ta, facts.GFX_CMD_ID_UNLOAD_TA: self._unload_ta,
            facts.GFX_CMD_ID_INVOKE_CMD: self._invoke, facts.GFX_CMD_ID_PROG_REG: self._prog_reg,
            facts.GFX_CMD_ID_BOOT_CFG: self._boot_config, facts.GFX_CMD_ID_GET_FW_ATTESTATION: self._attestation,
            facts.GFX_CMD_ID_SETUP_VMR: self._not_supported, facts.GFX_CMD_ID_DESTROY_VMR: self._not_supported,
            facts.GFX_CMD_ID_SAVE_RESTORE: self._not_supported}
        self._clear()

    def _clear(self) -> None:
        self._booted: list[str] = []        # boot loader components, in the order in which they came
        self._ring: tuple[int, int] | None = None       # (address, bytes)
        self._rptr = 0                      # dwords
        self._tmr: tuple[int, int] | None = None        # (address, bytes)
        self._tmr_used = 0
        self._toc = False
        self._sessions: dict[int, str] = {}
        self._boot_cfg = 0
        self._loader_ready = False
        self._sos_looks: int | None = None      # at C2PMSG_81 since the secure OS was started; None: it is not starting
        self._sos_started = 0.0
        self.loaded: set[str] = set()
        """Firmware that was loaded, by the names of GFX_FW_TYPE_* ("RS64_MEC")."""
        self.versions: dict[str, int] = {}
        """What their images' headers say."""
        self.autoload_done = False

    def reset(self) -> None:
        self._clear()
        if self.board.nbio.ready:
            self.firmware_up()

    @property
    def sos_alive(self) -> bool:
        if self._sos_looks is not None and (self._sos_looks >= SOS_LOOKS
                                            or time.monotonic() - self._sos_started > SOS_SECONDS):
            self._sos_looks = None
            regs = self.board.regs
            regs["MP0_SMN_C2PMSG_58"] = SOS_VERSION
            regs["MP0_SMN_C2PMSG_64"] = READY
            regs["MP0_SMN_C2PMSG_81"] = 1
        return bool(self.board.regs["MP0_SMN_C2PMSG_81"])

    @on_read("MP0_SMN_C2PMSG_81")
    def sign_of_life(self) -> int:
        if self._sos_looks is not None:
            self._sos_looks += 1
        return self.board.regs["MP0_SMN_C2PMSG_81"] if self.sos_alive else 0

    @on_read("MP0_SMN_C2PMSG_64")
    def mailbox_status(self) -> int:
        return self.board.regs["MP0_SMN_C2PMSG_64"] if self.sos_alive or self._sos_looks is None else 0

    def firmware_up(self) -> None:
        """NBIO: the card's own firmware is done; the boot loader takes commands."""
        if not self.board.faults.active("psp-never-ready"):
            self._loader_ready = True
            self.board.regs["MP0_SMN_C2PMSG_35"] = READY

    # ---- boot loader

    @on_write("MP0_SMN_C2PMSG_35")
    def boot_loader(self, command: int) -> None:
        if not self._loader_ready or self.sos_alive:
            self.board.note("psp-boot", f"boot loader command {command:#x} while the boot loader is not "
                                        f"{'ready' if not self._loader_ready else 'there: the secure OS runs'}")
            return
        self._engine.post(self._boot, command, self.board.regs["MP0_SMN_C2PMSG_36"] * MIB)

    def _boot(self, command: int, address: int) -> None:
        board = self.board
        name = BOOT_ORDER.get(command)
        error = 0
        if name is None:
            board.note("psp-boot", f"boot loader command {command:#x} is not known")
            error = BL_ERROR_COMMAND
        elif why := self._boot_order(name):
            board.note("psp-order", why)
            error = BL_ERROR_ORDER
        else:
            image = self._read(address, min(MIB, board.vram.size))
            if image is None:
                return                      # nothing answers at that address: the boot loader hangs
            from mock import firmware
            if self._authenticate(image, name, self._boot_kind(image, firmware.BOOTLOADER[command])):
                error = BL_ERROR_IMAGE
            else:
                self._booted.append(name)
                if name == "SOSDRV":
                    self._start_sos()
        board.regs["MP0_SMN_C2PMSG_35"] = READY | error

    @staticmethod
    def _boot_kind(image: bytes, kind: str) -> str:
        """The SPL table's command takes a key database, too (tinygrad 0.14, am/ip.py, AM_PSP.init_hw, sends it twice,
        and cards boot)."""
        from mock import firmware
        if kind == "SPL":
            try:
                firmware.authenticate("KDB", image)
            except firmware.Refused:
                return kind
            return "KDB"
        return kind

    def _boot_order(self, name: str) -> str | None:
        order = list(BOOT_ORDER.values())
        place = order.index(name)
        late = [other for other in self._booted if order.index(other) >= place]
        if late:
            return f"{name} came after {late[-1]}; the order is {', '.join(order)}"
        if name == "SOSDRV":
            missing = [other for other in BOOT_REQUIRED if other not in self._booted]
            if missing:
                return f"SOSDRV came before {', '.join(missing)}"
        return None

    def _start_sos(self) -> None:
        if self.board.faults.active("psp-never-ready"):
            return
        self._sos_looks, self._sos_started = 0, time.monotonic()

    # ---- ring

    @on_write("MP0_SMN_C2PMSG_64")
    def mailbox(self, value: int) -> None:
        if self.sos_alive:
            if value & facts.GFX_CMD_ID_MASK == facts.GFX_CTRL_CMD_ID_MODE1_RST:
                self.board.resetting = True
            self._engine.post(self._mailbox, value)
        else:
            self.board.note("psp-mailbox", f"mailbox command {value:#x} before the secure OS is alive")

    def _mailbox(self, value: int) -> None:
        regs = self.board.regs
        command = value & facts.GFX_CMD_ID_MASK
        status = 0
        if command in (facts.GFX_CTRL_CMD_ID_INIT_GPCOM_RING, facts.GFX_CTRL_CMD_ID_INIT_RBI_RING):
            status = self._init_ring()
        elif command in (facts.GFX_CTRL_CMD_ID_DESTROY_RINGS, facts.GFX_CTRL_CMD_ID_DESTROY_GPCOM_RING):
            self._ring = None
        elif command == facts.GFX_CTRL_CMD_ID_MODE1_RST:
            self.board.mode1_reset()
            return
        elif command not in (facts.GFX_CTRL_CMD_ID_CAN_INIT_RINGS, facts.GFX_CTRL_CMD_ID_ENABLE_INT,
                             facts.GFX_CTRL_CMD_ID_DISABLE_INT, facts.GFX_CTRL_CMD_ID_GBR_IH_SET):
            self.board.note("psp-mailbox", f"mailbox command {value:#x} is not known")
            status = facts.PSP_ERR_UNKNOWN_COMMAND
        regs["MP0_SMN_C2PMSG_64"] = READY | status

    def _init_ring(self) -> int:
        regs = self.board.regs
        address = regs["MP0_SMN_C2PMSG_70"] << 32 | regs["MP0_SMN_C2PMSG_69"]
        size = regs["MP0_SMN_C2PMSG_71"]
        if self._ring is not None:
            self.board.note("psp-ring", "a ring was created while one exists; it must be destroyed first")
            return TEE_ERROR_BAD_STATE & facts.GFX_CMD_STATUS_MASK
        if not size or size % FRAME_BYTES or address % 4096:
            self.board.note("psp-ring", f"a ring of {size:#x} bytes at {address:#x}: the size must be a multiple of "
                                        f"{FRAME_BYTES}, the address of 4096")
            return TEE_ERROR_BAD_PARAMETERS & facts.GFX_CMD_STATUS_MASK
        self._ring, self._rptr = (address, size), 0
        regs["MP0_SMN_C2PMSG_67"] = regs["MP0_SMN_C2PMSG_68"] = 0
        return 0

    @on_write("MP0_SMN_C2PMSG_67")
    def write_pointer(self, value: int) -> None:
        if self._ring is None:
            self.board.note("psp-ring", f"the ring's write pointer became {value:#x}, but there is no ring")
        else:
            self._engine.post(self._consume, value)

    def _consume(self, wptr: int) -> None:
        self._drain()
        while self._ring is not None and self._rptr != wptr:
            address, size = self._ring
            if wptr * 4 >= size or wptr * 4 % FRAME_BYTES:
                self.board.note("psp-ring", f"write pointer {wptr:#x} is no frame of a ring of {size // 4:#x} dwords")
                return
            data = self._read(address + 4 * self._rptr, FRAME_BYTES)
            if data is None or not self._frame(facts.psp_gfx_rb_frame.from_buffer_copy(data)):
                self._ring = None           # the PSP is stuck; only a reset helps
                return
            self._rptr = (self._rptr + FRAME_BYTES // 4) % (size // 4)
            self.board.regs["MP0_SMN_C2PMSG_68"] = self._rptr

    def _drain(self) -> None:
        """The PSP's firmware takes so long to notice a write pointer that HDP has posted the CPU's stores meanwhile:
        drivers that do not flush here work on cards (tinygrad 0.14, am/ip.py, AM_PSP._ring_submit; Linux flushes:
        amdgpu_psp.c, psp_ring_cmd_submit). The log tells of it."""
        if pages := self.board.vram.flush():
            self.board.memory.tables.count()
            self.board.note("hdp-late", f"the PSP's ring moved on while stores to {pages} pages of video memory were "
                                        "not flushed; the PSP is slow enough, an engine is not")

    def _frame(self, frame: facts.psp_gfx_rb_frame) -> bool:
        """Do one command; False when an address in it leads nowhere."""
        where = frame.cmd_buf_addr_hi << 32 | frame.cmd_buf_addr_lo
        fence = frame.fence_addr_hi << 32 | frame.fence_addr_lo
        data = self._read(where, COMMAND_BYTES)
        if data is None:
            return False
        command = facts.psp_gfx_cmd_resp.from_buffer_copy(data)
        self.board.counters["psp_commands"] += 1
        if self.board.faults.any:
            self.board.faults.event("psp-command", command=command.cmd_id)
        if self.board.faults.strike("psp-silent"):
            return True
        ctypes.memset(ctypes.addressof(command.resp), 0, ctypes.sizeof(command.resp))
        command.resp.status = self.perform(command)
        response = bytes(command)[RESPONSE_OFFSET:RESPONSE_OFFSET + ctypes.sizeof(facts.psp_gfx_resp)]
        return (self._write(where + RESPONSE_OFFSET, response)
                and self._write(fence, int(frame.fence_value).to_bytes(4, "little")))

    def perform(self, command: facts.psp_gfx_cmd_resp) -> int:
        """A command's status; what it answers beside goes into its response."""
        fault = self.board.faults.strike("psp-status", command=command.cmd_id)
        work = self._commands.get(command.cmd_id)
        if fault is not None:
            return int(fault.settings.get("status", TEE_ERROR_SECURITY))
        if work is None:
            self.board.note("psp-command", f"command {command.cmd_id:#x} is not known")
            return int(facts.PSP_ERR_UNKNOWN_COMMAND)
        return work(command)

    # ---- memory

    def _read(self, address: int, size: int) -> bytes | None:
        from mock.gmc import Client
        memory = self.board.memory
        return self._access(address, size, lambda: bytes(memory.read("mm", 0, address, size, client=Client.MM_MP0)))

    def _write(self, address: int, data: bytes) -> bool:
        from mock.gmc import Client

        def write() -> bytes:
            self.board.memory.write("mm", 0, address, data, client=Client.MM_MP0)
            return b""
        return self._access(address, len(data), write) is not None

    def _access(self, address: int, size: int, work: Callable[[], bytes]) -> bytes | None:
        from mock.gmc import Fault
        if self._engine.aborted:
            raise Aborted
        try:
            return work()
        except Fault as error:
            self.board.note("psp-fault", f"{size} bytes at {address:#x}: {error}")
            return None

    # ---- firmware

    def _authenticate(self, image: bytes, name: str, kind: int | str) -> int:
        """0, or the status with which the image is refused (and a note). ``kind`` is a number of GFX_FW_TYPE_* or a
        name of the boot loader's."""
        from mock import firmware
        fault = self.board.faults.strike("firmware-refused", firmware=name)
        if fault is not None:
            self.board.note("psp-firmware", f"{name}: refused by an injected fault")
            return int(fault.settings.get("status", TEE_ERROR_SECURITY))
        try:
            firmware.authenticate(kind, image)
        except firmware.Refused as why:
            self.board.note("psp-firmware", f"{name}: {why}")
            return why.status
        return 0

    def _image(self, low: int, high: int, size: int, name: str, kind: int | str) -> tuple[int, bytes]:
        """(status, image) of a command's buffer."""
        address = high << 32 | low
        if not size or address % 4096:
            self.board.note("psp-firmware", f"{name}: {size:#x} bytes at {address:#x}: must be some, and 4 KiB aligned")
            return TEE_ERROR_BAD_PARAMETERS, b""
        image = self._read(address, size)
        if image is None:
            return TEE_ERROR_BAD_PARAMETERS, b""
        return self._authenticate(image, name, kind), image

    def _load_toc(self, command: facts.psp_gfx_cmd_resp) -> int:
        c = command.cmd.cmd_load_toc
        status, _ = self._image(c.toc_phy_addr_lo, c.toc_phy_addr_hi, c.toc_size, "TOC", "TOC")
        if not status:
            self._toc = True
            command.resp.tmr_size = TMR_BYTES
        return status

    def _setup_tmr(self, command: facts.psp_gfx_cmd_resp) -> int:
        c = command.cmd.cmd_setup_tmr
        address, size = c.buf_phy_addr_hi << 32 | c.buf_phy_addr_lo, c.buf_size
        if not self._toc:
            self.board.note("psp-order", "SETUP_TMR before LOAD_TOC")
            return TEE_ERROR_BAD_STATE
        if self._tmr is not None:
            self.board.note("psp-order", "SETUP_TMR while there is a TMR; DESTROY_TMR first")
            return TEE_ERROR_BAD_STATE
        if size < TMR_BYTES or address % facts.PSP_TMR_ALIGNMENT:
            self.board.note("psp-tmr", f"a TMR of {size:#x} bytes at {address:#x}: it needs {TMR_BYTES:#x}, aligned to "
                                       f"{facts.PSP_TMR_ALIGNMENT:#x}")
            return TEE_ERROR_BAD_PARAMETERS
        if self._read(address, 4096) is None or self._read(address + size - 4096, 4096) is None:
            return TEE_ERROR_BAD_PARAMETERS
        self._tmr, self._tmr_used = (address, size), 0
        return 0

    def _destroy_tmr(self, command: facts.psp_gfx_cmd_resp) -> int:
        if self._tmr is None:
            return TEE_ERROR_BAD_STATE
        self._tmr = None
        return 0

    def _load_ip_fw(self, command: facts.psp_gfx_cmd_resp) -> int:
        c = command.cmd.cmd_load_ip_fw
        number = int(getattr(c.fw_type, "value", c.fw_type))
        kind = self._types.get(number)
        if kind is None or kind == "NONE":
            self.board.note("psp-firmware", f"firmware type {number:#x} is not known")
            return facts.TEE_ERROR_NOT_SUPPORTED
        if self._tmr is None and kind not in BEFORE_TMR:
            self.board.note("psp-order", f"LOAD_IP_FW of {kind} before SETUP_TMR")
            return TEE_ERROR_BAD_STATE
        status, image = self._image(c.fw_phy_addr_lo, c.fw_phy_addr_hi, c.fw_size, kind, number)
        if status:
            return status
        if self._tmr is not None:
            address, size = self._tmr
            place = self._tmr_used
            if place + len(image) > size:
                self.board.note("psp-tmr", f"{kind} of {len(image):#x} bytes does not fit what is left of the TMR")
                return TEE_ERROR_OUT_OF_MEMORY
            if not self._write(address + place, image):
                return TEE_ERROR_BAD_STATE
            self._tmr_used = place + -(-len(image) // 4096) * 4096
            command.resp.fw_addr_lo = address + place & 0xFFFFFFFF
            command.resp.fw_addr_hi = address + place >> 32
        self.loaded.add(kind)
        self.versions[kind] = int.from_bytes(image[IMAGE_VERSION_AT:IMAGE_VERSION_AT + 4], "little")
        if kind == "SMU":
            self.board.smu.start()
        return 0

    def _autoload(self, command: facts.psp_gfx_cmd_resp) -> int:
        missing = [kind for kind in AUTOLOAD_NEEDS if kind not in self.loaded]
        if missing:
            self.board.note("psp-autoload", f"AUTOLOAD_RLC without {', '.join(missing)}")
            return TEE_ERROR_ITEM_NOT_FOUND
        self._engine.post(self._autoload_complete)
        return 0

    def _autoload_complete(self) -> None:
        """RLC has loaded every engine: the last that happens, after the command's own fence."""
        self.autoload_done = True
        self.board.regs.set_fields("RLC_RLCS_BOOTLOAD_STATUS", BOOTLOAD_COMPLETE=1)

    # ---- trusted applications

    def _load_asd(self, command: facts.psp_gfx_cmd_resp) -> int:
        return self._load_application(command, "ASD")

    def _load_ta(self, command: facts.psp_gfx_cmd_resp) -> int:
        if "ASD" not in self._sessions.values():
            self.board.note("psp-order", "LOAD_TA before LOAD_ASD")
            return TEE_ERROR_BAD_STATE
        return self._load_application(command, "TA")

    def _load_application(self, command: facts.psp_gfx_cmd_resp, kind: str) -> int:
        c = command.cmd.cmd_load_ta
        status, _ = self._image(c.app_phy_addr_lo, c.app_phy_addr_hi, c.app_len, kind, kind)
        if not status:
            session = max(self._sessions, default=0) + 1
            self._sessions[session] = kind
            command.resp.session_id = session
        return status

    def _unload_ta(self, command: facts.psp_gfx_cmd_resp) -> int:
        if self._sessions.pop(command.cmd.cmd_unload_ta.session_id, None) is None:
            return TEE_ERROR_ITEM_NOT_FOUND
        return 0

    def _invoke(self, command: facts.psp_gfx_cmd_resp) -> int:
        """What the applications do inside is not modelled: they answer that they do not know the command."""
        if command.cmd.cmd_invoke_cmd.session_id not in self._sessions:
            return TEE_ERROR_ITEM_NOT_FOUND
        return facts.TEE_ERROR_NOT_SUPPORTED

    # ---- the rest

    def _prog_reg(self, command: facts.psp_gfx_cmd_resp) -> int:
        c = command.cmd.cmd_setup_reg_prog
        names = {facts.PSP_REG_IH_RB_CNTL: "IH_RB_CNTL", facts.PSP_REG_IH_RB_CNTL + 1: "IH_RB_CNTL_RING1"}
        if c.reg_id not in names:
            return TEE_ERROR_BAD_PARAMETERS
        self.board.write_register(names[c.reg_id], c.reg_value)
        return 0

    def _boot_config(self, command: facts.psp_gfx_cmd_resp) -> int:
        c = command.cmd.boot_cfg
        sub = int(getattr(c.sub_cmd, "value", c.sub_cmd))
        if sub == facts.BOOTCFG_CMD_SET:
            self._boot_cfg = self._boot_cfg & ~c.boot_config_valid | c.boot_config & c.boot_config_valid
        elif sub == facts.BOOTCFG_CMD_INVALIDATE:
            self._boot_cfg = 0
        elif sub != facts.BOOTCFG_CMD_GET:
            return TEE_ERROR_BAD_PARAMETERS
        command.resp.uresp.boot_cfg.boot_cfg = self._boot_cfg
        return 0

    def _attestation(self, command: facts.psp_gfx_cmd_resp) -> int:
        """The database of loaded firmware lies at the end of the TMR: its header, and no record that is valid (which
        numbers they carry is not published)."""
        if self._tmr is None:
            return TEE_ERROR_BAD_STATE
        address = self._tmr[0] + self._tmr[1] - ATTESTATION_BYTES
        header = struct.pack("<II", 1, ATTESTATION_COOKIE)
        if not self._write(address, header.ljust(ATTESTATION_BYTES, b"\0")):
            return TEE_ERROR_BAD_STATE
        command.resp.uresp.fwar_db_info.fwar_db_addr_lo = address & 0xFFFFFFFF
        command.resp.uresp.fwar_db_info.fwar_db_addr_hi = address >> 32
        return 0

    def _not_supported(self, command: facts.psp_gfx_cmd_resp) -> int:
        return facts.TEE_ERROR_NOT_SUPPORTED
