"""``queue``, ``ring`` and ``ih``: the hardware queues that are active, what stands in their rings, and what the
interrupt ring tells.

Queues are seen by their registers (Linux 6.1, gfx_v11_0.c, gfx_v11_0_kiq_init_register; sdma_v6_0.c,
sdma_v6_0_gfx_resume; ih_v6_0.c), rings by the page tables of the queue's VMID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amdrv import pm4, sdma
from amdrv.dump import Dump, DumpError
from amdrv.errors import AmdrvError
from amdrv.facts import ih as ih_facts
from amdrv.interrupts import ENGINE_ERRORS, describe_sq
from amdrv.ip.ih import CLIENTS, GFX_SOURCES, Entry
from amdrv.packets import Decoded
from tools.amdrv_info.dumps import packet_document
from tools.amdrv_info.source import Live, owner_of, virtual

__all__ = ["LOOK_BACK", "aql_packets", "dumped_ring", "ih_document", "kernels_rings", "pick", "queue_document",
           "queues", "ring_document"]

MECS, PIPES, QUEUES_A_PIPE = (1, 2), 4, 8           # GRBM_GFX_CNTL.QUEUEID has three bits
MES, MES_PIPES = 3, 2                               # the scheduler's micro engine (mes_v11_0.c)
SDMA_ENGINES, SDMA_QUEUES = 2, 8
LARGEST_RING = 16 << 20                             # bytes that are read; a register that says more is damaged
LARGEST_IB = 1 << 20
LOOK_BACK = 256                                     # words before the read pointer in which packets are looked for
FARTHEST_BACK = 1 << 14
LONGEST_COPY_PACKET = 64                            # words; one with more data than that ends the search
NESTING = 4                                         # indirect buffers within indirect buffers that are followed
HQD = ("CP_HQD_ACTIVE", "CP_HQD_VMID", "CP_HQD_PQ_BASE", "CP_HQD_PQ_BASE_HI", "CP_HQD_PQ_CONTROL", "CP_HQD_PQ_RPTR",
       "CP_HQD_PQ_WPTR_LO", "CP_HQD_PQ_WPTR_HI", "CP_HQD_PQ_DOORBELL_CONTROL", "CP_HQD_PQ_RPTR_REPORT_ADDR",
       "CP_HQD_PQ_RPTR_REPORT_ADDR_HI", "CP_HQD_PQ_WPTR_POLL_ADDR", "CP_HQD_PQ_WPTR_POLL_ADDR_HI", "CP_MQD_BASE_ADDR",
       "CP_MQD_BASE_ADDR_HI", "CP_HQD_EOP_BASE_ADDR", "CP_HQD_EOP_BASE_ADDR_HI", "CP_HQD_PERSISTENT_STATE",
       "CP_HQD_PIPE_PRIORITY", "CP_HQD_QUEUE_PRIORITY", "CP_HQD_IB_CONTROL", "CP_HQD_DEQUEUE_REQUEST")
SDMA_NAMES = ("RB_CNTL", "RB_BASE", "RB_BASE_HI", "RB_RPTR", "RB_RPTR_HI", "RB_WPTR", "RB_WPTR_HI", "DOORBELL",
              "DOORBELL_OFFSET", "CONTEXT_STATUS", "IB_CNTL")
IV_BYTES = ih_facts.IV_ENTRY_BYTES
IH_GPU_SPACE = (2, 4)           # IH_RB_CNTL.MC_SPACE: 1 is a bus address, 2 and 4 are the GPU's (ih_v6_0_rb_cntl)


def queues(source: Live) -> tuple[list[dict[str, Any]], list[str]]:
    """Every active queue, and what could not be looked at, in words."""
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    try:
        for me, pipes in (*((mec, PIPES) for mec in MECS), (MES, MES_PIPES)):
            for pipe in range(pipes):
                for queue in range(QUEUES_A_PIPE):
                    with source.selected(me, pipe, queue):
                        if source.register("CP_HQD_ACTIVE") & 1:
                            found.append(_compute(source, me, pipe, queue))
    except AmdrvError as error:
        missing.append(f"compute queues: {error}")
    for engine in range(SDMA_ENGINES):
        for queue in range(SDMA_QUEUES):
            prefix = f"SDMA{engine}_QUEUE{queue}_"
            if f"{prefix}RB_CNTL" not in source.registers:
                continue
            try:
                if source.register(f"{prefix}RB_CNTL").rb_enable:
                    found.append(_sdma(source, engine, queue, prefix))
            except AmdrvError as error:
                missing.append(f"SDMA {engine}.{queue}: {error}")
    return found, missing


def _wide(registers: dict[str, int], low: str, high: str) -> int:
    return registers[low] | registers[high] << 32


def _compute(source: Live, me: int, pipe: int, queue: int) -> dict[str, Any]:
    """The selected queue; ``aql`` where its slots are AQL packets of 64 bytes (SLOT_BASED_WPTR: kfd_mqd_manager_v11.c,
    update_mqd)."""
    values = {name: source.register(name) for name in HQD}
    r = {name: int(value) for name, value in values.items()}
    control, doorbell = values["CP_HQD_PQ_CONTROL"], values["CP_HQD_PQ_DOORBELL_CONTROL"]
    words = 2 << control.queue_size
    aql = control.slot_based_wptr != 0
    write = _wide(r, "CP_HQD_PQ_WPTR_LO", "CP_HQD_PQ_WPTR_HI")
    read = r["CP_HQD_PQ_RPTR"] % words
    pending = 0 if aql else (write - read) % words
    return {"name": f"{'MES' if me == MES else 'compute'} {me}.{pipe}.{queue}",
            "engine": "mes" if me == MES else "compute", "me": me, "pipe": pipe, "queue": queue,
            "vmid": int(values["CP_HQD_VMID"].vmid), "aql": aql,
            "ring_address": _wide(r, "CP_HQD_PQ_BASE", "CP_HQD_PQ_BASE_HI") << 8, "ring_words": words,
            "read": read, "write": write % words, "pending_words": pending,
            "doorbell": int(doorbell.doorbell_offset) if doorbell.doorbell_en else None,
            "descriptor_address": _wide(r, "CP_MQD_BASE_ADDR", "CP_MQD_BASE_ADDR_HI"), "registers": r}


def _sdma(source: Live, engine: int, queue: int, prefix: str) -> dict[str, Any]:
    values = {prefix + name: source.register(prefix + name) for name in SDMA_NAMES}
    r = {name: int(value) for name, value in values.items()}
    control = values[f"{prefix}RB_CNTL"]
    words = 1 << control.rb_size
    read, write = (_wide(r, f"{prefix}RB_{end}PTR", f"{prefix}RB_{end}PTR_HI") // 4 for end in ("R", "W"))
    return {"name": f"SDMA {engine}.{queue}", "engine": "sdma", "me": engine, "pipe": 0, "queue": queue,
            "vmid": int(control.rb_vmid), "aql": False,
            "ring_address": _wide(r, f"{prefix}RB_BASE", f"{prefix}RB_BASE_HI") << 8, "ring_words": words,
            "read": read % words, "write": write % words, "pending_words": (write - read) % words,
            "doorbell": int(values[f"{prefix}DOORBELL_OFFSET"].offset) if values[f"{prefix}DOORBELL"].enable else None,
            "descriptor_address": None, "registers": r}


def queue_document(source: Live) -> dict[str, Any]:
    """``queue --json``."""
    found, missing = queues(source)
    return {"card": source.name, "queues": [each | {"owner": owner_of(source, each["ring_address"])} for each in found],
            "missing": missing}


# ---- rings

def pick(found: Sequence[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    """The queues that a name means: "compute 1.0.0", "SDMA 0.0", "sdma", or all. :raises AmdrvError: none is."""
    if name is None:
        return list(found)
    wanted = name.lower().replace(" ", "")
    chosen = [each for each in found if each["name"].lower().replace(" ", "").startswith(wanted)]
    if not chosen:
        known = ", ".join(each["name"] for each in found)
        raise AmdrvError(f"no active queue {name!r}; " + (f"there are: {known}" if known else "none is active"))
    return chosen


def ring_document(source: Live, name: str | None = None, *, back: int = LOOK_BACK) -> dict[str, Any]:
    """``ring --json``: every packet near the pointers of each ring, decoded.

    :param back: words already read that are shown, too.
    """
    found, missing = queues(source)
    return {"card": source.name, "rings": [_ring(source, each, back) for each in pick(found, name)], "missing": missing}


def _ring(source: Live, queue: dict[str, Any], back: int) -> dict[str, Any]:
    kept = {key: queue[key] for key in ("name", "engine", "vmid", "aql", "ring_address", "ring_words", "read", "write",
                                        "pending_words")}
    try:
        words = _words(source, queue["vmid"], queue["ring_address"], queue["ring_words"], LARGEST_RING)
    except AmdrvError as error:
        return kept | {"packets": [], "problem": str(error)}
    if queue["aql"]:
        return kept | {"packets": aql_packets(words.tolist()), "problem": None}
    decode = sdma.decode if queue["engine"] == "sdma" else pm4.decode
    packets = [_packet(source, queue, packet, state, start)
               for state, start, packet in _around(queue, words, back, decode)]
    return kept | {"packets": packets, "problem": None}


def _around(queue: dict[str, Any], words: Sequence[int] | np.ndarray, back: int,
            decode: Any) -> list[tuple[str, int, Decoded]]:
    """(state, place of the first word that was decoded, packet) of the packets around a ring's pointers."""
    read, size, pending = queue["read"], queue["ring_words"], queue["pending_words"]
    before = _before(words, read, max(0, min(back, size - 1 - pending)), decode)
    start = read - (before[-1].index + len(before[-1].words) if before else 0)
    after = decode([int(words[(read + i) % size]) for i in range(pending)])
    return [("read", start, each) for each in before] + [
        ("pending" if number else "next", read, each) for number, each in enumerate(after)]


def dumped_ring(dump: Dump) -> dict[str, Any]:
    """``ring --from`` a dump in umr's form: the one ring that it has, without the buffers that its packets name.

    :raises DumpError: it has none.
    """
    if len(dump.ring) < 4:
        raise DumpError(f"{dump.name} has no RINGDATA")
    (read, write, _), words = dump.ring[:3], dump.ring[3:]
    return kernels_rings(dump.name, {"RINGDATA": (read % len(words), write % len(words), words)}, None)


def kernels_rings(card: str, found: Mapping[str, tuple[int, int, Sequence[int]]], name: str | None, *,
                  back: int = LOOK_BACK, missing: Sequence[str] = ()) -> dict[str, Any]:
    """``ring --json`` of rings as amdgpu's debugfs shows them: {name: (read, write, words)}, and which it did not.

    Compute and graphics rings hold PM4, SDMA's their packets; others (MES, video) are left out.
    """
    rings = []
    for each, (read, write, words) in found.items():
        if not each.startswith(("gfx", "comp", "sdma", "kiq", "RINGDATA")):
            continue
        size = len(words)
        queue = {"name": each, "engine": "sdma" if each.startswith("sdma") else "compute", "vmid": 0, "aql": False,
                 "ring_address": None, "ring_words": size, "read": read % size, "write": write % size,
                 "pending_words": (write - read) % size}
        decode = sdma.decode if queue["engine"] == "sdma" else pm4.decode
        packets = [_said(queue, packet, state, start) for state, start, packet in _around(queue, words, back, decode)]
        rings.append(queue | {"packets": packets, "problem": None})
    return {"card": card, "rings": pick(rings, name), "missing": list(missing)}


def _words(source: Live, vmid: int, address: int, count: int, largest: int) -> np.ndarray:
    if not 0 < 4 * count <= largest:
        raise AmdrvError(f"{4 * count:#x} bytes at {address:#x} are no size for a ring or an indirect buffer")
    return np.frombuffer(virtual(source, "gc", vmid, address, 4 * count), np.uint32)


def _before(words: Sequence[int] | np.ndarray, read: int, back: int, decode: Any) -> list[Decoded]:
    """Packets that end at the read pointer: the longest run of sound ones. Where a packet begins is not in a ring, so
    each word is tried as a beginning, from the last one back: it is one if its packet ends where another begins."""
    size, back = len(words), min(back, FARTHEST_BACK)
    window = [int(words[(read - back + i) % size]) for i in range(back)]
    begins = [False] * back + [True]
    for at in range(back - 1, -1, -1):
        header = window[at]
        if not header and decode is not pm4.decode:
            begins[at] = begins[at + 1]         # a NOP of one word, and what was never written
            continue
        length = (header >> 16 & 0x3FFF) + 2 if decode is pm4.decode and header >> 30 == 3 else LONGEST_COPY_PACKET
        packet = decode(window[at:at + length])[0]
        end = at + len(packet.words)
        begins[at] = packet.problem is None and end <= back and begins[end]
    packets: list[Decoded] = decode(window[begins.index(True):])
    first = next((i for i, p in enumerate(packets) if any(p.words)), len(packets))      # never written before
    return packets[first:]


def _said(queue: dict[str, Any], packet: Decoded, state: str, start: int) -> dict[str, Any]:
    return packet_document(packet) | {"state": state, "at": (start + packet.index) % queue["ring_words"],
                                      "inside": None, "text": str(packet)}


def _packet(source: Live, queue: dict[str, Any], packet: Decoded, state: str, start: int,
            depth: int = 0) -> dict[str, Any]:
    """A packet with what an indirect buffer that it names holds."""
    said = _said(queue, packet, state, start)
    if packet.name not in ("INDIRECT_BUFFER", "INDIRECT") or packet.problem or depth >= NESTING:
        return said
    decode = sdma.decode if queue["engine"] == "sdma" else pm4.decode
    try:
        words = _words(source, queue["vmid"], packet["IB_BASE"], packet["IB_SIZE"], LARGEST_IB)
        inner = [_packet(source, queue | {"ring_words": 1 << 62}, each, state, 0, depth + 1)
                 for each in decode(words.tolist())]
        return said | {"inside": {"address": packet["IB_BASE"], "packets": inner, "problem": None}}
    except AmdrvError as error:
        return said | {"inside": {"address": packet["IB_BASE"], "packets": [], "problem": str(error)}}


# ---- AQL (HSA Platform System Architecture Specification 1.2, 2.9)

AQL_WORDS = 16
AQL_TYPES = {0: "VENDOR_SPECIFIC", 1: "INVALID", 2: "KERNEL_DISPATCH", 3: "BARRIER_AND", 4: "AGENT_DISPATCH",
             5: "BARRIER_OR"}


def aql_packets(words: Sequence[int]) -> list[dict[str, Any]]:
    """Slots that the command processor has not taken yet: it makes the header of what it took INVALID."""
    found = []
    for number in range(len(words) // AQL_WORDS):
        slot = list(words[AQL_WORDS * number:AQL_WORDS * (number + 1)])
        kind = slot[0] & 0xFF
        if kind == 1 or not any(slot):
            continue
        fields = {"TYPE": kind, "BARRIER": slot[0] >> 8 & 1, "ACQUIRE": slot[0] >> 9 & 3, "RELEASE": slot[0] >> 11 & 3}
        if kind == 2:
            fields |= {"DIMENSIONS": slot[0] >> 16 & 3, "WORKGROUP_X": slot[1] & 0xFFFF, "WORKGROUP_Y": slot[1] >> 16,
                       "WORKGROUP_Z": slot[2] & 0xFFFF, "GRID_X": slot[3], "GRID_Y": slot[4], "GRID_Z": slot[5],
                       "PRIVATE_BYTES": slot[6], "GROUP_BYTES": slot[7], "KERNEL_OBJECT": slot[8] | slot[9] << 32,
                       "KERNARG_ADDRESS": slot[10] | slot[11] << 32}
        elif kind in (3, 5):
            fields |= {f"DEPENDENCY_{i}": slot[2 + 2 * i] | slot[3 + 2 * i] << 32 for i in range(5)}
        fields["COMPLETION_SIGNAL"] = slot[14] | slot[15] << 32
        packet = Decoded(AQL_TYPES.get(kind, f"TYPE_{kind}"), AQL_WORDS * number, tuple(slot), fields,
                         problem=None if kind in AQL_TYPES else "no such packet type")
        found.append(packet_document(packet) | {"state": "pending", "at": AQL_WORDS * number, "inside": None,
                                                "text": str(packet)})
    return found


# ---- interrupts

def ih_document(source: Live, *, last: int = 32) -> dict[str, Any]:
    """``ih --json``: the interrupt ring's pending entries and as many of the last ones.

    The ring is at a GPU address of the MM hub's VMID 0, or at a bus address (ih_v6_0_rb_cntl).
    """
    control = source.register("IH_RB_CNTL")
    size = 4 << control.rb_size
    base = int(source.register("IH_RB_BASE")) << 8 | int(source.register("IH_RB_BASE_HI")) << 40
    read, write = (int(source.register(f"IH_RB_{end}PTR")) & (size - 1) & ~(IV_BYTES - 1) for end in ("R", "W"))
    overflow = bool(source.register("IH_RB_WPTR").rb_overflow)
    said: dict[str, Any] = {"card": source.name, "enabled": bool(control.rb_enable), "ring_address": base,
                            "ring_bytes": size, "read": read, "write": write, "overflow": overflow, "entries": [],
                            "problem": None}
    if not control.rb_enable:
        return said | {"problem": "the interrupt ring is off (IH_RB_CNTL.RB_ENABLE): no driver has set it up"}
    pending = (write - read) % size // IV_BYTES
    try:
        if control.mc_space in IH_GPU_SPACE:
            data = virtual(source, "mm", 0, base, size)
        else:
            data = source.read("SYSRAM", base, size)
    except AmdrvError as error:
        return said | {"problem": str(error)}
    entries = np.frombuffer(data, np.uint32).reshape(-1, IV_BYTES // 4)
    for number in range(-last, pending):
        words = entries[(read // IV_BYTES + number) % len(entries)]
        if number < 0 and not words.any():
            continue                        # the ring was never written so far
        said["entries"].append(_entry(Entry.decode(words), pending=number >= 0))
    return said


def _entry(entry: Entry, *, pending: bool) -> dict[str, Any]:
    gfx = entry.client in (ih_facts.SOC21_IH_CLIENTID_GFX, ih_facts.SOC21_IH_CLIENTID_GRBM_CP)
    meaning = ENGINE_ERRORS.get(entry.source) if gfx else None
    if gfx and entry.source == ih_facts.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID:
        meaning = describe_sq(entry) or "a message of a shader"
    elif entry.client == ih_facts.SOC21_IH_CLIENTID_VMC or (
            gfx and entry.source == ih_facts.GFX_11_0_0__SRCID__UTCL2_FAULT):
        meaning = f"page fault at {entry.context[0] << 12 | (entry.context[1] & 0xF) << 44:#x}"
    elif gfx and entry.source == ih_facts.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT:
        meaning = "end of pipe: a queue's packet finished"
    elif gfx and entry.source == ih_facts.GFX_11_0_0__SRCID__SDMA_TRAP:
        meaning = "a TRAP packet of a copy engine"
    return {"state": "pending" if pending else "read", "client": entry.client,
            "client_name": CLIENTS.get(entry.client), "source": entry.source,
            "source_name": GFX_SOURCES.get(entry.source) if gfx else None, "ring_id": entry.ring_id,
            "vmid": entry.vmid, "hub": "mm" if entry.hub else "gc", "pasid": entry.pasid,
            "timestamp": entry.timestamp, "context": list(entry.context), "meaning": meaning}
