"""A dispatch packet becomes a launch of machine code.

The COMPUTE_* registers of a queue, as they stand, become a :class:`mock.isa.Dispatch`; its memory is the queue's VMID
behind the GC hub. Facts: Mesa, gfx11.json (fields of COMPUTE_*), radv_cmd_buffer.c, radv_emit_dispatch_packets (the
dimensions are end values when COMPUTE_START is set), ac_shader_util.c, ac_get_scratch_tmpring_size (WAVESIZE counts
256 bytes on gfx11, WAVES is per shader engine); LLVM, User Guide for AMDGPU Backend (LDS of a workgroup: 64 KiB).

What cannot start hangs, as on silicon: :class:`Hang` says why. A wave that faults stops with its queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from mock import isa
from mock.actor import current
from mock.clock import CLOCK_HZ
from mock.faultresponse import patience
from mock.faults import register
from mock.gfx import ADDRESS_32, ALIGN_UNALIGNED
from mock.gmc import Client
from mock.isa.clock import Chip
from mock.isa.dispatch import LDS_GRANULE, LOAD, STORE, Stopped
from mock.isa.waves import batches
from mock.wavememory import CodeMemory, WaveMemory
from mock.wgpcaches import Sharing, WgpMemory

if TYPE_CHECKING:
    from mock.hqd import ComputeQueue

__all__ = ["Hang", "ShaderAddressSpace", "launch", "plan"]

SCRATCH_GRANULE = 256       # bytes per unit of COMPUTE_TMPRING_SIZE.WAVESIZE on gfx11
CODE_SHIFT = SCRATCH_SHIFT = 8
LDS_LIMIT = 64 << 10
USER_SGPRS = 16
ENGINES_MASKS = 8           # COMPUTE_STATIC_THREAD_MGMT_SE0..7
SA_BITS = 16                # compute units of one array in a mask
MAX_WORK_ITEMS = 1024
SLEEP_SECONDS = 200e-6      # between looks of a launch that waits for its end


register("illegal-instruction", "the first wave of a launch meets bits that are no instruction", "queue")
register("memory-violation", "the first wave of a launch reads an address that is not mapped", "queue", "address")
register("hung-wave", "a launch starts and its waves never end, until they are killed", "queue")


class Hang(Exception):
    """The launch never starts, or its waves never end."""


class ShaderAddressSpace:
    """What :func:`mock.isa.execute` sees of memory."""

    def __init__(self, queue: ComputeQueue, vmid: int) -> None:
        self.queue, self.vmid = queue, vmid
        self.memory = queue.board.memory
        self.observer: Callable[[Callable[[], Stopped]], None] | None = None
        """Executors let it look at their waves now and then."""
        self.rules = queue.board.gfx.shader_memory(vmid)
        self.waves = WaveMemory(self.memory, vmid, current(), queue.name)
        self.code = CodeMemory(self.waves)
        """Where executors fetch instructions."""
        vram, strict = queue.board.vram, queue.board.gpu.is_strict("gl1")
        self._sharing = Sharing(self, self.waves.reader, vram.base, vram.size, self.memory.gl2.pool,
                                queue.board.note) if strict else None
        self.drop_low_bits = self.rules.alignment != ALIGN_UNALIGNED
        """The executor takes addresses down to their element's size, as the DWORD alignment modes do."""
        self.before_atomic = None if queue.board.config.atomics_enabled else self._before_atomic
        """What the executor asks before it performs atomics, where they may be refused."""
        if self.drop_low_bits:
            queue.board.note("alignment", f"{queue.name}: a launch while SH_MEM_CONFIG.ALIGNMENT_MODE of VMID {vmid} "
                             f"is {self.rules.alignment}, not {ALIGN_UNALIGNED} (unaligned): low address bits are "
                             "dropped")

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        """uint64[n] -> uint64[n]. :raises Fault:"""
        return self.translate_as(addresses, STORE if write else LOAD)

    def translate_as(self, addresses: np.ndarray, kind: int) -> np.ndarray:
        """The same for a kind of access (:mod:`mock.isa.dispatch`). :raises Fault:"""
        self.queue.check()
        patience.check = self.queue.check       # this thread may be an executor's own
        addresses = np.asarray(addresses, np.uint64)
        if self.rules.address_mode == ADDRESS_32:
            addresses = addresses & np.uint64(0xFFFFFFFF)
        return self.waves.many(addresses, kind)

    def translate_page(self, address: int, kind: int) -> int:
        """For one address; the pointer holds for its page, until :attr:`generation` grows. :raises Fault:"""
        self.queue.check()
        patience.check = self.queue.check
        return self.waves.page(address & 0xFFFFFFFF if self.rules.address_mode == ADDRESS_32 else address, kind)

    @property
    def served(self) -> bool:
        """Loads were given other bytes than stores go to."""
        return self.waves.served

    def invalidate(self, bits: int) -> None:
        """Cache instructions that waves executed (:meth:`mock.wavememory.WaveMemory.invalidate`)."""
        self.waves.invalidate(bits)

    @property
    def workgroup_processor(self) -> Callable[[Callable[[int, int], None], Callable[[], int]], WgpMemory] | None:
        """With rule ``gl1``: what gives each thread of native code its own memory (:meth:`mock.wgpcaches.Sharing.wgp`).
        """
        return None if self._sharing is None else self._sharing.wgp

    def _before_atomic(self, addresses: np.ndarray) -> None:
        self.memory.check_atomic("gc", self.vmid, addresses, client=Client.TCP)

    @property
    def plain(self) -> bool:
        """Nothing of this memory needs an executor that asks for each access."""
        return not self.drop_low_bits and self.before_atomic is None

    def check(self) -> None:
        """Executors that seldom translate call it now and then. :raises Aborted: the queue was stopped."""
        self.queue.check()

    @property
    def generation(self) -> int:
        """Grows with every invalidation of the VMID's TLB: an executor that keeps pointers drops them then."""
        return self.memory.generation("gc", self.vmid)

    def publish(self) -> None:
        """The waves have ended."""
        self.waves.publish()
        if self._sharing is not None:
            self._sharing.close()


def _three(values: Iterable[int]) -> tuple[int, int, int]:
    x, y, z = values
    return x, y, z


def _enabled_engines(queue: ComputeQueue) -> list[int]:
    """Shader engines where a compute unit is there, enabled by COMPUTE_STATIC_THREAD_MGMT and not reserved."""
    arch, found = queue.board.arch, []
    for se in range(arch.shader_engines):
        mask = queue.compute(f"STATIC_THREAD_MGMT_SE{se}") if se < ENGINES_MASKS else 0
        if any(mask >> SA_BITS * sa & queue.board.gfx.usable_cus(se, sa, queue.queue) & (1 << SA_BITS) - 1
               for sa in range(arch.arrays_per_engine)):
            found.append(se)
    return found


def _hw_id2(queue: ComputeQueue) -> int:
    """SQ_WAVE_HW_ID2: queue 3:0, pipe 5:4, micro engine 9:8, VMID 27:24 (Linux 6.1, gc_11_0_0_sh_mask.h)."""
    return queue.queue | queue.pipe << 4 | queue.me << 8 | queue.wave_vmid << 24


def _enabled_wgps(queue: ComputeQueue) -> int:
    """Workgroup processors with a compute unit that is there, enabled (COMPUTE_STATIC_THREAD_MGMT) and not reserved."""
    arch, cus = queue.board.arch, 0
    for se in range(min(arch.shader_engines, ENGINES_MASKS)):
        mask = queue.compute(f"STATIC_THREAD_MGMT_SE{se}")
        cus += sum((mask >> SA_BITS * sa & queue.board.gfx.usable_cus(se, sa, queue.queue)
                    & (1 << SA_BITS) - 1).bit_count()
                   for sa in range(arch.arrays_per_engine))
    return max(-(-cus // 2), 1)


def plan(queue: ComputeQueue, dimensions: tuple[int, int, int], initiator: int) -> tuple[isa.Dispatch, int]:
    """(launch, waves that may need scratch). :raises Hang: what the SPI would wait for without end."""
    regs = queue.board.regs
    bits = regs.register("COMPUTE_DISPATCH_INITIATOR").unpack(initiator)
    wave_size = 32 if bits["CS_W32_EN"] else 64
    threads = regs.register("COMPUTE_NUM_THREAD_X")
    counts = _three(queue.compute(f"NUM_THREAD_{axis}") for axis in "XYZ")
    block = _three(threads["NUM_THREAD_FULL"].get(value) for value in counts)
    if 0 in block:
        raise Hang(f"COMPUTE_NUM_THREAD is {block}: a workgroup of no work-items")
    items = block[0] * block[1] * block[2]
    if items > MAX_WORK_ITEMS:
        raise Hang(f"COMPUTE_NUM_THREAD is {block}: {items} work-items, a workgroup holds {MAX_WORK_ITEMS}")
    start = (0, 0, 0) if bits["FORCE_START_AT_000"] else _three(queue.compute(f"START_{axis}") for axis in "XYZ")
    partial = (0, 0, 0)
    if bits["USE_THREAD_DIMENSIONS"]:
        partial = _three(d % b for d, b in zip(dimensions, block, strict=True))
        dimensions = _three(-(-d // b) for d, b in zip(dimensions, block, strict=True))
    elif bits["PARTIAL_TG_EN"]:
        partial = _three(threads["NUM_THREAD_PARTIAL"].get(value) for value in counts)
        partial = _three(0 if p == b else p for p, b in zip(partial, block, strict=True))
        if any(p > b for p, b in zip(partial, block, strict=True)):
            raise Hang(f"NUM_THREAD_PARTIAL {partial} is more than the workgroup's {block}")
    grid = _three(max(d - s, 0) for d, s in zip(dimensions, start, strict=True))
    engines = _enabled_engines(queue)
    if not engines:
        raise Hang("no compute unit of any shader engine is enabled by COMPUTE_STATIC_THREAD_MGMT_SE0..7, and not "
                   "reserved for other queues (SPI_RESOURCE_RESERVE_EN_CU)")
    rsrc1, rsrc2, rsrc3 = (queue.compute(f"PGM_RSRC{n}") for n in (1, 2, 3))
    lds = regs.register("COMPUTE_PGM_RSRC2")["LDS_SIZE"].get(rsrc2) * LDS_GRANULE
    if lds > LDS_LIMIT:
        raise Hang(f"COMPUTE_PGM_RSRC2.LDS_SIZE asks for {lds} bytes of LDS, a workgroup may have {LDS_LIMIT}")
    waves = -(-items // wave_size)
    limit = regs.register("COMPUTE_RESOURCE_LIMITS")["WAVES_PER_SH"].get(queue.compute("RESOURCE_LIMITS"))
    if limit and waves > limit:
        raise Hang(f"COMPUTE_RESOURCE_LIMITS.WAVES_PER_SH is {limit}, and a workgroup has {waves} waves")
    ring = regs.register("COMPUTE_TMPRING_SIZE").unpack(queue.compute("TMPRING_SIZE"))
    base = queue.compute("DISPATCH_SCRATCH_BASE_LO") | queue.compute("DISPATCH_SCRATCH_BASE_HI") << 32
    memory = queue.board.gfx.shader_memory(queue.wave_vmid)
    tba, tma = queue.board.gfx.trap_handler(queue.wave_vmid)
    entry = queue.compute("PGM_LO") | regs.register("COMPUTE_PGM_HI")["DATA"].get(queue.compute("PGM_HI")) << 32
    dispatch = isa.Dispatch(
        code_address=entry << CODE_SHIFT, rsrc1=rsrc1, rsrc2=rsrc2, rsrc3=rsrc3,
        user_sgprs=[queue.compute(f"USER_DATA_{i}") for i in range(USER_SGPRS)],
        grid=grid, block=block, partial=partial, start=start, wave_size=wave_size,
        scratch_address=base << SCRATCH_SHIFT, scratch_wave_bytes=ring["WAVESIZE"] * SCRATCH_GRANULE,
        scratch_slots=ring["WAVES"] * len(engines), shared_base=memory.shared_base, private_base=memory.private_base,
        tba=tba, tma=tma, doorbell=queue.hqd_field("PQ_DOORBELL_CONTROL", "DOORBELL_OFFSET"),
        hw_id2=_hw_id2(queue), interrupt=queue.sq_message)
    if regs.register("COMPUTE_PGM_RSRC2")["SCRATCH_EN"].get(rsrc2) and all(grid):
        if not ring["WAVES"]:
            raise Hang("the code needs scratch (COMPUTE_PGM_RSRC2.SCRATCH_EN) and COMPUTE_TMPRING_SIZE.WAVES is 0")
        _check_scratch(queue, dispatch, waves * grid[0] * grid[1] * grid[2], engines, ring["WAVES"])
    return dispatch, waves


def _check_scratch(queue: ComputeQueue, dispatch: isa.Dispatch, waves: int, engines: list[int], slots: int) -> None:
    """Every slot that the waves take, were they all resident, must be mapped. :raises Fault:

    A wave on shader engine s takes one of the slots from s * WAVES on.
    """
    size = dispatch.scratch_wave_bytes
    if not size:
        return
    resident = min(-(-waves // len(engines)), slots)
    ends = [address for se in range(len(engines)) if waves > se
            for address in (dispatch.scratch_address + se * slots * size,
                            dispatch.scratch_address + (se * slots + resident) * size - 4)]
    queue.board.memory.translate("gc", queue.wave_vmid, np.array(ends, np.uint64), write=True, nbytes=4)


def launch(queue: ComputeQueue, dimensions: tuple[int, int, int], initiator: int, vmid: int) -> None:
    """Run a dispatch to its end. :raises Hang, Fault, isa.IsaError:"""
    board = queue.board
    queue.wave_vmid = vmid
    if not board.regs.register("COMPUTE_DISPATCH_INITIATOR")["COMPUTE_SHADER_EN"].get(initiator):
        board.note("dispatch", f"{queue.name}: a dispatch without COMPUTE_SHADER_EN starts nothing")
        return
    dispatch, _waves = plan(queue, dimensions, initiator)
    board.counters["kernels"] += 1
    if not all(dispatch.grid):
        return
    board.memory.translate("gc", vmid, np.array([dispatch.code_address], np.uint64), write=False, execute=True,
                           nbytes=4, client=Client.SQC_INST)
    space = ShaderAddressSpace(queue, vmid)
    board.sq.begin(queue)
    space.observer = board.sq.observer(queue)
    executor = isa.default_executor() if space.plain else "interpreter"
    if space.workgroup_processor is not None and executor == "auto" and isa.has_native_code():
        executor = "jit"            # the interpreter's waves go in step, on one workgroup processor
    chip = None
    if board.time.modelled:
        chip = Chip(wgps=_enabled_wgps(queue), begin=board.time.ticks() / CLOCK_HZ)
    begin = board.clock()
    try:
        if board.faults.any:
            _injected(queue, dispatch, space)
        counts = isa.execute(dispatch, space, executor=executor, clock=chip)
    except Exception as error:
        board.sq.hold(queue, dispatch, error)
        raise
    finally:
        board.sq.left(queue)
        space.publish()
    board.counters["instructions"] += counts.instructions
    if counts.clock is not None:
        board.time.advance(counts.clock.seconds)
        if counts.clock.incomplete:
            board.note("clock", f"{queue.name}: the modelled time of a launch is from a sample that ended early: "
                                f"{counts.clock.incomplete}")
    board.perf.launched(waves=counts.waves, wave_size=dispatch.wave_size, items=_items(dispatch),
                        instructions=counts.instructions, ticks=board.clock() - begin)


def _items(dispatch: isa.Dispatch) -> int:
    """Work-items of a launch; the last workgroup of an axis may be partial."""
    items = 1
    for groups, block, partial in zip(dispatch.grid, dispatch.block, dispatch.partial, strict=True):
        items *= groups * block - (block - partial if partial else 0)
    return items


NOWHERE = 0x6EAD_0000_0000
"""An address that no driver maps, for an injected memory violation."""


def _injected(queue: ComputeQueue, dispatch: isa.Dispatch, space: ShaderAddressSpace) -> None:
    """:raises IllegalInstruction, Fault, Aborted: what was injected for this launch."""
    faults = queue.board.faults
    faults.event("dispatch", queue=queue.name)
    if faults.strike("illegal-instruction", queue=queue.name):
        error = isa.IllegalInstruction(dispatch.code_address, bytes(4), "injected")
        error.stopped = _at_entry(dispatch)         # type: ignore[attr-defined]
        raise error
    if fault := faults.strike("memory-violation", queue=queue.name):
        try:
            space.translate(np.array([fault.settings.get("address", NOWHERE)], np.uint64), 4, False)
        except Exception as refused:
            refused.stopped = _at_entry(dispatch)   # type: ignore[attr-defined]
            raise
    if faults.strike("hung-wave", queue=queue.name):
        queue.board.note("hung-wave", f"{queue.name}: waves that never end, by an injected fault")
        observer = space.observer
        while True:
            space.check()
            if observer is not None:
                observer(lambda: _at_entry(dispatch))
            time.sleep(SLEEP_SECONDS)


def _at_entry(dispatch: isa.Dispatch) -> Stopped:
    """The first waves of a launch, as they begin."""
    return Stopped(dispatch.code_address, next(batches(dispatch)).state())
