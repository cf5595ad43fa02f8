"""``ioctl-sniff replay``: the submissions of a capture, again, on the mock card.

What KFD or amdgpu told of the address space is mapped where it was (AMDGPU_GEM_VA, AMDKFD_IOC_ALLOC_MEMORY_OF_GPU), the
recorded command buffers are put at their addresses, and each submission runs on a queue of its kind: PM4 on a compute
queue, SDMA packets on a copy engine. The card is strict, so what it says is worth reading: page faults, packets that
do not decode, broken rules.

Where it makes sense: command buffers of compute and copy queues, and KFD's PM4 and SDMA rings as ``--doorbells`` saw
them. Draws do not run (the mock has no graphics), AQL rings neither (a capture has not the memory of their kernels).
What buffers held is not in a capture: they hold poison here, and results are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tools.ioctl_sniff.decode import Call, Item
from tools.ioctl_sniff.submissions import IP_NAMES

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["Replayed", "ReplayError", "replay", "show"]

PAGE = 4096
ADDRESS_BITS = 48           # the mock's page tables; Mesa's high addresses carry the sign beyond
MASK = (1 << ADDRESS_BITS) - 1
LARGEST = 1 << 30           # bytes of one buffer that are backed; a capture may name a whole address space
TIMEOUT = 5.0
VMID = 8
GCR_FRESH = 1 << 15 | 1 << 14
"""GL2_WB and GL2_INV of a GCR_REQ packet (Linux 6.1, sdma_v6_0.c, sdma_v6_0_ring_emit_mem_sync)."""
COUNTED = ("kernels", "pm4_packets", "sdma_packets", "copied_bytes", "interrupts")


class ReplayError(Exception):
    """Nothing to replay, or no mock card to replay it on."""


@dataclass
class Replayed:
    """One submission. ``state``: "done", "failed" (``said`` has what the card reported) or "skipped" (why)."""

    time: int
    engine: str | None
    queue: str
    nbytes: int
    state: str
    said: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)      # of the mock's log: rules that were broken

    def json(self) -> dict[str, Any]:
        return asdict(self)


def replay(calls: Iterable[Call], *, vram: str = "1G") -> list[Replayed]:
    """Run a capture's submissions in their order.

    :raises ReplayError: it has none, or the driver and the mock are not installed beside this tool.
    """
    found = list(calls)
    submitted = [call for call in found if call.event.kind == "dump"]
    if not submitted:
        raise ReplayError("the capture has no submissions: record amdgpu's with ioctl-sniff -w, KFD's with --doorbells")
    try:
        import mock
        from amdrv.device import Device
        from amdrv.errors import AmdrvError
        from amdrv.hal.mock import MockHal
    except ImportError as error:
        raise ReplayError(f"replay needs the driver and the mock card beside this tool: {error}") from error
    try:
        with mock.Machine([mock.Gpu("gfx1100", vram=vram)]) as machine:
            hal = MockHal(machine)
            with Device.open(hal=hal) as device:
                return _Player(device, machine.gpus[0]).play(found)
    except (AmdrvError, ValueError) as error:
        raise ReplayError(f"the mock card does not come up for this capture: {error}") from error


class _Player:
    def __init__(self, device: Device, board: Any) -> None:
        self.device, self.board = device, board
        self._backed: dict[int, int] = {}           # virtual page -> offset in VRAM
        self._sequence = 0
        self._dead: dict[str, str] = {}             # engine -> why it takes nothing any more
        self._done = device.alloc(PAGE, kind="system", name="replay's fences")

    def play(self, calls: Sequence[Call]) -> list[Replayed]:
        played = []
        for call in calls:
            for va, nbytes in _ranges(call):
                self._back(va & MASK, min(nbytes, LARGEST))
            if call.event.kind == "dump":
                played.append(self._submission(call))
        return played

    # -- memory

    def _back(self, va: int, nbytes: int) -> None:
        """Pages for a range of the capture, where there are none yet."""
        from amdrv.errors import AmdrvError
        from amdrv.mmu import leaf_flags
        memory = self.device.require_memory()
        pages = [page for page in range(va // PAGE, -(-(va + nbytes) // PAGE)) if page not in self._backed]
        for first, count in _runs(pages):
            try:
                pieces = memory.pages.allocate(count * PAGE)
            except AmdrvError:
                continue                            # no room: the card will say so by a page fault
            try:
                memory.tables.map(first * PAGE, [(memory.table_base + at, size) for at, size in pieces],
                                  leaf_flags("vram"))
            except AmdrvError:
                memory.pages.free(pieces)
                continue
            page = first
            for at, size in pieces:
                for offset in range(0, size, PAGE):
                    self._backed[page] = at + offset
                    page += 1
        if pages:
            self.device.flush_hdp()
            self.device.flush_tlb()

    def _put(self, va: int, content: bytes) -> None:
        memory, at = self.device.require_memory(), 0
        while at < len(content):
            page, inside = divmod(va + at, PAGE)
            count = min(PAGE - inside, len(content) - at)
            if page in self._backed:
                memory.view(self._backed[page] + inside, count)[:] = list(content[at:at + count])
            at += count
        self.device.flush_hdp()

    # -- submissions

    def _submission(self, call: Call) -> Replayed:
        event = call.event
        engine, amdgpu = call.engine, event.fd >= 0
        queue = (f"{IP_NAMES.get(event.numbers[0], str(event.numbers[0]))} ring {event.numbers[1] & 0xFFFFFFFF}"
                 if amdgpu else f"KFD queue {event.numbers[1]}")
        said = Replayed(event.time, engine, queue, event.result, "skipped")
        pieces = [(address & MASK, content) for address, content in event.after]
        if engine not in ("PM4", "SDMA"):
            said.said = f"{engine or 'its'} packets do not run here"
        elif amdgpu and IP_NAMES.get(event.numbers[0]) == "gfx":
            said.said = "graphics: the mock's compute queues do not draw"
        elif not pieces:
            said.said = "its content is not in the capture: the program had not mapped it"
        elif engine in self._dead:
            said.said = f"an earlier submission stopped the {engine} queue: {self._dead[engine]}"
        else:
            self._run(said, engine, pieces, ring_bytes=0 if amdgpu else event.result)
        return said

    def _run(self, said: Replayed, engine: str, pieces: Sequence[tuple[int, bytes]], *, ring_bytes: int) -> None:
        import numpy as np

        from amdrv import pm4, sdma
        from amdrv.errors import AmdrvError, GpuHang
        from amdrv.wait import wait_until

        for address, content in pieces:
            self._back(address, len(content))
            self._put(address, content)
        ring = self.device.compute_rings[0] if engine == "PM4" else self.device.sdma_rings[0]
        self._sequence += 1
        fence = self._done.address + (0 if engine == "PM4" else 64)
        if engine == "PM4":
            words = _ring_words(pieces, ring_bytes) if ring_bytes else pm4.build(
                "INDIRECT_BUFFER", IB_BASE=pieces[0][0], IB_SIZE=len(pieces[0][1]) // 4, VALID=1, VMID=VMID)
            words = [*pm4.build("ACQUIRE_MEM", COHER_SIZE=(1 << 40) - 1, COHER_BASE=0, POLL_INTERVAL=10,
                                GLI_INV="GLI_ALL", GLK_INV=1, GLV_INV=1, GL1_INV=1, GL2_INV=1, GL2_WB=1), *words,
                     *pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=fence,
                                        DATA=[self._sequence])]
        else:
            fresh = sdma.build("GCR_REQ", BASE_VA=0, LIMIT_VA=0, GCR_CONTROL=GCR_FRESH, VMID=0)
            words = [*fresh, *(_ring_words(pieces, ring_bytes) if ring_bytes
                               else _indirect(ring.wptr + len(fresh), pieces[0]))]
            words = [*words, *sdma.build("FENCE", MTYPE="UC", ADDR=fence, DATA=self._sequence)]
        before, notes = dict(self.board.counters), len(list(self.board.notes))
        view = self._done.view
        assert view is not None
        place = view[fence - self._done.address:][:4].view(np.uint32)
        try:
            ring.submit(np.array(words, np.uint32))
            wait_until(lambda: int(place[0]) == self._sequence or self._hung(engine), TIMEOUT, "the submission's end",
                       seen=ring.describe_stuck)
            self.device.check()
            if int(place[0]) != self._sequence:
                raise GpuHang(self._hung(engine))
            said.state = "done"
        except AmdrvError as error:
            said.state, said.said = "failed", " ".join(str(error).split())
            self._after_failure(said, engine, ring, place)
        said.counts = {name: self.board.counters[name] - before.get(name, 0) for name in COUNTED
                       if self.board.counters[name] != before.get(name, 0)}
        said.notes = [str(note).strip() for note in list(self.board.notes)[notes:]]

    def _after_failure(self, said: Replayed, engine: str, ring: Any, place: Any) -> None:
        """A fault that the queue survived does not stop the rest."""
        from amdrv.errors import AmdrvError
        try:
            self.device.check()
        except AmdrvError as error:
            said.said += "; " + " ".join(str(error).split())
        if int(place[0]) != self._sequence:
            self._dead[engine] = said.said
            hung = self._hung(engine)
            if hung and hung not in said.said:
                said.said += "; " + hung

    def _hung(self, engine: str) -> str:
        """Why the compute queue stands, by the mock's own account; empty: it does not, or it is not asked for."""
        if engine != "PM4":
            return ""
        return next((str(queue.hung) for queue in self.board.mec.everyone() if queue.hung), "")


def _ring_words(pieces: Sequence[tuple[int, bytes]], nbytes: int) -> list[int]:
    """The words of a ring that a doorbell announced: the first pieces, two where the ring wraps."""
    data = b""
    for _, content in pieces:
        if len(data) >= nbytes:
            break
        data += content
    data = data[:nbytes]
    return [int.from_bytes(data[at:at + 4], "little") for at in range(0, len(data) & ~3, 4)]


def _indirect(wptr: int, piece: tuple[int, bytes]) -> list[int]:
    """An INDIRECT packet of SDMA, which must end at a multiple of 8 words (sdma_v6_0.c, sdma_v6_0_ring_emit_ib)."""
    from amdrv import sdma
    packet = sdma.build("INDIRECT", VMID=VMID, IB_BASE=piece[0], IB_SIZE=len(piece[1]) // 4, CSA_ADDR=0)
    return [0] * (-(wptr + len(packet)) % 8) + packet


def _runs(pages: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for index in range(1, len(pages) + 1):
        if index == len(pages) or pages[index] != pages[index - 1] + 1:
            yield pages[start], index - start
            start = index


def _ranges(call: Call) -> Iterator[tuple[int, int]]:
    """(GPU address, bytes) that a call maps."""
    if call.event.error or call.before is None:
        return
    values = _values(call.before)
    if call.name == "DRM_IOCTL_AMDGPU_GEM_VA" and values.get("operation") in (1, 4):
        yield values.get("va_address", 0), values.get("map_size", 0)
    elif call.name == "AMDKFD_IOC_ALLOC_MEMORY_OF_GPU":
        yield values.get("va_addr", 0), values.get("size", 0)


def _values(item: Item) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in item.fields or ():
        if isinstance(each.value, int):
            found[each.name] = each.value
        elif each.fields is not None:
            found |= _values(each)
    return found


def show(console: Console, played: Sequence[Replayed]) -> None:
    """A line a submission, and what the card said."""
    styles = {"done": "green", "failed": "bold red", "skipped": "yellow"}
    for each in played:
        counts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in each.counts.items())
        console.print(Text(f"{each.state:8}", styles[each.state]).append(
            f"{each.queue:16} {each.engine or '?':5} {each.nbytes:7} bytes", "not bold default").append(
            f"  {counts}", "not bold dim"))
        if each.said:
            console.print(Text(f"        {each.said}", styles[each.state]))
        for note in each.notes[:10]:
            console.print(Text(f"        {note}", "dim"))
    done = sum(each.state == "done" for each in played)
    console.print(Text(f"{done} of {len(played)} submissions ran on the mock card", "dim"))
