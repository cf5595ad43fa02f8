"""What each SDMA packet does. Copies move whole runs of pages at a time.

Facts: :mod:`amdrv.facts.sdma6`; Linux 6.1, sdma_v6_0.c: COUNT of copies and fills is bytes - 1, an INDIRECT packet ends
on a boundary of eight words and its buffer is aligned to 32 bytes (sdma_v6_0_ring_emit_ib), the HDP flush form of
POLL_REGMEM (sdma_v6_0_ring_emit_hdp_flush), PTE generation (sdma_v6_0_vm_set_pte_pde). Packets about
surfaces and boxes are in :mod:`mock.sdma_tiled`.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from amdrv.facts import ih, sdma6, vm
from mock import atomics
from mock.actor import acting
from mock.packets import BadPacket, Decoded, decode_sdma
from mock.sdma_tiled import TiledPackets

if TYPE_CHECKING:
    from mock.sdma import SdmaQueue

__all__ = ["SdmaExecutor", "compare", "move", "host_view"]

HOLD_BYTES = 64 << 10           # up to here a copy keeps the interpreter's lock: giving it away costs more
LINE = 64                       # bytes of an access to memory, as MC_RD_COUNT and MC_WR_COUNT count
FOREVER = 0xFFF                 # RETRY_COUNT of POLL_REGMEM
IB_ALIGN_WORDS, IB_ALIGN_BYTES = 8, 32
FILL_DWORD = sdma6.ENUMS["FILL_SIZE"]["DWORD"]
M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF

POLICIES = ("DST_CACHE_POLICY", "DST1_CACHE_POLICY", "LINEAR_CACHE_POLICY", "CACHE_POLICY", "L2_POLICY")
"""What packets call the cache policy of their stores; its low two bits are GL2's."""
L2_POLICY, BYPASS = 3, 3

_COMPARE = {number: name for name, number in sdma6.ENUMS["COMPARE"].items()}


def compare(function: int, value: int, reference: int) -> bool:
    """The comparison that wait packets name, on unsigned numbers. :raises KeyError: 7 is none."""
    name = _COMPARE[function]
    return {"ALWAYS": True, "LESS": value < reference, "LESS_EQUAL": value <= reference, "EQUAL": value == reference,
            "NOT_EQUAL": value != reference, "GREATER_EQUAL": value >= reference, "GREATER": value > reference}[name]


def host_view(host: int, nbytes: int) -> np.ndarray:
    """Live uint8 array over host memory."""
    memory: Any = (ctypes.c_uint8 * nbytes).from_address(host)
    return np.frombuffer(memory, np.uint8)


def move(destination: list[tuple[int, int]], source: list[tuple[int, int]]) -> None:
    """Copy runs (host pointer, bytes) to runs of the same total."""
    d = s = 0
    d_at = s_at = 0
    while d < len(destination) and s < len(source):
        size = min(destination[d][1] - d_at, source[s][1] - s_at)
        to, what = destination[d][0] + d_at, source[s][0] + s_at
        if size > HOLD_BYTES:
            ctypes.memmove(to, what, size)
        else:
            (ctypes.c_char * size).from_address(to).raw = ctypes.string_at(what, size)
        d_at, s_at = d_at + size, s_at + size
        if d_at == destination[d][1]:
            d, d_at = d + 1, 0
        if s_at == source[s][1]:
            s, s_at = s + 1, 0


class SdmaExecutor(TiledPackets):
    """Runs the packets of one queue. ``execute`` returns how many further words to pass over."""

    def __init__(self, queue: SdmaQueue) -> None:
        self.queue, self.board = queue, queue.board
        self.memory = queue.board.memory
        self.vmid = 0
        self.time_offset = 0
        self.in_ib = False
        if self.board.trace is not None:
            self.execute = self.board.trace.packets(queue, self.execute)    # type: ignore[method-assign]

    def execute(self, packet: Decoded, vmid: int, position: int) -> int:
        """``position``: words from the ring's start, for what depends on alignment. :raises BadPacket, Fault:"""
        self.vmid, self.position = vmid, position
        acting(self.queue.name, packet)
        self.through = self._writes_through(packet)
        method = getattr(self, "op_" + packet.name.lower(), None)
        if method is None:
            raise BadPacket(packet.opcode, f"{packet.name} is not modelled")
        if packet.name.startswith(("COPY_", "CONSTANT_FILL")):
            self.board.time.copy_begins()
        return method(packet) or 0

    def _writes_through(self, packet: Decoded) -> bool:
        """Do stores go past GL2 into memory at once? By the packet's cache policy where it is valid (CPV), otherwise by
        the engine's (Linux 6.1, sdma_v6_0.c, sdma_v6_0_gfx_resume; sdma_common.h: the default is BYPASS)."""
        fields = packet.fields
        if fields.get("CPV"):
            for name in POLICIES:
                if name in fields:
                    return fields[name] & L2_POLICY == BYPASS
        if fields.get("MTYPE") == vm.MTYPE_UC:
            return True
        return self.board.regs.field(f"SDMA{self.queue.instance}_UTCL1_PAGE", "WR_L2_POLICY") == BYPASS

    # ---- memory

    def read(self, address: int, nbytes: int) -> bytes:
        return self.memory.read("gc", self.vmid, address, nbytes, client=self.queue.client)

    def word(self, address: int, nbytes: int = 4) -> int:
        return int.from_bytes(self.read(address, nbytes), "little")

    def write(self, address: int, data: bytes) -> None:
        self.memory.write("gc", self.vmid, address, data, client=self.queue.client, through=self.through)

    def runs(self, address: int, nbytes: int, *, write: bool) -> list[tuple[int, int]]:
        return self.memory.runs("gc", self.vmid, address, nbytes, write=write, client=self.queue.client)

    def _written(self, runs: list[tuple[int, int]]) -> None:
        for host, size in runs:
            self.memory.written(host, size, through=self.through)

    def _bad(self, packet: Decoded, why: str) -> BadPacket:
        return BadPacket(packet.opcode, f"{packet}: {why}")

    # ---- nothing

    def op_nop(self, packet: Decoded) -> None:
        pass

    def op_pre_exe(self, packet: Decoded) -> None:
        """Chooses among devices of a group; there is one, so what follows is executed."""

    # ---- copies

    def _copy(self, destination: int, source: int, nbytes: int) -> None:
        to, source_runs = self.runs(destination, nbytes, write=True), self.runs(source, nbytes, write=False)
        move(to, source_runs)
        self._written(to)
        self._took(nbytes, source_runs, to)

    def _took(self, nbytes: int, source: list[tuple[int, int]] | None, destination: list[tuple[int, int]]) -> None:
        """The time of a copy, or of a fill, which reads nothing; and what it moved, for the performance counters."""
        lines = -(-nbytes // LINE)
        self.queue.events["write_lines"] += lines
        if source is not None:
            self.queue.events["read_lines"] += lines
        vram = self.board.vram

        def inside(runs: list[tuple[int, int]]) -> bool:
            return bool(runs) and vram.base <= runs[0][0] < vram.base + vram.size
        self.board.time.copied(nbytes, from_vram=source is None or inside(source), to_vram=inside(destination))

    def op_copy_linear(self, packet: Decoded) -> None:
        nbytes = packet["COUNT"] + 1
        self._copy(packet["DST_ADDR"], packet["SRC_ADDR"], nbytes)
        self.board.counters["copied_bytes"] += nbytes

    op_copy_linear_bc = op_copy_linear

    def op_copy_broadcast_linear(self, packet: Decoded) -> None:
        nbytes = packet["COUNT"] + 1
        for name in ("DST1_ADDR", "DST2_ADDR"):
            self._copy(packet[name], packet["SRC_ADDR"], nbytes)
        self.board.counters["copied_bytes"] += 2 * nbytes

    # ---- writes

    def op_write_untiled(self, packet: Decoded) -> None:
        self.write(packet["DST_ADDR"] & ~3, np.array(packet.tail, np.uint32).tobytes())

    def op_constant_fill(self, packet: Decoded) -> None:
        nbytes, address, value = packet["COUNT"] + 1, packet["DST_ADDR"], packet["SRC_DATA_31_0"]
        unit = 1 << packet["FILLSIZE"]
        if unit > 1 << FILL_DWORD:
            raise self._bad(packet, f"there is no fill size {packet['FILLSIZE']}")
        if (address | nbytes) & unit - 1:
            self.board.note("sdma-alignment", f"{packet}: a fill of {unit} bytes at {address:#x}, {nbytes} bytes; the "
                                              "low bits of both are ignored")
            address, nbytes = address & ~(unit - 1), nbytes & ~(unit - 1)
        pattern = (value & (1 << 8 * unit) - 1).to_bytes(unit, "little")
        at = 0
        runs = self.runs(address, nbytes, write=True)
        for host, size in runs:
            turned = pattern[at % len(pattern):] + pattern[:at % len(pattern)]
            if len(set(turned)) == 1:
                ctypes.memset(host, turned[0], size)
            else:
                host_view(host, size)[:] = np.frombuffer(turned * (size // unit + 1), np.uint8)[:size]
            at += size
        self._written(runs)
        self._took(nbytes, None, runs)

    def op_fence(self, packet: Decoded) -> None:
        self.write(packet["ADDR"] & ~3, packet["DATA"].to_bytes(4, "little"))

    def op_timestamp_set(self, packet: Decoded) -> None:
        self.time_offset = packet["INIT_DATA"] - self.board.clock()

    def op_timestamp_get(self, packet: Decoded) -> None:
        self.write(packet["WRITE_ADDR"], (self.board.clock() + self.time_offset & M64).to_bytes(8, "little"))

    def op_timestamp_get_global(self, packet: Decoded) -> None:
        self.write(packet["WRITE_ADDR"], self.board.clock().to_bytes(8, "little"))

    def op_mem_incr(self, packet: Decoded) -> None:
        with atomics.LOCK:
            self.write(packet["ADDR"], (self.word(packet["ADDR"]) + 1 & M32).to_bytes(4, "little"))

    # ---- page-table entries

    def op_write_incr(self, packet: Decoded) -> None:
        """``value | mask`` for each of COUNT + 1 entries, the value growing (sdma_v6_0_vm_set_pte_pde)."""
        values = np.uint64(packet["INIT"]) + np.arange(packet["COUNT"] + 1, dtype=np.uint64) * np.uint64(packet["INCR"])
        self.write(packet["DST_ADDR"] & ~7, (values | np.uint64(packet["MASK"])).tobytes())

    def op_ptepde_copy(self, packet: Decoded) -> None:
        count = packet["COUNT"] + 1
        entries = np.frombuffer(self.read(packet["SRC_ADDR"], 8 * count), np.uint64)
        self.write(packet["DST_ADDR"], (entries & np.uint64(packet["MASK"])).tobytes())

    def op_ptepde_rmw(self, packet: Decoded) -> None:
        count = packet["NUM_OF_PTE"] + 1
        entries = np.frombuffer(self.read(packet["ADDR"], 8 * count), np.uint64)
        mask = np.uint64(packet["MASK"])
        self.write(packet["ADDR"], (entries & ~mask | np.uint64(packet["VALUE"]) & mask).tobytes())

    # ---- registers

    def op_srbm_write(self, packet: Decoded) -> None:
        enable = packet["BYTE_EN"]
        mask = sum(0xFF << 8 * i for i in range(4) if enable >> i & 1)
        dword = packet["ADDR"]
        value = packet["DATA"]
        if mask != M32:
            value = self.board.read_dword(dword) & ~mask | value & mask
        self.board.write_dword(dword, value)

    def op_register_rmw(self, packet: Decoded) -> None:
        for i in range(packet["NUM_OF_REG"] + 1):
            dword = packet["ADDR"] + i * packet["STRIDE"]
            mask = packet["MASK"]
            self.board.write_dword(dword, self.board.read_dword(dword) & ~mask | packet["VALUE"] & mask)

    def op_poll_reg_write_mem(self, packet: Decoded) -> None:
        self.write(packet["ADDR"] & ~3, self.board.read_dword(packet["ADDR_31_2"]).to_bytes(4, "little"))

    # ---- waiting

    def op_poll_regmem(self, packet: Decoded) -> None:
        mask, value, function = packet["MASK"], packet["VALUE"], packet["FUNC"]
        if function not in _COMPARE:
            raise self._bad(packet, f"there is no comparison {function}")
        if packet["HDP_FLUSH"]:
            self.board.write_dword(packet["ADDR_63_32"] >> 2, value)
        if packet["MEM_POLL"]:
            address, vmid = packet["ADDR"] & ~3, self.vmid

            def look() -> bool:
                self.vmid = vmid
                return compare(function, self.word(address) & mask, value)
        else:
            dword = packet["ADDR_31_0"] >> 2

            def look() -> bool:
                return compare(function, self.board.read_dword(dword) & mask, value)
        retries = packet["RETRY_COUNT"]
        if not self.queue.wait(look, looks=None if retries == FOREVER else retries + 1):
            self.queue.interrupt(ih.GFX_11_0_0__SRCID__SDMA_POLL_TIMEOUT)
            raise self._bad(packet, f"not true after {retries + 1} looks")

    def op_cond_exe(self, packet: Decoded) -> int:
        return 0 if self.word(packet["ADDR"] & ~3) == packet["REFERENCE"] else packet["EXEC_COUNT"]

    def op_semaphore(self, packet: Decoded) -> None:
        address = packet["ADDR"] & ~7
        if packet["SIGNAL"]:
            with atomics.LOCK:
                value = 1 if packet["WRITE_ONE"] else self.word(address, 8) + 1 & M64
                self.write(address, value.to_bytes(8, "little"))
            return

        def take() -> bool:
            with atomics.LOCK:
                value = self.word(address, 8)
                if value:
                    self.write(address, (value - 1).to_bytes(8, "little"))
                return bool(value)
        self.queue.wait(take)

    def op_atomic(self, packet: Decoded) -> None:
        found = atomics.operation(packet["ATOMIC_OP"])
        if found is None:
            raise self._bad(packet, f"there is no atomic operation {packet['ATOMIC_OP']}")
        name, size, _returns = found
        address = packet["ADDR"] & ~(size - 1)
        self.memory.check_atomic("gc", self.vmid, [address], client=self.queue.client)

        def once() -> bool:
            with atomics.LOCK:
                old = self.word(address, size)
                new = atomics.apply(name, size, old, packet["SRC_DATA"], packet["CMP_DATA"])
                self.write(address, new.to_bytes(size, "little"))
            return not packet["LOOP"] or "CMPSWAP" not in name or old == packet["CMP_DATA"] & ((1 << 8 * size) - 1)
        self.queue.wait(once)

    # ---- others

    def op_trap(self, packet: Decoded) -> None:
        if self.board.regs.field(f"SDMA{self.queue.instance}_CNTL", "TRAP_ENABLE"):
            self.queue.interrupt(ih.GFX_11_0_0__SRCID__SDMA_TRAP, packet["INT_CONTEXT"])
        else:
            self.board.note("interrupt-off", f"{self.queue.name}: TRAP while TRAP_ENABLE of "
                                             f"SDMA{self.queue.instance}_CNTL is off")

    def op_dummy_trap(self, packet: Decoded) -> None:
        pass

    def op_gcr_req(self, packet: Decoded) -> None:
        base = packet["BASE_VA"]
        self.board.gfx.cache_operation(self.queue.name, packet["VMID"], packet["GCR_CONTROL"], base,
                                       max(packet["LIMIT_VA"] - base, 0))

    def op_gpuvm_inv(self, packet: Decoded) -> None:
        """Its own request to the GC hub's invalidation engines."""
        vmids = packet["PER_VMID_INV_REQ"]
        page = packet["PAGE_VA_42_12"] | packet["PAGE_VA_47_43"] << 31
        levels = all(packet[name] for name in ("L2_PTES", "L1_PTES"))
        self.memory.hubs["gc"].forget(vmids, page, bool(packet["S"]), entries=levels,
                                      walks=bool(packet["L2_PDE0"] and packet["L2_PDE1"] and packet["L2_PDE2"]))
        self.board.counters["tlb_flushes"] += 1

    def op_vm_invalidation(self, packet: Decoded) -> None:
        for hub, field in (("gc", "GFX_ENG_ID"), ("mm", "MM_ENG_ID")):
            engine = packet[field]
            if engine < 18:
                self.memory.hubs[hub].invalidate(engine, packet["INVALIDATEREQ"])

    def op_indirect(self, packet: Decoded) -> None:
        queue = self.queue
        if self.in_ib:
            raise self._bad(packet, "an indirect buffer within an indirect buffer")
        if not queue.field("IB_CNTL", "IB_ENABLE"):
            raise self._bad(packet, "indirect buffers are off (IB_CNTL.IB_ENABLE)")
        if packet["IB_BASE"] % IB_ALIGN_BYTES:
            raise self._bad(packet, f"the buffer is not aligned to {IB_ALIGN_BYTES} bytes")
        if (self.position + packet.length) % IB_ALIGN_WORDS:
            raise self._bad(packet, f"it ends at word {self.position + packet.length} of the ring; it must end on a "
                                    f"multiple of {IB_ALIGN_WORDS}")
        ring_vmid = self.vmid
        vmid = ring_vmid or packet["VMID"]
        count = packet["IB_SIZE"]
        words = self.memory.read_words("gc", vmid, packet["IB_BASE"], count, client=queue.client).tolist()
        self.in_ib = True
        place, at = queue.read, 0
        if queue.left is not None and queue.left[:2] == (place, packet["IB_BASE"]):
            at = queue.left[2]              # it was stopped here
        queue.left = None
        try:
            while at < len(words):
                queue.left = place, packet["IB_BASE"], at
                queue.engine_check()
                inner = decode_sdma(words, at)
                self.board.counters["sdma_packets"] += 1
                at += inner.length + self.execute(inner, vmid, at)
            queue.left = None
        finally:
            self.in_ib, self.vmid = False, ring_vmid
