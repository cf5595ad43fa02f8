"""A driver of its own kind: what somebody else would write, from AMD's facts and the open interface alone.

It shares nothing with ``amdrv`` but generated facts, and differs wherever it may: VMID 0 with page tables, GPU
addresses that are the host's own, bare polling loops, queues by registers or by descriptor, no flush before a PSP
command, no remapping of the flush register, and (``small_bar``) video memory through MM_INDEX alone.

Sequences: Linux 6.1, gmc_v11_0.c, mmhub_v3_0.c, psp_v13_0.c, gfx_v11_0.c (kiq_init_register), sdma_v6_0.c, nvd.h.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import mock
from amdrv import regs
from amdrv.errors import UnknownIpError
from amdrv.facts import discovery, psp
from amdrv.facts.mqd_v11 import v11_compute_mqd
from mock import firmware

VALID, SYSTEM, SNOOPED, RWX, UNCACHED = 1, 2, 4, 0x70, 3 << 48
PAGE = 4096
MEMORY_SIZE, MM_INDEX, MM_DATA, MM_INDEX_HI = 0xDE3, 0, 1, 6        # dwords that every card has at the same place
COMPUTE_DOORBELL, KIQ_DOORBELL, SDMA_DOORBELL = 0x10, 0x20, 0x200   # dwords of BAR2
RING_WORDS = 4096
PATIENCE = 3_000_000            # looks of a bare loop
FIRMWARE = ("SDMA_UCODE_TH0", "SDMA_UCODE_TH1", "RS64_MEC", "RS64_MEC_P0_STACK", "IMU_I", "IMU_D", "RLC_IRAM",
            "RLC_DRAM_BOOT", "RLC_P", "RLC_V", "RLC_G")


def halves(value: int) -> tuple[int, int]:
    return value & 0xFFFFFFFF, value >> 32


class Stranger:
    """``Stranger(machine.gpus[0], machine.bus).boot()``."""

    def __init__(self, board: Any, bus: Any, *, small_bar: bool = False, hqd: str = "registers") -> None:
        self.board, self.bus, self.hqd = board, bus, hqd
        self.messages = 0
        self._stop = board.on_msi(self._message)
        self._dwords: dict[str, tuple[Any, int]] = {}
        self._attached: list[int] = []
        self._kept: list[Any] = []
        self._memory: dict[int, np.ndarray] = {}
        self._reserved: dict[int, int] = {}
        self._next = 1 << 20
        board.write_config(4, 2, board.read_config(4, 2) | 6)
        self.looks = 0
        self._until(lambda: board.read_bar(5, 4 * 0x16061, 4) & 1 << 31)     # MP0_SMN_C2PMSG_33
        self.vram_size = board.read_bar(5, 4 * MEMORY_SIZE, 4) << 20
        window = b"" if small_bar else board.bar_memory(0)
        self.window = np.frombuffer(window, np.uint8)
        self.windowed = bool(len(self.window))
        self._discover()

    def _message(self, _vector: int) -> None:
        self.messages += 1

    def _until(self, condition: Callable[[], Any], what: str = "something") -> Any:
        """A bare loop: no sleep, no thread, nothing but looks."""
        for _ in range(PATIENCE):
            self.looks += 1
            if value := condition():
                return value
        raise TimeoutError(f"{what} did not happen within {PATIENCE} looks\n{self.board.notes}")

    # ---- what the card says of itself

    def load(self, offset: int, nbytes: int) -> bytes:
        """Video memory, through the BAR or MM_INDEX."""
        if self.windowed:
            return self.window[offset:offset + nbytes].tobytes()
        words = []
        for at in range(offset, offset + nbytes, 4):
            self._mm(at)
            words.append(self.board.read_bar(5, 4 * MM_DATA, 4))
        return np.array(words, np.uint32).tobytes()

    def store(self, offset: int, data: bytes) -> None:
        if self.windowed:
            self.window[offset:offset + len(data)] = np.frombuffer(data, np.uint8)
            return
        for i, word in enumerate(np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), np.uint32)):
            self._mm(offset + 4 * i)
            self.board.write_bar(5, 4 * MM_DATA, 4, int(word))

    def _mm(self, offset: int) -> None:
        self.board.write_bar(5, 4 * MM_INDEX_HI, 4, offset >> 31)
        self.board.write_bar(5, 4 * MM_INDEX, 4, offset & 0x7FFFFFFF | 1 << 31)

    def _discover(self) -> None:
        blob = self.load(self.vram_size - (64 << 10), discovery.DISCOVERY_TMR_SIZE)
        head = discovery.binary_header.from_buffer_copy(blob)
        assert head.binary_signature == discovery.BINARY_SIGNATURE
        ips = discovery.ip_discovery_header.from_buffer_copy(blob, head.table_list[discovery.IP_DISCOVERY].offset)
        at = ips.die_info[0].die_offset
        count = discovery.die_header.from_buffer_copy(blob, at).num_ips
        at += ctypes.sizeof(discovery.die_header)
        names = {number: name for name, number in discovery.ENUMS["hw_id"].items()}
        for _ in range(count):
            ip = discovery.ip_v3.from_buffer_copy(blob, at)
            bases = np.frombuffer(blob, np.uint32, ip.num_base_address, at + 8).tolist()
            at += 8 + 4 * ip.num_base_address
            try:
                table = regs.table_for(names[ip.hw_id], (ip.major, ip.minor, ip.revision))
            except UnknownIpError:
                continue
            for register in table:
                if register.base_idx is not None and register.base_idx < len(bases):
                    self._dwords.setdefault(register.name, (register, bases[register.base_idx] + register.offset))

    # ---- registers

    def read(self, name: str) -> int:
        dword = self._dwords[name][1]
        if 4 * dword < self.board.bar_size(5):
            return int(self.board.read_bar(5, 4 * dword, 4))
        self.write("BIF_BX0_PCIE_INDEX2", 4 * dword)
        return self.read("BIF_BX0_PCIE_DATA2")

    def field(self, name: str, field: str) -> int:
        return int(self._dwords[name][0][field].get(self.read(name)))

    def write(self, name: str, value: int = 0, **fields: int) -> None:
        register, dword = self._dwords[name]
        value = register.merge(value, fields)
        if 4 * dword < self.board.bar_size(5):
            self.board.write_bar(5, 4 * dword, 4, value)
        else:
            self.write("BIF_BX_PF0_RSMU_INDEX", 4 * dword)
            self.write("BIF_BX_PF0_RSMU_DATA", value)

    def update(self, name: str, **fields: int) -> None:
        self.write(name, self.read(name), **fields)

    def pair(self, low: str, high: str, value: int) -> None:
        for name, half in zip((low, high), halves(value), strict=True):
            self.write(name, half)

    def wait(self, name: str, mask: int, value: int) -> None:
        self._until(lambda: self.read(name) & mask == value, f"{name} & {mask:#x} == {value:#x}")

    def flush_hdp(self) -> None:
        self.board.write_bar(5, self.read("BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL") & 0x7FFFC, 4, 0)

    # ---- memory

    def vram(self, nbytes: int, align: int = PAGE) -> int:
        """Offset of fresh, zeroed video memory."""
        at = self._next = -(-self._next // align) * align
        self._next += -(-nbytes // PAGE) * PAGE
        if align == PAGE and nbytes <= 64 << 10:
            self.store(at, bytes(nbytes))
        return at

    def host(self, nbytes: int) -> np.ndarray:
        """Host memory that the card reaches at the address where the host has it. uint8[n], zeros."""
        memory = mmap.mmap(-1, -(-nbytes // PAGE) * PAGE)
        view = np.frombuffer(memory, np.uint8)
        address = int(view.ctypes.data)
        bus = self.bus.attach(address, len(view))
        self._attached.append(bus)
        self._kept.append(memory)
        self.map(address, bus, len(view), SYSTEM | SNOOPED | UNCACHED)
        return view

    def map(self, address: int, physical: int, nbytes: int, flags: int = UNCACHED) -> None:
        """4 KiB pages; tables are made on the way. The flush comes at the end."""
        for at in range(0, nbytes, PAGE):
            table = self.root
            for level in (3, 2, 1):
                slot = table + 8 * (address + at >> 12 + 9 * level & 511)
                entry = int.from_bytes(self.load(slot, 8), "little")
                if not entry & VALID:
                    entry = self.vram(PAGE) | VALID
                    self.store(slot, entry.to_bytes(8, "little"))
                table = entry & 0xFFFF_FFFF_F000
            entry = physical + at | flags | VALID | RWX
            self.store(table + 8 * (address + at >> 12 & 511), entry.to_bytes(8, "little"))
        self.flush_tlb("GC")

    def flush_tlb(self, hub: str) -> None:
        self.flush_hdp()
        name = f"{hub}VM_INVALIDATE_ENG17_"
        if hub == "MM":
            self.wait(name + "SEM", 1, 1)
        self.write(name + "REQ", PER_VMID_INVALIDATE_REQ=1, INVALIDATE_L2_PTES=1, INVALIDATE_L2_PDE0=1,
                   INVALIDATE_L2_PDE1=1, INVALIDATE_L2_PDE2=1, INVALIDATE_L1_PTES=1)
        self.wait(name + "ACK", 1, 1)
        if hub == "MM":
            self.write(name + "SEM", 0)

    def hub(self, p: str) -> None:
        self.write(f"{p}MC_VM_AGP_BOT", 0xFFFFFF)
        self.write(f"{p}MC_VM_AGP_TOP", 0)
        self.write(f"{p}MC_VM_SYSTEM_APERTURE_LOW_ADDR", self.fb >> 18)
        self.write(f"{p}MC_VM_SYSTEM_APERTURE_HIGH_ADDR", self.fb + self.vram_size - 1 >> 18)
        self.update(f"{p}MC_VM_MX_L1_TLB_CNTL", ENABLE_L1_TLB=1, SYSTEM_ACCESS_MODE=3, ENABLE_ADVANCED_DRIVER_MODEL=1,
                    MTYPE=3)
        self.update(f"{p}VM_L2_CNTL", ENABLE_L2_CACHE=1)
        self.update(f"{p}VM_L2_CNTL2", INVALIDATE_ALL_L1_TLBS=1, INVALIDATE_L2_CACHE=1)
        for what, value in (("BASE", self.root | VALID), ("START", 0), ("END", (1 << 35) - 1)):
            self.pair(*(f"{p}VM_CONTEXT0_PAGE_TABLE_{what}_ADDR_{half}32" for half in ("LO", "HI")), value)
        kinds = ("RANGE", "PDE0", "VALID", "READ", "WRITE", "EXECUTE")
        self.write(f"{p}VM_CONTEXT0_CNTL", ENABLE_CONTEXT=1, PAGE_TABLE_DEPTH=3,
                   **{f"{kind}_PROTECTION_FAULT_ENABLE_INTERRUPT": 1 for kind in kinds})
        for n in range(18):
            self.pair(*(f"{p}VM_INVALIDATE_ENG{n}_ADDR_RANGE_{half}32" for half in ("LO", "HI")), (1 << 37) - 1)

    # ---- boot

    def boot(self) -> Stranger:
        """All of it; a card that runs already only gets new hubs and queues."""
        self.fb = self.field("MMMC_VM_FB_LOCATION_BASE", "FB_BASE") << 24
        self.root = self.vram(PAGE)
        self.write("RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN", BIF_DOORBELL_APER_EN=1)
        for port, awid, address, first, count in ((0, 3, 3, 0, 0), (1, 0, 0, 0x300, 2), (2, 0xE, 3, SDMA_DOORBELL, 4)):
            p = f"S2A_DOORBELL_PORT{port}_"
            self.write(f"S2A_DOORBELL_ENTRY_{port}_CTRL", **{
                p + "ENABLE": 1, p + "AWID": awid, p + "RANGE_OFFSET": first, p + "RANGE_SIZE": count,
                p + "AWADDR_31_28_VALUE": address})
        self.hub("MM")
        self._interrupts()
        if not self.read("MP0_SMN_C2PMSG_81"):
            self._security_processor()
            self._power()
        self.wait("RLC_RLCS_BOOTLOAD_STATUS", 1 << 31, 1 << 31)
        self.hub("GC")
        self._compute()
        self.copy = self._copy(0)
        return self

    def more_queues(self) -> None:
        """A second compute queue, and the second copy engine."""
        self.compute2 = Queue(self, COMPUTE_DOORBELL + 0x10 + 4)
        self._by_registers(self.compute2, 2)
        self.copy2 = self._copy(1)

    def _interrupts(self) -> None:
        """Ring 0 in video memory, and the MSI."""
        offset = self.board.read_config(0x34, 1)
        while self.board.read_config(offset, 1) != 5:
            offset = self.board.read_config(offset + 1, 1)
        self.board.write_config(offset + 4, 4, 0xFEE00000)
        self.board.write_config(offset + 2, 2, self.board.read_config(offset + 2, 2) | 1)
        self.ih = self.vram(PAGE)
        self.write("IH_RB_CNTL", 0)
        self.pair("IH_RB_BASE", "IH_RB_BASE_HI", self.fb + self.ih >> 8)
        self.write("IH_RB_WPTR", 0)
        self.write("IH_RB_RPTR", 0)
        self.write("IH_RB_CNTL", MC_SPACE=4, RB_SIZE=10, WPTR_OVERFLOW_ENABLE=1, RPTR_REARM=1, RB_ENABLE=1,
                   ENABLE_INTR=1)
        self.flush_hdp()

    def entries(self) -> list[tuple[int, int]]:
        """(client, source) of what came, and the read pointer after it."""
        found, at = [], self.read("IH_RB_RPTR")
        while at != self.read("IH_RB_WPTR") & 0x3FFFC:
            word = int.from_bytes(self.load(self.ih + at, 4), "little")
            found.append((word & 0xFF, word >> 8 & 0xFF))
            at = (at + 32) % PAGE
            self.write("IH_RB_RPTR", at)
        return found

    def _security_processor(self) -> None:
        message, tmr = self.vram(1 << 20, 1 << 20), self.vram(0x1300000, 1 << 20)
        ring, self._command, self._fence = self.vram(PAGE), self.vram(PAGE), self.vram(PAGE)
        key = firmware.image("KDB")
        for command, image in ((psp.PSP_BL__LOAD_KEY_DATABASE, key), (psp.PSP_BL__LOAD_TOS_SPL_TABLE, key),
                               (psp.PSP_BL__LOAD_SYSDRV, firmware.image("SYS_DRV")),
                               (psp.PSP_BL__LOAD_SOSDRV, firmware.image("SOS"))):
            self.wait("MP0_SMN_C2PMSG_35", 1 << 31, 1 << 31)
            self.store(message, image)
            self.flush_hdp()
            self.write("MP0_SMN_C2PMSG_36", self.fb + message >> 20)
            self.write("MP0_SMN_C2PMSG_35", command)
        self._until(lambda: self.read("MP0_SMN_C2PMSG_81"), "the secure OS")
        self.wait("MP0_SMN_C2PMSG_64", 1 << 31, 1 << 31)
        self.pair("MP0_SMN_C2PMSG_69", "MP0_SMN_C2PMSG_70", self.fb + ring)
        self.write("MP0_SMN_C2PMSG_71", PAGE)
        self.write("MP0_SMN_C2PMSG_64", psp.GFX_CTRL_CMD_ID_INIT_GPCOM_RING)
        self.wait("MP0_SMN_C2PMSG_64", 0x8000FFFF, 1 << 31)
        self._ring, self._message_at = ring, message
        self._load("TOC")
        self._load("SMU")
        self._secure(psp.GFX_CMD_ID_SETUP_TMR, *halves(self.fb + tmr), 0x1300000)
        for kind in FIRMWARE:
            self._load(kind)
        self._secure(psp.GFX_CMD_ID_AUTOLOAD_RLC)

    def _load(self, kind: str) -> None:
        image = firmware.image(kind)
        self.store(self._message_at, image)
        where = halves(self.fb + self._message_at)
        if kind == "TOC":
            self._secure(psp.GFX_CMD_ID_LOAD_TOC, *where, len(image))
        else:
            number = psp.ENUMS["psp_gfx_fw_type"]["GFX_FW_TYPE_" + kind]
            self._secure(psp.GFX_CMD_ID_LOAD_IP_FW, *where, len(image), number)

    def _secure(self, command: int, *words: int) -> None:
        """One command of the PSP's ring; nothing is flushed for it but the image before."""
        pointer = self.read("MP0_SMN_C2PMSG_67")
        body = np.zeros(256, np.uint32)
        body[2] = command
        body[7:7 + len(words)] = words
        value = pointer + 1
        frame = psp.psp_gfx_rb_frame(fence_value=value)
        frame.cmd_buf_addr_lo, frame.cmd_buf_addr_hi = halves(self.fb + self._command)
        frame.fence_addr_lo, frame.fence_addr_hi = halves(self.fb + self._fence)
        self.flush_hdp()
        self.store(self._command, body.tobytes())
        self.store(self._ring + 4 * pointer, bytes(frame))
        self.write("MP0_SMN_C2PMSG_67", (pointer + 16) % (PAGE // 4))
        self._until(lambda: int.from_bytes(self.load(self._fence, 4), "little") == value, f"PSP command {command:#x}")
        status = int.from_bytes(self.load(self._command + psp.psp_gfx_cmd_resp.resp.offset, 4), "little")
        assert not status, f"PSP command {command:#x}: {status:#x}\n{self.board.notes}"

    def smu(self, message: int, argument: int = 0) -> int:
        """What C2PMSG_82 says when the SMU is done."""
        self.write("MP1_SMN_C2PMSG_90", 0)
        self.write("MP1_SMN_C2PMSG_82", argument)
        self.write("MP1_SMN_C2PMSG_66", message)
        self._until(lambda: self.read("MP1_SMN_C2PMSG_90"), f"SMU message {message:#x}")
        assert self.read("MP1_SMN_C2PMSG_90") == 1
        return self.read("MP1_SMN_C2PMSG_82")

    def _power(self) -> None:
        from amdrv.facts import smu13
        self.smu(smu13.PPSMC_MSG_EnableAllSmuFeatures)
        self.levels = {}
        for clock in (smu13.PPCLK_UCLK, smu13.PPCLK_FCLK, smu13.PPCLK_SOCCLK, smu13.PPCLK_GFXCLK):
            count = self.smu(smu13.PPSMC_MSG_GetDpmFreqByIndex, clock << 16 | 0xFF) & 0x7FFFFFFF
            self.levels[clock] = [self.smu(smu13.PPSMC_MSG_GetDpmFreqByIndex, clock << 16 | i) for i in range(count)]
            self.smu(smu13.PPSMC_MSG_SetSoftMinByFreq, clock << 16 | self.levels[clock][-1])

    # ---- queues

    def select(self, me: int = 0, queue: int = 0, vmid: int = 0) -> None:
        self.write("GRBM_GFX_CNTL", MEID=me, QUEUEID=queue, VMID=vmid)

    def _compute(self) -> None:
        self.select(me=1, queue=0)
        if self.read("CP_HQD_ACTIVE") & 1:                  # of a driver before this one
            self.write("CP_HQD_DEQUEUE_REQUEST", 2)
            self.write("SPI_COMPUTE_QUEUE_RESET", 1)
            self.wait("CP_HQD_ACTIVE", 1, 0)
            self.write("GRBM_SOFT_RESET", SOFT_RESET_CP=1, SOFT_RESET_CPC=1)
            self.write("GRBM_SOFT_RESET", 0)
        self.select(me=1)
        self.pair("CP_MEC_RS64_PRGRM_CNTR_START", "CP_MEC_RS64_PRGRM_CNTR_START_HI", 0x0700_0000_3000 >> 2)
        self.select()
        self.update("CP_MEC_RS64_CNTL", MEC_PIPE0_RESET=1)
        self.update("CP_MEC_RS64_CNTL", MEC_PIPE0_RESET=0)
        self.write("RLC_CNTL", 1)
        for vmid in range(16):
            self.select(vmid=vmid)
            self.write("SH_MEM_CONFIG", INITIAL_INST_PREFETCH=3, ALIGNMENT_MODE=3)
            self.write("SH_MEM_BASES", SHARED_BASE=1, PRIVATE_BASE=2)
        self.select()
        self.write("CP_MEC_DOORBELL_RANGE_LOWER", 0)
        self.write("CP_MEC_DOORBELL_RANGE_UPPER", 0xF8)
        self.update("CP_MEC_RS64_CNTL", MEC_PIPE0_RESET=0, MEC_PIPE0_ACTIVE=1, MEC_HALT=0)
        self.write("CP_ME1_PIPE0_INT_CNTL", TIME_STAMP_INT_ENABLE=1, OPCODE_ERROR_INT_ENABLE=1, PRIV_REG_INT_ENABLE=1)
        self.signals = self.host(PAGE).view(np.uint64)
        if self.hqd in ("registers", "aql"):
            self.compute = Queue(self, COMPUTE_DOORBELL)
            self._by_registers(self.compute, 0)
        else:
            kiq = Queue(self, KIQ_DOORBELL)
            self.write("RLC_CP_SCHEDULERS", 0x80 | 1 << 5 | 1)
            self._by_registers(kiq, 1, privileged=1)
            self.compute = Queue(self, COMPUTE_DOORBELL)
            mqd = self.vram(PAGE)
            self.store(mqd, bytes(self._descriptor(self.compute, mqd, 0)))
            self.flush_hdp()
            kiq.put(packet(0xA2, 0 << 13 | 0 << 16 | 0 << 18 | 1 << 29, COMPUTE_DOORBELL << 2, *halves(self.fb + mqd),
                           *halves(self.compute.pointer_at)))
            kiq.ring()
            self.select(me=1)
            self.wait("CP_HQD_ACTIVE", 1, 1)
            self.select()

    def _descriptor(self, queue: Queue, mqd: int, privileged: int) -> v11_compute_mqd:
        def packed(name: str, **fields: int) -> int:
            return int(self._dwords[name][0].pack(**fields))
        made = v11_compute_mqd(header=0xC0310800, cp_hqd_pipe_priority=2, cp_hqd_queue_priority=15,
                               cp_hqd_quantum=0x111)
        values = {"cp_mqd_base_addr": self.fb + mqd, "cp_hqd_pq_base": queue.base >> 8,
                  "cp_hqd_pq_rptr_report_addr": queue.report_at, "cp_hqd_pq_wptr_poll_addr": queue.pointer_at,
                  "cp_hqd_eop_base_addr": queue.eop >> 8}
        for name, value in values.items():
            for half, suffix in zip(halves(value), ("_lo", "_hi"), strict=True):
                setattr(made, name + suffix, half)
        made.cp_hqd_persistent_state = packed("CP_HQD_PERSISTENT_STATE", PRELOAD_SIZE=0x55, PRELOAD_REQ=1)
        made.cp_hqd_pq_doorbell_control = packed("CP_HQD_PQ_DOORBELL_CONTROL", DOORBELL_EN=1,
                                                 DOORBELL_OFFSET=queue.doorbell)
        made.cp_hqd_pq_control = packed("CP_HQD_PQ_CONTROL", RPTR_BLOCK_SIZE=5, PRIV_STATE=privileged,
                                        QUEUE_SIZE=RING_WORDS.bit_length() - 2)
        if self.hqd == "aql":
            made.cp_hqd_aql_control = packed("CP_HQD_AQL_CONTROL", CONTROL0=1)
            made.cp_hqd_pq_control |= packed("CP_HQD_PQ_CONTROL", NO_UPDATE_RPTR=1, SLOT_BASED_WPTR=2, QUEUE_FULL_EN=1)
        made.cp_hqd_ib_control = packed("CP_HQD_IB_CONTROL", MIN_IB_AVAIL_SIZE=3)
        made.cp_mqd_control = packed("CP_MQD_CONTROL", PRIV_STATE=1)
        made.cp_hqd_eop_control = packed("CP_HQD_EOP_CONTROL", EOP_SIZE=8)
        for se in range(8):
            setattr(made, f"compute_static_thread_mgmt_se{se}", 0xFFFFFFFF)
        return made

    def _by_registers(self, queue: Queue, number: int, privileged: int = 0) -> None:
        """The descriptor's registers one after the other, as they lie in it from dword 0x80 on."""
        mqd = self.vram(PAGE)
        made = self._descriptor(queue, mqd, privileged)
        self.store(mqd, bytes(made))
        self.flush_hdp()
        self.select(me=1, queue=number)
        words = np.frombuffer(bytes(made), np.uint32)
        first, last = (self._dwords[name][1] for name in ("CP_MQD_BASE_ADDR", "CP_HQD_PQ_WPTR_HI"))
        for dword in range(first, last + 1):
            self.board.write_bar(5, 4 * dword, 4, int(words[0x80 + dword - first]))
        self.write("CP_HQD_ACTIVE", 1)
        self.select()

    def _copy(self, engine: int) -> Queue:
        p = f"SDMA{engine}_QUEUE0_"
        self.write(p + "RB_CNTL", 0)
        queue = Queue(self, SDMA_DOORBELL + 4 * engine, unit=4)
        self.update(f"SDMA{engine}_F32_CNTL", HALT=0, TH1_RESET=0, TH0_RESET=0)
        self.update(f"SDMA{engine}_CNTL", TRAP_ENABLE=1)
        self.write(p + "MINOR_PTR_UPDATE", 1)
        for low, high, value in (("RB_RPTR", "RB_RPTR_HI", 0), ("RB_WPTR", "RB_WPTR_HI", 0),
                                 ("RB_BASE", "RB_BASE_HI", queue.base >> 8),
                                 ("RB_RPTR_ADDR_LO", "RB_RPTR_ADDR_HI", queue.report_at),
                                 ("RB_WPTR_POLL_ADDR_LO", "RB_WPTR_POLL_ADDR_HI", queue.pointer_at)):
            self.pair(p + low, p + high, value)
        self.write(p + "DOORBELL_OFFSET", OFFSET=queue.doorbell)
        self.write(p + "DOORBELL", ENABLE=1)
        self.write(p + "MINOR_PTR_UPDATE", 0)
        self.write(p + "RB_CNTL", RB_SIZE=RING_WORDS.bit_length() - 1, RPTR_WRITEBACK_ENABLE=1, RB_PRIV=1, RB_ENABLE=1)
        self.write(p + "IB_CNTL", IB_ENABLE=1)
        return queue

    def done(self, slot: int, value: int) -> None:
        self._until(lambda: self.read("GRBM_STATUS") + 1 and int(self.signals[slot]) == value, f"signal {slot}")

    def signal_at(self, slot: int) -> int:
        return int(self.signals.ctypes.data) + 8 * slot

    def leave(self) -> None:
        """Off the bus, with the card left running."""
        self.board.write_config(4, 2, self.board.read_config(4, 2) & ~4)
        self._stop()
        for bus in self._attached:
            self.bus.detach(bus)
        self._attached.clear()


class Queue:
    """A ring in host memory, its pointers beside it, a doorbell. ``unit``: what the pointer counts, in bytes a word."""

    def __init__(self, owner: Stranger, doorbell: int, unit: int = 1) -> None:
        self.owner, self.doorbell, self.unit = owner, doorbell, unit
        self.memory = owner.host(4 * RING_WORDS + 2 * PAGE)
        self.words = self.memory[:4 * RING_WORDS].view(np.uint32)
        self.pointers = self.memory[4 * RING_WORDS:].view(np.uint64)
        self.base = int(self.memory.ctypes.data)
        self.report_at = self.base + 4 * RING_WORDS
        self.pointer_at, self.eop = self.report_at + 64, self.report_at + PAGE
        self.write = 0

    def put(self, words: Sequence[int]) -> None:
        for word in words:
            self.words[self.write % RING_WORDS] = word
            self.write += 1

    def ring(self) -> None:
        """Pointer in memory first, then the doorbell."""
        self.pointers[8] = self.write * self.unit
        self.owner.flush_hdp()
        self.owner.board.write_bar(2, 4 * self.doorbell, 8, self.write * self.unit)


# ---- packets (nvd.h, sdma_v6_0_0_pkt_open.h)

def packet(opcode: int, *body: int) -> list[int]:
    return [3 << 30 | (len(body) - 1) << 16 | opcode << 8, *body]


def write_data(address: int, *values: int) -> list[int]:
    return packet(0x37, 5 << 8 | 1 << 20, *halves(address), *values)


def wait_memory(address: int, value: int) -> list[int]:
    """Until the word there is at least the value."""
    return packet(0x3C, 5 | 1 << 4, *halves(address), value, 0xFFFFFFFF, 4)


def flush_hdp(stranger: Stranger) -> list[int]:
    """The queue flushes HDP itself: write the request, wait for its bit."""
    req, done = (stranger._dwords[f"BIF_BX_PF0_GPU_HDP_FLUSH_{name}"][1] for name in ("REQ", "DONE"))
    return packet(0x3C, 3 | 1 << 6, req, done, 4, 4, 4)


def acquire() -> list[int]:
    """Every cache forgets and writes back (ACQUIRE_MEM)."""
    return packet(0x58, 0, 0xFFFFFFFF, 0xFF, 0, 0, 10, 1 | 3 << 4 | 3 << 6 | 1 << 8 | 1 << 9 | 1 << 14 | 1 << 15)


def release(address: int, value: int, *, interrupt: bool = False) -> list[int]:
    """End of pipe: caches written back, a 64-bit value, an interrupt."""
    caches = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 20 | 1 << 21
    return packet(0x49, 0x14 | 5 << 8 | caches, 2 << 29 | (2 if interrupt else 0) << 24, *halves(address),
                  *halves(value), 0)


def dispatch(stranger: Stranger, code: int, arguments: int, groups: int, threads: int) -> list[int]:
    """SET_SH_REG of what a kernel needs, DISPATCH_DIRECT. Two user SGPRs hold the arguments' address."""
    def sh(name: str, *values: int) -> list[int]:
        return packet(0x76, stranger._dwords["COMPUTE_" + name][1] - 0x2C00, *values)
    return (sh("PGM_LO", code >> 8 & 0xFFFFFFFF, code >> 40) + sh("PGM_RSRC1", 0xC0 << 12 | 2, 2 << 1 | 1 << 7)
            + sh("PGM_RSRC3", 0) + sh("USER_DATA_0", *halves(arguments)) + sh("START_X", 0, 0, 0)
            + sh("NUM_THREAD_X", threads, 1, 1) + packet(0x15, groups, 1, 1, 1 << 15 | 1))


def sdma_copy(source: int, target: int, nbytes: int) -> list[int]:
    return [1, nbytes - 1, 0, *halves(source), *halves(target)]


def sdma_fence(address: int, value: int) -> list[int]:
    return [5 | 3 << 16, *halves(address), value]


def sdma_trap() -> list[int]:
    return [6, 0]


def sdma_wait(address: int, value: int) -> list[int]:
    """POLL_REGMEM: until the word there is at least the value, however long."""
    return [8 | 5 << 28 | 1 << 31, *halves(address), value, 0xFFFFFFFF, 0xFFF << 16 | 10]


def sdma_fill(address: int, value: int, nbytes: int) -> list[int]:
    """CONSTANT_FILL by dwords."""
    return [11 | 2 << 30, *halves(address), value, nbytes - 1]


VECTOR_ADD = (0xF4080100, 0xF8000000, 0xF4040200, 0xF8000010, 0xD6460000, 0x04010C02, 0x30000082, 0xBF89FC07,
              0xDC520000, 0x01040000, 0xDC520000, 0x02060000, 0xBF8903F7, 0x06020501, 0xDC6A0000, 0x00080100,
              0xBFB00000)
"""c[i] = a[i] + b[i], fp32, workgroups of 64, the addresses of a, b and c in the arguments; its assembly is beside the
same words in tests/mock_engines/test_mock_mec.py."""


ADD_INTEGERS = tuple(0x4A020501 if word == 0x06020501 else word for word in VECTOR_ADD)
"""The same with v_add_nc_u32."""


def machine_of(text: str) -> mock.Machine:
    """The machine of an AMDRV_MOCK text."""
    from mock.machine import parse
    return mock.Machine(parse(text))
