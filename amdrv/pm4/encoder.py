"""hcq's compute commands as PM4 packets for a queue of the compute micro engine.

Packets are built once from their description, as templates; a launch copies its kernel's template and fills in the
few words that change. Sources: Linux 6.1 (``gfx_v11_0.c``), Mesa 25.0 (``radv_cmd_buffer.c``, ``ac_cmdbuf.c``,
``ac_shader_util.c``), LLVM's "User Guide for AMDGPU Backend" (initial kernel state, memory model).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from amdrv import pm4
from amdrv.errors import PacketError
from amdrv.facts import pm4 as pm4_facts
from amdrv.scratch import Scratch
from hcq.backend import Kernel

__all__ = ["ComputeEncoder", "LDS_GRANULE", "LOW_WORD", "RegisterAddress", "Template"]

SHADER_ENGINES = 8                      # COMPUTE_STATIC_THREAD_MGMT_SE0..7
ARRAY_SHIFT = 16                        # SH1_CU_EN: the second shader array's CUs
DISPATCH_INTERLEAVE = 256               # work-items to one SE before the next: Mesa's choice for compute (ac_cmdbuf.c)
USER_SGPRS = 16
LDS_GRANULE = 512                       # bytes a unit of COMPUTE_PGM_RSRC2.LDS_SIZE (LLVM guide, gfx7 to gfx11)
POLL_INTERVAL = 4                       # Linux 6.1, sdma_v6_0_ring_emit_pipeline_sync, gfx_v11_0_wait_reg_mem
LOW_WORD = 0xffffffff
WRITE_WORDS = 1024                      # of a WRITE_DATA, so that it finds room in a ring (our choice)

# kernel_code_properties, in the order in which they take user SGPRs: bit, dwords (LLVM guide, "Initial Kernel
# Execution State"). The last bits of the word choose the wave size and say whether the stack is dynamic.
PRIVATE_SEGMENT_BUFFER, DISPATCH_PTR, QUEUE_PTR, KERNARG_PTR, DISPATCH_ID, FLAT_SCRATCH_INIT, PRIVATE_SIZE = range(7)
USER_SGPR_DWORDS = {DISPATCH_PTR: 2, QUEUE_PTR: 2, KERNARG_PTR: 2, DISPATCH_ID: 2, PRIVATE_SIZE: 1}

RegisterAddress = Callable[[str], int]
"""Name of a GC register -> its dword address in the register BAR."""


class Template:
    """A packet built once; a copy with other 64-bit values costs a few stores.

    :param holes: words that begin a 64-bit value: index of the low half; the high half follows.
    """

    def __init__(self, words: list[int], *holes: int) -> None:
        self.words, self.holes = words, holes

    def append(self, words: list[int], address: int, value: int = 0) -> None:
        if address & 7 or not 0 <= value < 1 << 64:
            raise PacketError(f"a signal is a 64-bit word at a multiple of 8; {value:#x} at {address:#x} is none")
        start = len(words)
        words += self.words
        for hole, whole in zip(self.holes, (address, value), strict=False):
            words[start + hole] = whole & LOW_WORD
            words[start + hole + 1] = whole >> 32


def _word(name: str, word: str) -> int:
    """Where a word stands in a PM4 packet, its header counted."""
    return [each.name for each in pm4_facts.PACKETS[name].words].index(word) + 1


class _Launch:
    """A kernel's packets with holes: everything that only the kernel and the scratch buffer decide is filled in."""

    def __init__(self, kernel: Kernel, scratch: Scratch, register: RegisterAddress) -> None:
        self.scratch = scratch
        self.words: list[int] = []
        self.holes: dict[int, int] = {}         # kernel_code_properties bit -> index of its first word
        self._set(register("COMPUTE_PGM_LO"), [kernel.entry >> 8 & LOW_WORD, kernel.entry >> 40])
        if kernel.private_bytes:
            base = scratch.address >> 8
            self._set(register("COMPUTE_DISPATCH_SCRATCH_BASE_LO"), [base & LOW_WORD, base >> 32])
            self._set(register("COMPUTE_TMPRING_SIZE"), [scratch.tmpring])
        self.rsrc2 = self._set(register("COMPUTE_PGM_RSRC1"), [kernel.rsrc1, kernel.rsrc2]) + 1
        self._set(register("COMPUTE_PGM_RSRC3"), [kernel.rsrc3])
        self.threads = self._set(register("COMPUTE_NUM_THREAD_X"), [0, 0, 0])
        user = self._user_data(kernel)
        if user:
            first = self._set(register("COMPUTE_USER_DATA_0"), user)
            self.holes = {bit: first + offset for bit, offset in self.holes.items()}
        self.groups = len(self.words) + 1
        self.words += pm4.build("DISPATCH_DIRECT", SHADER_TYPE=1, DIM_X=0, DIM_Y=0, DIM_Z=0, COMPUTE_SHADER_EN=1,
                                FORCE_START_AT_000=1, ORDER_MODE=1, CS_W32_EN=kernel.wave_size == 32)

    def _set(self, address: int, values: Sequence[int]) -> int:
        """Append a SET_SH_REG; returns the index of the first value."""
        packet = pm4.set_registers(address, values, SHADER_TYPE=1)
        first = len(self.words) + len(packet) - len(values)
        self.words += packet
        return first

    def _user_data(self, kernel: Kernel) -> list[int]:
        properties = kernel.kernel_code_properties
        for bit, what in ((PRIVATE_SEGMENT_BUFFER, "a private segment buffer"),
                          (FLAT_SCRATCH_INIT, "a flat scratch address")):
            if properties >> bit & 1:
                raise PacketError(f"kernel {kernel.name!r} asks for {what} in SGPRs; gfx11 sets scratch up by itself "
                                  "(architected flat scratch), so this code was compiled for another card")
        user: list[int] = []
        for bit, dwords in USER_SGPR_DWORDS.items():
            if properties >> bit & 1:
                self.holes[bit] = len(user)
                user += [kernel.private_bytes if bit == PRIVATE_SIZE else 0] * dwords
        if len(user) > USER_SGPRS:
            raise PacketError(f"kernel {kernel.name!r} asks for {len(user)} user SGPRs; there are {USER_SGPRS}")
        return user


class ComputeEncoder:
    """hcq's compute commands as PM4 packets for a MEC queue."""

    def __init__(self, register: RegisterAddress, wgp_masks: Mapping[tuple[int, int], int],
                 grow: Callable[[Scratch, int], Scratch] | None = None) -> None:
        """
        :param wgp_masks: the active WGPs of each (shader engine, array), a bit each.
        :param grow: (what there is, bytes a wave) -> larger scratch, for an encoder that sees to it by itself.
        """
        self.scratch, self._grow = Scratch(), grow
        self._register = register
        self._cu_masks = [0] * SHADER_ENGINES
        for (engine, array), wgps in wgp_masks.items():
            cus = sum(0b11 << 2 * wgp for wgp in range(wgps.bit_length()) if wgps >> wgp & 1)
            self._cu_masks[engine] |= cus << ARRAY_SHIFT * array
        self._launches: dict[Kernel, _Launch] = {}
        self._dispatches = 0
        # Linux 6.1, gfx_v11_0_emit_mem_sync. It covers what the LLVM guide's memory model for gfx11 asks of an
        # acquire at system scope (GL0 and GL1 invalidated), and code that was just written (GLI, GLK).
        self._barrier = (
            pm4.build("EVENT_WRITE", EVENT_TYPE="CS_PARTIAL_FLUSH", EVENT_INDEX="PARTIAL_FLUSH")
            + pm4.build("ACQUIRE_MEM", COHER_SIZE=(1 << 40) - 1, COHER_BASE=0, POLL_INTERVAL=10, GLI_INV="GLI_ALL",
                        GLK_INV=1, GLV_INV=1, GL1_INV=1, GLM_INV=1, GLM_WB=1, GL2_INV=1, GL2_WB=1))
        # Linux 6.1, gfx_v11_0_wait_reg_mem
        self._wait = Template(
            pm4.build("WAIT_REG_MEM", FUNCTION="GREATER_EQUAL", MEM_SPACE="MEMORY", ADDRESS=0, REFERENCE=0,
                      MASK=LOW_WORD, POLL_INTERVAL=POLL_INTERVAL), _word("WAIT_REG_MEM", "ADDRESS_LO"))
        self._reference = _word("WAIT_REG_MEM", "REFERENCE")
        holes = _word("RELEASE_MEM", "ADDRESS_LO"), _word("RELEASE_MEM", "DATA_LO")
        self.stamp = Template(
            pm4.build("RELEASE_MEM", EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX="END_OF_PIPE", CACHE_POLICY="BYPASS",
                      DATA_SEL="GPU_CLOCK", ADDRESS=0, DATA=0, INT_CTXID=0), *holes)
        # Linux 6.1, gfx_v11_0_ring_emit_fence
        self.signals = [Template(
            pm4.build("RELEASE_MEM", EVENT_TYPE="CACHE_FLUSH_AND_INV_TS_EVENT", EVENT_INDEX="END_OF_PIPE",
                      SEQ="SEQ_FORWARD", GL2_WB=1, GL2_INV=1, GL2_US=1, GL1_INV=1, GLV_INV=1, GLM_INV=1, GLM_WB=1,
                      CACHE_POLICY="BYPASS", DATA_SEL="DATA_64", INT_SEL=interrupt, ADDRESS=0, DATA=0, INT_CTXID=0),
            *holes) for interrupt in ("NONE", "INTERRUPT_AFTER_WRITE")]

    def preamble(self) -> list[int]:
        """Words for the beginning of a queue: what stays the same for all launches (Mesa, ac_cmdbuf.c,
        gfx10_init_compute_preamble_state)."""
        words: list[int] = []
        for first, values in (*self._thread_management(),
                              ("COMPUTE_DISPATCH_INTERLEAVE", [DISPATCH_INTERLEAVE]),
                              ("COMPUTE_RESOURCE_LIMITS", [0]), ("COMPUTE_START_X", [0, 0, 0]),
                              ("COMPUTE_USER_ACCUM_0", [0, 0, 0, 0]), ("COMPUTE_DISPATCH_TUNNEL", [0])):
            words += pm4.set_registers(self._register(first), values, SHADER_TYPE=1)
        return words

    def _thread_management(self) -> tuple[tuple[str, list[int]], ...]:
        """The CUs that waves may run on."""
        name, masks = "COMPUTE_STATIC_THREAD_MGMT_SE", self._cu_masks
        return (f"{name}0", masks[0:2]), (f"{name}2", masks[2:4]), (f"{name}4", masks[4:8])

    def wait(self, words: list[int], address: int, value: int) -> None:
        if value > LOW_WORD:
            raise PacketError(f"signals hold 32 bits here; a queue cannot wait for {value:#x}")
        start = len(words)
        self._wait.append(words, address)
        words[start + self._reference] = value

    def signal(self, words: list[int], address: int, value: int, *, interrupt: bool = True) -> None:
        self.signals[interrupt].append(words, address, value)

    def timestamp(self, words: list[int], address: int) -> None:
        self.stamp.append(words, address)

    def memory_barrier(self, words: list[int]) -> None:
        words += self._barrier

    def write(self, words: list[int], dst: int, data: Sequence[int]) -> None:
        """Store 32-bit words, past the caches."""
        for start in range(0, len(data), WRITE_WORDS):
            words += pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, CACHE_POLICY="BYPASS",
                               DST_ADDR=dst + 4 * start, DATA=list(data[start:start + WRITE_WORDS]))

    def poll(self, words: list[int], address: int, value: int, mask: int, compare: str) -> None:
        words += pm4.build("WAIT_REG_MEM", FUNCTION=compare, MEM_SPACE="MEMORY", ADDRESS=address, REFERENCE=value,
                           MASK=mask, POLL_INTERVAL=POLL_INTERVAL)

    def atomic(self, words: list[int], address: int, operation: str, operand: int, compare: int, loop: bool) -> None:
        words += pm4.build("ATOMIC_MEM", ATOMIC=f"ATOMIC_{operation}", COMMAND="LOOP" if loop else "WR_CONFIRM",
                           ADDRESS=address, SRC_DATA=operand, CMP_DATA=compare, LOOP_INTERVAL=POLL_INTERVAL)

    def interrupt(self, words: list[int]) -> None:
        words += pm4.build("RELEASE_MEM", EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX="END_OF_PIPE", DATA_SEL="NONE",
                           INT_SEL="INTERRUPT_ONLY", ADDRESS=0, DATA=0, INT_CTXID=0)

    def indirect(self, words: list[int], address: int, count: int) -> None:
        # Linux 6.1, gfx_v11_0_ring_emit_ib_compute; the queue's own VMID holds
        words += pm4.build("INDIRECT_BUFFER", IB_BASE=address, IB_SIZE=count, VALID=1)

    def exec(self, words: list[int], kernel: Kernel, kernarg: int, grid: Sequence[int], block: Sequence[int],
             *, dynamic_lds: int = 0, dispatch_packet: int = 0, queue_ptr: int = 0,
             dispatch_id: int | None = None) -> None:
        if self._grow is not None and kernel.private_bytes * kernel.wave_size > self.scratch.wave_bytes:
            self.scratch = self._grow(self.scratch, kernel.private_bytes * kernel.wave_size)
        launch = self._launches.get(kernel)
        if launch is None or (launch.scratch is not self.scratch and kernel.private_bytes):
            if len(self._launches) >= 1024:
                self._launches.clear()
            launch = self._launches[kernel] = _Launch(kernel, self.scratch, self._register)
        if dispatch_id is None:
            self._dispatches += 1
            dispatch_id = self._dispatches
        start = len(words)
        words += launch.words
        granules = -(-(kernel.group_bytes + dynamic_lds) // LDS_GRANULE)
        words[start + launch.rsrc2] |= granules << 15          # LDS_SIZE; the descriptor leaves it to the launch
        at = start + launch.threads
        words[at:at + 3] = block
        values = {KERNARG_PTR: kernarg, DISPATCH_PTR: dispatch_packet, QUEUE_PTR: queue_ptr,
                  DISPATCH_ID: dispatch_id}
        for bit, index in launch.holes.items():
            if bit != PRIVATE_SIZE:
                value = values[bit]
                words[start + index] = value & LOW_WORD
                words[start + index + 1] = value >> 32
        at = start + launch.groups
        words[at:at + 3] = grid

    def describe(self, words: Sequence[int]) -> list[str]:
        return pm4.dump(words).splitlines()
