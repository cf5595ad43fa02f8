"""The AM backend's packets, read back field by field, and its memory and scratch on a card of plain arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amdrv import pm4, sdma
from amdrv.backend import SDMA_LARGEST, AmBackend, ComputeEncoder, CopyEncoder, Scratch
from amdrv.errors import OutOfMemoryError, PacketError
from amdrv.facts import navi31
from amdrv.regs import table
from hcq.backend import Kernel

BASES = next(bases for name, _, _, bases in navi31.IPS if name == "GC")
GC = table("gc_11_0_0")
WAVE32, KERNARG = 1 << 10, 1 << 3
ADDRESS = 0x2000_1234_5678


def register(name: str) -> int:
    found = GC[name]
    assert found.base_idx is not None
    return BASES[found.base_idx] + found.offset


def kernel(properties: int = KERNARG | WAVE32, **changes: Any) -> Kernel:
    values: dict[str, Any] = {"name": "k", "entry": 0x2000_0045_6700, "rsrc1": 0x60af0080, "rsrc2": 0x9e, "rsrc3": 0x11,
              "kernel_code_properties": properties, "kernarg_bytes": 64, "group_bytes": 0, "private_bytes": 0,
              "wave_size": 32 if properties & WAVE32 else 64}
    return Kernel(**(values | changes))


def state(words: list[int]) -> tuple[dict[str, int], list[pm4.Decoded]]:
    """Registers by name after the SET_SH_REG packets, and the other packets. Every packet is well formed."""
    registers: dict[str, int] = {}
    others = []
    names = {register(r.name): r.name for r in GC.search("COMPUTE_*")}
    for packet in pm4.decode(words):
        assert packet.problem is None, packet
        if packet.name == "SET_SH_REG":
            assert packet["SHADER_TYPE"] == 1
            for offset, value in enumerate(packet.tail):
                registers[names[0x2c00 + packet["REG_OFFSET"] + offset]] = value
        else:
            others.append(packet)
    return registers, others


@pytest.fixture
def encoder() -> ComputeEncoder:
    return ComputeEncoder(register, {(0, 0): 0b1111, (0, 1): 0b1101, (5, 0): 0, (5, 1): 1})


def test_a_launch(encoder: ComputeEncoder) -> None:
    words: list[int] = []
    encoder.exec(words, kernel(group_bytes=700), ADDRESS, (5, 6, 7), (64, 2, 1), dynamic_lds=400)
    registers, (dispatch,) = state(words)
    assert registers["COMPUTE_PGM_LO"] | registers["COMPUTE_PGM_HI"] << 32 == 0x2000_0045_67
    assert registers["COMPUTE_PGM_RSRC1"] == 0x60af0080 and registers["COMPUTE_PGM_RSRC3"] == 0x11
    assert GC["COMPUTE_PGM_RSRC2"].unpack(registers["COMPUTE_PGM_RSRC2"]) == {
        **GC["COMPUTE_PGM_RSRC2"].unpack(0x9e), "LDS_SIZE": 3}
    assert [registers[f"COMPUTE_NUM_THREAD_{axis}"] for axis in "XYZ"] == [64, 2, 1]
    assert registers["COMPUTE_USER_DATA_0"] == ADDRESS & 0xffffffff and registers["COMPUTE_USER_DATA_1"] == 0x2000
    assert "COMPUTE_TMPRING_SIZE" not in registers
    assert dispatch.name == "DISPATCH_DIRECT" and [dispatch[f"DIM_{axis}"] for axis in "XYZ"] == [5, 6, 7]
    for bit in ("SHADER_TYPE", "COMPUTE_SHADER_EN", "FORCE_START_AT_000", "ORDER_MODE", "CS_W32_EN"):
        assert dispatch[bit] == 1
    assert dispatch["USE_THREAD_DIMENSIONS"] == dispatch["PARTIAL_TG_EN"] == 0


def test_launches_do_not_disturb_each_other(encoder: ComputeEncoder) -> None:
    """A kernel's template is filled in on a copy."""
    first, second, again = [], [], []       # type: list[int], list[int], list[int]
    k = kernel(group_bytes=512)
    encoder.exec(first, k, ADDRESS, (1, 1, 1), (32, 1, 1), dynamic_lds=512)
    encoder.exec(second, k, ADDRESS + 0x1_0000_0000, (9, 9, 9), (64, 1, 1))
    encoder.exec(again, k, ADDRESS, (1, 1, 1), (32, 1, 1), dynamic_lds=512)
    assert first == again != second


def test_waves_of_64(encoder: ComputeEncoder) -> None:
    words: list[int] = []
    encoder.exec(words, kernel(KERNARG), ADDRESS, (1, 1, 1), (64, 1, 1))
    assert state(words)[1][0]["CS_W32_EN"] == 0


def test_user_sgprs_come_in_the_order_of_the_properties(encoder: ComputeEncoder) -> None:
    words: list[int] = []
    k = kernel(1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | WAVE32, private_bytes=96)
    for _ in range(2):
        words.clear()
        encoder.exec(words, k, 0x3_0000_0000, (1, 1, 1), (1, 1, 1), dispatch_packet=0x1_0000_0040,
                     queue_ptr=0x2_0000_0080)
    registers, _ = state(words)
    assert [registers[f"COMPUTE_USER_DATA_{i}"] for i in range(9)] == [0x40, 1, 0x80, 2, 0, 3, 2, 0, 96]
    assert "COMPUTE_USER_DATA_9" not in registers


@pytest.mark.parametrize(("bit", "what"), [(0, "a private segment buffer"), (5, "a flat scratch address")])
def test_what_gfx11_cannot_give(encoder: ComputeEncoder, bit: int, what: str) -> None:
    with pytest.raises(PacketError, match=f"kernel 'k' asks for {what} in SGPRs; gfx11 sets scratch up by itself"):
        encoder.exec([], kernel(1 << bit | WAVE32), ADDRESS, (1, 1, 1), (1, 1, 1))


def test_scratch(encoder: ComputeEncoder) -> None:
    k = kernel(private_bytes=260)
    encoder.scratch = Scratch(0x2012_3456_7000, 0x2100, 512)
    words: list[int] = []
    encoder.exec(words, k, ADDRESS, (1, 1, 1), (1, 1, 1))
    registers, _ = state(words)
    assert registers["COMPUTE_DISPATCH_SCRATCH_BASE_LO"] | registers["COMPUTE_DISPATCH_SCRATCH_BASE_HI"] << 32 == \
        0x2012_3456_70
    assert GC["COMPUTE_TMPRING_SIZE"].unpack(registers["COMPUTE_TMPRING_SIZE"]) == {"WAVES": 512, "WAVESIZE": 0x21}
    encoder.scratch = Scratch(0x2099_0000_0000, 0x4100, 512)        # it grew: the next launch says so
    words.clear()
    encoder.exec(words, k, ADDRESS, (1, 1, 1), (1, 1, 1))
    assert state(words)[0]["COMPUTE_DISPATCH_SCRATCH_BASE_LO"] == 0x9900_0000


def test_the_preamble_names_every_shader_engine(encoder: ComputeEncoder) -> None:
    registers, others = state(encoder.preamble())
    assert not others
    assert [registers[f"COMPUTE_STATIC_THREAD_MGMT_SE{i}"] for i in range(8)] == [0xf3_00ff, 0, 0, 0, 0, 3 << 16, 0, 0]
    assert registers["COMPUTE_DISPATCH_INTERLEAVE"] == 256 and registers["COMPUTE_RESOURCE_LIMITS"] == 0
    assert [registers[f"COMPUTE_START_{axis}"] for axis in "XYZ"] == [0, 0, 0]


def test_the_barrier_flushes_then_invalidates(encoder: ComputeEncoder) -> None:
    words: list[int] = []
    encoder.memory_barrier(words)
    flush, acquire = pm4.decode(words)
    assert (flush.name, flush.enums["EVENT_TYPE"], flush["EVENT_INDEX"]) == ("EVENT_WRITE", "CS_PARTIAL_FLUSH", 4)
    assert acquire.name == "ACQUIRE_MEM" and acquire["COHER_BASE"] == 0 and acquire["COHER_SIZE"] == (1 << 40) - 1
    for bit in ("GLI_INV", "GLK_INV", "GLV_INV", "GL1_INV", "GL2_INV", "GL2_WB"):
        assert acquire[bit] == 1
    assert acquire["GL2_RANGE"] == acquire["GL1_RANGE"] == 0        # all of it


def test_compute_signals(encoder: ComputeEncoder) -> None:
    words: list[int] = []
    encoder.wait(words, ADDRESS, 0x8000_0002)
    encoder.signal(words, ADDRESS, 0x3_0000_0004)
    encoder.signal(words, ADDRESS, 5, interrupt=False)
    encoder.timestamp(words, ADDRESS)
    wait, signal, quiet, stamp = pm4.decode(words)
    assert wait.name == "WAIT_REG_MEM" and wait.enums["FUNCTION"] == "GREATER_EQUAL"
    assert (wait["ADDRESS"], wait["REFERENCE"], wait["MASK"]) == (ADDRESS, 0x8000_0002, 0xffffffff)
    assert wait.enums["MEM_SPACE"] == "MEMORY"
    assert (signal["ADDRESS"], signal["DATA"]) == (ADDRESS, 0x3_0000_0004)
    assert signal.enums["DATA_SEL"] == "DATA_64" and signal.enums["INT_SEL"] == "INTERRUPT_AFTER_WRITE"
    assert signal.enums["EVENT_TYPE"] == "CACHE_FLUSH_AND_INV_TS_EVENT" and signal["GL2_WB"] == 1
    assert quiet["INT_SEL"] == 0
    assert stamp.enums["DATA_SEL"] == "GPU_CLOCK" and stamp["INT_SEL"] == 0
    assert "RELEASE_MEM" in "\n".join(encoder.describe(words))
    with pytest.raises(PacketError, match="signals hold 32 bits here; a queue cannot wait for 0x100000000"):
        encoder.wait(words, ADDRESS, 1 << 32)


def test_copy_signals() -> None:
    encoder = CopyEncoder()
    words: list[int] = []
    encoder.wait(words, ADDRESS, 9)
    encoder.signal(words, ADDRESS, 0x1_0000_0004)
    encoder.signal(words, ADDRESS, 5, interrupt=False)
    encoder.timestamp(words, ADDRESS)
    poll, high, low, trap, *quiet, stamp = sdma.decode(words)
    assert poll.name == "POLL_REGMEM" and poll.enums["FUNC"] == "GREATER_EQUAL" and poll.enums["MEM_POLL"] == "MEMORY"
    assert (poll["ADDR"], poll["VALUE"], poll["MASK"]) == (ADDRESS, 9, 0xffffffff)
    assert (high["ADDR"], high["DATA"]) == (ADDRESS + 4, 1)     # the word that waits compare is stored last
    assert (low["ADDR"], low["DATA"]) == (ADDRESS, 4)
    assert trap.name == "TRAP" and [packet.name for packet in quiet] == ["FENCE", "FENCE"]
    assert stamp.name == "TIMESTAMP_GET_GLOBAL" and stamp["WRITE_ADDR"] == ADDRESS
    assert "POLL_REGMEM" in encoder.describe(words)[0]
    with pytest.raises(PacketError, match="signals hold 32 bits here; a queue cannot wait for 0x100000000"):
        encoder.wait(words, ADDRESS, 1 << 32)


@settings(deadline=None)
@given(nbytes=st.integers(1, 5 * SDMA_LARGEST), dst=st.integers(0, 1 << 47), src=st.integers(0, 1 << 47))
def test_copies_are_split_without_a_gap(nbytes: int, dst: int, src: int) -> None:
    words: list[int] = []
    CopyEncoder().copy(words, dst, src, nbytes)
    done = 0
    for packet in sdma.decode(words):
        assert packet.name == "COPY_LINEAR" and packet.problem is None
        assert (packet["DST_ADDR"], packet["SRC_ADDR"]) == (dst + done, src + done)
        done += packet["COUNT"] + 1
        assert packet["COUNT"] + 1 <= SDMA_LARGEST
    assert done == nbytes


@given(count=st.integers(1, 3 * SDMA_LARGEST // 4), value=st.integers(0, 0xffffffff))
def test_fills_are_split_without_a_gap(count: int, value: int) -> None:
    words: list[int] = []
    CopyEncoder().fill(words, ADDRESS, value, 4 * count)
    done = 0
    for packet in sdma.decode(words):
        assert packet.name == "CONSTANT_FILL" and packet.enums["FILLSIZE"] == "DWORD"
        assert packet["DST_ADDR"] == ADDRESS + done and packet["SRC_DATA_31_0"] == value
        done += packet["COUNT"] + 1
    assert done == 4 * count


# --- the backend on a card of plain arrays


class PlainCard:
    """What the backend asks of amdrv.device.Device."""

    arch, marketing_name, compute_units, shader_engines = "gfx1100", "plain", 96, 6
    vram_size, clock_hz = 1 << 30, 100_000_000
    shared_aperture, private_aperture = 1 << 48, 2 << 48

    def __init__(self) -> None:
        self.submitted: list[np.ndarray] = []
        ring = SimpleNamespace(name="r", words=1024, largest=512, submit=self.submitted.append)
        self.compute_rings, self.sdma_rings = [ring], [ring, ring]
        self.allocated: list[Any] = []
        self.freed: list[Any] = []
        self.vram = np.zeros(1 << 16, np.uint8)
        self.gfx = SimpleNamespace(wgp_masks={(engine, array): 0xff for engine in range(6) for array in range(2)})
        self.statistics: Counter[str] = Counter()
        self.interrupts = SimpleNamespace(drain=lambda: 0, wait=lambda timeout: 0)
        self.flushes = 0
        self.closed = False
        self.next = 0x2000_0000_0000
        self.pieces = False

    @property
    def regs(self) -> Any:
        return _Registers()

    def alloc(self, nbytes: int, *, kind: str = "vram", name: str = "") -> Any:
        if nbytes > self.vram_size:
            raise OutOfMemoryError("VRAM exhausted")
        view = None if self.pieces or nbytes > 1 << 24 else np.zeros(nbytes, np.uint8)
        segments = [(0x8000, 0x1000), (0x2000, 0x1000)] if self.pieces else [(0, nbytes)]
        allocation = SimpleNamespace(address=self.next, nbytes=nbytes, view=view, segments=segments, kind=kind)
        self.next += nbytes + 0xffff & ~0xffff
        self.allocated.append(allocation)
        return allocation

    def free(self, allocation: Any) -> None:
        self.freed.append(allocation)

    def require_memory(self) -> Any:
        return SimpleNamespace(view=lambda offset, size: self.vram[offset:offset + size])

    def check(self) -> None:
        pass

    def flush_hdp(self) -> None:
        self.flushes += 1

    def close(self) -> None:
        self.closed = True


class _Registers:
    def __getitem__(self, name: str) -> Any:
        return SimpleNamespace(address=register(name))


@pytest.fixture
def card() -> Iterator[PlainCard]:
    yield PlainCard()


def test_the_backend_prepares_its_queues(card: PlainCard) -> None:
    backend = AmBackend(card, 3)  # type: ignore[arg-type]
    assert backend.name == "AM:3" and backend.properties.arch == "gfx1100" and backend.properties.signal_bits == 32
    assert [queue.name for queue in backend.queues("copy")] == ["AM:3 copy 0", "AM:3 copy 1"]
    assert len(card.submitted) == 1 and card.submitted[0].dtype == np.uint32     # the preamble, compute only
    backend.close()
    assert card.closed


def test_uploads_go_where_the_address_says(card: PlainCard) -> None:
    backend = AmBackend(card)  # type: ignore[arg-type]
    first, second = backend.alloc(4096), backend.alloc(8192)
    backend.upload(second.address + 100, np.arange(50, dtype=np.uint8))
    assert np.array_equal(card.allocated[1].view[100:150], np.arange(50)) and card.flushes == 1
    assert first.view is None and not first.host and backend.alloc(16, host=True).view is not None
    card.pieces = True
    scattered = backend.alloc(0x2000)
    data = np.arange(0x1800, dtype=np.uint16).astype(np.uint8)
    backend.upload(scattered.address + 0x400, data)
    assert np.array_equal(card.vram[0x8400:0x9000], data[:0xc00])
    assert np.array_equal(card.vram[0x2000:0x2c00], data[0xc00:])
    for address in (first.address + 4095, 0x1000, second.address + 8192):
        with pytest.raises(PacketError, match=f"upload of 2 bytes to {address:#x}: no allocation holds them"):
            backend.upload(address, np.zeros(2, np.uint8))
    backend.free(first)
    assert card.freed == [card.allocated[0]]
    with pytest.raises(PacketError, match="no allocation holds them"):
        backend.upload(first.address, np.zeros(2, np.uint8))


def test_scratch_grows_and_stays_within_its_fields(card: PlainCard) -> None:
    backend = AmBackend(card)  # type: ignore[arg-type]
    encoder = backend.compute
    sizes = []
    for nbytes in (260 * 32, 100, 4096 * 32, 8192 * 32, 16384 * 64):
        backend.ensure_scratch(nbytes)
        scratch = encoder.scratch
        assert scratch.wave_bytes >= nbytes and scratch.wave_bytes % 512 == 256 and scratch.address % 256 == 0
        assert 32 <= scratch.waves_per_se <= 512
        total = card.allocated[-1].nbytes
        assert total == scratch.wave_bytes * scratch.waves_per_se * 6
        assert total <= 256 << 20 or scratch.waves_per_se == 32
        sizes.append(scratch.wave_bytes)
    assert sizes == sorted(sizes) and len(card.allocated) == 4       # 100 bytes were there already
    assert not card.freed                                            # older launches may still use theirs
    with pytest.raises(OutOfMemoryError, match="the hardware can say 8388352"):
        backend.ensure_scratch(9 << 20)


def test_what_is_submitted_is_counted(card: PlainCard) -> None:
    """By the statistics' keys, against the packets as decoded."""
    backend = AmBackend(card)  # type: ignore[arg-type]
    compute, copies = backend.queues("compute")[0], backend.queues("copy")[1]
    words: list[int] = []
    backend.compute.memory_barrier(words)
    for _ in range(3):
        backend.compute.exec(words, kernel(), ADDRESS, (1, 1, 1), (1, 1, 1))
    backend.compute.wait(words, ADDRESS, 1)
    backend.compute.signal(words, ADDRESS, 1)
    compute.submit(np.array(words, np.uint32))
    copied: list[int] = []
    backend.copy.wait(copied, ADDRESS, 1)
    backend.copy.copy(copied, 0, ADDRESS, SDMA_LARGEST + 17)
    backend.copy.fill(copied, 0, 0, 64)
    backend.copy.timestamp(copied, ADDRESS)
    backend.copy.signal(copied, ADDRESS, 1)
    copies.submit(np.array(copied, np.uint32))
    backend.check()
    preamble = pm4.decode(card.submitted[0])
    assert card.statistics == {"kernels": 3, "pm4_packets": len(preamble) + len(pm4.decode(words)),
                               "sdma_packets": len(sdma.decode(copied)), "copied_bytes": SDMA_LARGEST + 17}


def test_signals_are_aligned_words(encoder: ComputeEncoder) -> None:
    for address, value in ((ADDRESS + 4, 1), (ADDRESS, -1), (ADDRESS, 1 << 64)):
        with pytest.raises(PacketError, match="a signal is a 64-bit word at a multiple of 8"):
            encoder.signal([], address, value)


@pytest.mark.parametrize("kind", ["compute", "copy"])
def test_what_is_larger_than_the_ring_goes_in_whole_packets(card: PlainCard, kind: str) -> None:
    backend = AmBackend(card)  # type: ignore[arg-type]
    card.submitted.clear()
    words: list[int] = []
    for i in range(300):
        encoder = backend.compute if kind == "compute" else backend.copy
        encoder.wait(words, ADDRESS, i)
        encoder.signal(words, ADDRESS, i)
    queue = backend.queues(kind)[0]  # type: ignore[arg-type]
    queue.submit(np.array(words, np.uint32))
    assert len(card.submitted) > 5 and np.concatenate(card.submitted).tolist() == words
    codec: Any = pm4 if kind == "compute" else sdma
    for piece in card.submitted:
        assert 256 < len(piece) <= 512 or piece is card.submitted[-1]
        assert all(packet.problem is None and packet.name != "UNKNOWN" for packet in codec.decode(piece))
