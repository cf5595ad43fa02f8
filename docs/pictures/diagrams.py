"""Draws the diagrams of the docs: ``python docs/pictures/diagrams.py``; a test compares the files with what this draws.

What can be asked of the code is asked: the floors' rooms, a page-table walk's numbers, the strict rules, the interrupt
entry's layout, a graph's schedule. The names in the pictures are looked up by the same test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from ink import BLUE, GREEN, GREY, ORANGE, PINK, WHITE, YELLOW, Canvas, Name  # noqa: E402

__all__ = ["PICTURES"]


def python(full: str, shown: str = "") -> Name:
    return Name("python", full, shown)


def register(name: str) -> Name:
    return Name("register", name)


def packet(name: str) -> Name:
    return Name("packet", name)


def rule(name: str) -> Name:
    return Name("rule", name)


def bit(name: str) -> Name:
    return Name("bit", name)


def floors() -> Canvas:
    """Who imports whom: only downwards (tests/test_floors.py)."""
    c = Canvas(860, 520, "The floors: imports only point down")
    c.box(20, 20, 820, 44, "examples/   bench/   tests/", fill=GREY)
    c.box(
        20,
        90,
        820,
        62,
        python("compiler", "compiler/"),
        ("lazy tensors → UOps → schedule → kernels → LLVM → code objects; asks hcq for a device",),
        fill=BLUE,
    )
    c.box(
        20,
        178,
        820,
        62,
        python("hcq", "hcq/"),
        ("devices, buffers, signals, queues, programs, graphs; knows no vendor",),
        fill=GREEN,
    )
    c.arrow((120, 64), (120, 88))
    c.arrow((120, 152), (120, 176), label='hcq.open("AM"): the name of a backend', at=(130, 169))
    c.box(
        20,
        266,
        470,
        164,
        python("amdrv", "amdrv/"),
        ("the driver: device.py boots ip/, backend.py serves hcq",),
        fill=YELLOW,
    )
    rooms = (
        ("amdrv.ip", "the blocks"),
        ("amdrv.mmu", "page tables"),
        ("amdrv.firmware", "images"),
        ("amdrv.vfio", "VFIO's API"),
        ("amdrv.pm4", "PM4 packets"),
        ("amdrv.sdma", "SDMA packets"),
        ("amdrv.aql", "AQL packets"),
        ("amdrv.kfd", "Linux's KFD"),
    )
    for n, (name, what) in enumerate(rooms):
        place = (32 + n % 4 * 114, 314 + n // 4 * 56)
        c.box(*place, 106, 48, python(name, name.removeprefix("amdrv.") + "/"), (what,))
    c.box(
        20,
        456,
        470,
        48,
        python("amdrv.hal", "amdrv/hal/"),
        ("the one door: sysfs, VFIO, vfio-user, or the mock",),
        fill=ORANGE,
    )
    c.arrow((120, 240), (120, 264), label="entry point hcq.backends", at=(130, 257))
    c.arrow((120, 430), (120, 454))
    c.box(
        580,
        266,
        260,
        104,
        python("mock", "mock/"),
        ("the machine made of software:", "PCI, memory, engines,", "interrupts, the ISA"),
        fill=PINK,
    )
    c.box(
        580,
        410,
        260,
        94,
        "facts",
        (python("amdrv.facts", "amdrv/facts/"), python("amdrv.regs", "amdrv/regs/"), "from AMD's headers; no logic"),
        fill=GREY,
    )
    c.arrow((490, 480), (560, 480), (560, 318), (578, 318), label="by name", at=(555, 395), dashed=True, anchor="end")
    c.arrow((690, 370), (690, 408))
    c.arrow((490, 420), (578, 420))
    return c


def addresses() -> Canvas:
    """One buffer's bytes, and the four kinds of numbers by which someone reaches them."""
    from amdrv.mmu import pte

    c = Canvas(860, 465, "Address spaces: who reaches the same bytes by which number")
    c.box(
        20,
        20,
        250,
        96,
        "this process",
        ("virtual addresses of the host", python("amdrv.memory.Allocation.view", "Allocation.view"), "(NumPy arrays)"),
        fill=BLUE,
    )
    c.box(
        590,
        20,
        250,
        96,
        "the card's engines",
        (
            "GPU virtual addresses, VMID 8",
            python("amdrv.memory.Allocation.address", "Allocation.address"),
            "compute and copy engines alike",
        ),
        fill=PINK,
    )
    c.box(
        590,
        170,
        250,
        96,
        "GPU page tables",
        (
            "in video memory; walked by both",
            "hubs, with TLBs; written by",
            python("amdrv.mmu.PageTables", "PageTables"),
        ),
        fill=PINK,
    )
    c.arrow((715, 116), (715, 168))
    c.box(
        590,
        340,
        250,
        110,
        "video memory",
        (
            "physical addresses of the card",
            f'leaf "vram": {pte.MTYPE.NC.name}, cached',
            "an allocation lies in segments",
        ),
        fill=GREEN,
    )
    c.box(
        20,
        340,
        250,
        110,
        "system memory",
        ("physical addresses of the host", f'leaf "system": {pte.MTYPE.UC.name}, snooped,', "not cached by the GPU"),
        fill=GREEN,
    )
    c.arrow((715, 266), (715, 338), label="SYSTEM = 0", at=(722, 308))
    c.box(
        305,
        340,
        250,
        110,
        "the bus",
        (
            "device addresses: whatever this",
            "card must say (physical, IOVA)",
            python("amdrv.hal.DmaMapping.segments", "DmaMapping.segments"),
            "an IOMMU may stand here",
        ),
        fill=ORANGE,
    )
    c.arrow(
        (640, 266),
        (640, 300),
        (430, 300),
        (430, 338),
        label="SYSTEM = 1: host memory, or another card's BAR 0",
        at=(272, 293),
    )
    c.arrow((305, 400), (272, 400))
    c.arrow((145, 116), (145, 338), label="the host's page tables", at=(152, 240))
    c.arrow(
        (270, 68), (572, 68), (572, 395), (588, 395), label="BAR 0, the CPU's window on video memory:", at=(285, 60)
    )
    c.text(285, 84, "stores arrive at the HDP flush", size=11.5, colour="#555555")
    c.names.append(bit("SYSTEM"))
    return c


def queue_life() -> Canvas:
    """A submission: from the call to the value that says that it is done."""
    c = Canvas(860, 500, "The life of a submission")
    c.box(20, 20, 250, 62, "1  commands", (python("hcq.ComputeQueue.exec", "ComputeQueue.exec"),), fill=GREEN)
    c.box(
        20,
        112,
        250,
        78,
        "2  packets",
        (
            python("hcq.backend.Backend.compute", "encoder: PM4 words"),
            packet("DISPATCH_DIRECT"),
            packet("RELEASE_MEM"),
        ),
        fill=YELLOW,
    )
    c.box(20, 222, 250, 62, "3  the ring", (python("amdrv.ring.Ring.submit", "Ring.submit"),), fill=YELLOW)
    c.box(
        20, 316, 250, 62, "4  fence, doorbell", (python("amdrv.hal.PciDevice.fence", "PciDevice.fence"),), fill=ORANGE
    )
    for y in (82, 190, 284):
        c.arrow((145, y), (145, y + 30))
    # the ring itself
    c.text(305, 240, "ring in system memory", size=12.5, bold=True)
    for n in range(8):
        done, new = n < 3, 3 <= n < 6
        c.box(305 + n * 31, 248, 31, 36, fill=GREY if done else YELLOW if new else WHITE)
    c.arrow((398, 316), (398, 288), label="read pointer", at=(318, 330))
    c.arrow((491, 316), (491, 288), label="write pointer", at=(462, 330))
    c.box(
        590,
        222,
        250,
        78,
        "5  the engine fetches",
        ("through the GPU's page tables", register("CP_HQD_PQ_RPTR")),
        fill=PINK,
    )
    c.arrow((556, 262), (588, 262))
    c.arrow((270, 350), (715, 350), (715, 302), label="one 64-bit store to BAR 2: the queue's doorbell", at=(300, 367))
    c.box(590, 112, 250, 78, "6  waves run", ("workgroups on the compute units,", "until the last one ends"), fill=PINK)
    c.arrow((715, 222), (715, 192))
    c.box(590, 20, 250, 62, "7  caches written back, then", (packet("RELEASE_MEM"),), fill=PINK)
    c.arrow((715, 112), (715, 84))
    c.box(
        305,
        20,
        250,
        78,
        "8  the timeline's value",
        ("stored where all can see it;", python("hcq.Signal.value", "Signal.value")),
        fill=GREEN,
    )
    c.arrow((588, 50), (557, 50))
    c.box(
        305,
        128,
        250,
        78,
        "9  who waits, wakes",
        (python("hcq.Signal.wait", "Signal.wait"), "spins shortly, then sleeps"),
        fill=GREEN,
    )
    c.arrow((430, 98), (430, 126))
    c.arrow((588, 70), (572, 70), (572, 165), (557, 165), dashed=True)
    c.text(577, 104, "MSI", size=11, colour="#555555")
    c.words(
        20,
        412,
        "A launch is steps 1 to 4 on the host; the rest is the card's. The host waits only in step 9, and "
        "only if somebody asks for a result. An interrupt is asked for only when somebody sleeps. A queue that waits "
        "for another's signal does so in step 5, by a packet:",
        packet("WAIT_REG_MEM"),
        "on compute queues,",
        packet("POLL_REGMEM"),
        "on copy queues. While the ring is full, submit waits.",
    )
    return c


EXAMPLE = 0x2000_0004_7ABC


def page_walk() -> Canvas:
    """A walk of four levels, with the numbers of one address."""
    from amdrv.mmu.tables import LEVEL_SHIFTS

    c = Canvas(860, 425, "A page-table walk")
    c.text(20, 34, f"GPU virtual address {EXAMPLE:#014x}", size=15, bold=True)
    indices = [EXAMPLE >> shift & 0x1FF for shift in LEVEL_SHIFTS] + [EXAMPLE & 0xFFF]
    tables = ("PDB2", "PDB1", "PDB0", "PTB", "page")
    spans = ("512 GiB", "1 GiB", "2 MiB", "4 KiB", "a byte")
    tops = (*(shift + 8 for shift in LEVEL_SHIFTS), LEVEL_SHIFTS[-1] - 1)
    bottoms = (*LEVEL_SHIFTS, 0)
    for n, (index, table) in enumerate(zip(indices, tables, strict=True)):
        x = 20 + n * 166
        c.box(
            x,
            50,
            156,
            44,
            f"{index:#05x}" if n < 4 else f"{index:#06x}",
            (f"bits {tops[n]} to {bottoms[n]}",),
            fill=BLUE,
        )
        if n < 4:
            c.box(x, 150, 130, 130, table, ("512 entries",), fill=YELLOW)
            c.box(x, 206, 130, 26, f"[{index:#05x}]", fill=ORANGE)
            c.arrow((x + 60, 94), (x + 60, 148))
            c.text(x + 8, 274, f"each: {spans[n]}", size=11.5, colour="#555555")
            c.arrow((x + 130, 219), (x + 148, 219), (x + 148, 165), (x + 164, 165))
        else:
            c.box(x, 150, 150, 130, "4 KiB of memory", ("video or system",), fill=GREEN)
            c.box(x, 206, 150, 26, f"byte {index:#05x}", fill=WHITE)
            c.arrow((x + 60, 94), (x + 60, 148))
    c.text(420, 34, "the root:")
    c.text(478, 34, register("GCVM_CONTEXT8_PAGE_TABLE_BASE_ADDR_LO32"))
    c.text(20, 310, "An entry, 64 bits:", size=12.5, bold=True)
    bits = ("VALID", "SYSTEM", "SNOOPED", "EXECUTABLE", "READABLE", "WRITEABLE", "FRAG", "ADDRESS", "MTYPE", "PDE_PTE")
    x = 20.0
    for name in bits:
        width = 14 + 7.4 * len(name)
        c.box(x, 322, width, 26, bit(name), fill=GREY, size=11.5)
        x += width + 4
    c.words(
        20,
        374,
        "A directory entry with",
        bit("PDE_PTE"),
        "set is a leaf itself: one entry for 2 MiB or 1 GiB.",
        bit("FRAG"),
        "says how many pages lie together, for the TLB. Without",
        bit("VALID"),
        "the walk ends: the hub "
        "notes a page fault and raises an interrupt. TLBs keep what they have seen, directory entries too, until an "
        "invalidation is asked for.",
    )
    return c


def strict_memory() -> Canvas:
    """Where old bytes stay in the strict mock, and what lets new ones through."""
    c = Canvas(860, 540, "Strict memory: where old bytes stay, and what lets new ones through")
    c.box(20, 20, 230, 62, "the CPU", ("stores and loads through BAR 0",), fill=BLUE)
    c.box(20, 112, 230, 62, "write-combining buffers", (rule("wc"),), fill=ORANGE)
    c.box(20, 204, 230, 62, "HDP", (rule("hdp"),), fill=ORANGE)
    c.arrow((135, 82), (135, 110), label="out by: the HAL's fence", at=(142, 101))
    c.arrow((135, 174), (135, 202), label="out by: HDP flush", at=(142, 193))
    c.box(300, 20, 170, 62, "waves: vector loads", ("stores go through",), fill=PINK)
    c.box(480, 20, 170, 62, "waves: scalar loads", ("",), fill=PINK)
    c.box(660, 20, 180, 62, "waves: code", ("",), fill=PINK)
    c.box(300, 112, 170, 62, "GL0", (rule("glv"),), fill=ORANGE)
    c.box(480, 112, 170, 62, "scalar cache", (rule("glk"),), fill=ORANGE)
    c.box(660, 112, 180, 62, "instruction cache", (rule("gli"),), fill=ORANGE)
    c.box(300, 204, 350, 62, "GL1", ("between launches as above it; within one:", rule("gl1")), fill=ORANGE)
    for x in (385, 565, 750):
        c.arrow((x, 82), (x, 110))
    c.arrow((385, 174), (385, 202), label="new by: GLV_INV", at=(392, 193))
    c.arrow((565, 174), (565, 202), label="GLK_INV", at=(572, 193))
    c.arrow((475, 266), (475, 294), label="GL1_INV", at=(482, 285))
    c.box(300, 296, 540, 62, "GL2", (rule("gl2"),), fill=ORANGE)
    c.arrow((750, 174), (750, 294), label="GLI_INV", at=(757, 240))
    c.box(20, 296, 230, 62, "copy engines, CP", ("clients of GL2",), fill=PINK)
    c.arrow((250, 327), (298, 327))
    c.box(20, 400, 820, 62, "memory", (rule("poison"),), fill=GREEN)
    c.arrow((570, 358), (570, 398), label="out by: GL2_WB     new by: GL2_INV", at=(580, 384))
    c.arrow((10, 235), (10, 440), (18, 440))
    c.line(20, 235, 10, 235)
    c.words(
        20,
        486,
        "Beside them: TLBs keep translations (",
        rule("tlb"),
        "); launches overlap until something waits (",
        rule("overlap"),
        "); registers have no power while GC sleeps (",
        rule("gfxoff"),
        "). The short names are the rules'; strict=-hdp in AMDRV_MOCK switches one off.",
    )
    return c


def interrupts() -> Canvas:
    """The interrupt ring: an entry's words, and its way to whoever sleeps."""
    from amdrv.facts import ih
    from amdrv.ip.ih import RING_BYTES, WORDS

    c = Canvas(860, 420, "The interrupt ring")
    c.box(20, 20, 190, 78, "a block has news", ("a kernel ended, a page", "fault, ECC, the SMU"), fill=PINK)
    c.box(270, 20, 250, 78, "IH", ("an entry, then the pointer", register("IH_RB_WPTR")), fill=PINK)
    c.arrow((210, 58), (268, 58))
    c.box(
        590,
        20,
        250,
        78,
        "MSI",
        ("the HAL's descriptor is readable", python("amdrv.hal.Interrupt.fileno", "Interrupt.fileno")),
        fill=ORANGE,
    )
    c.arrow((520, 58), (588, 58))
    entries = RING_BYTES // ih.IV_ENTRY_BYTES
    c.text(20, 134, f"ring in memory: {entries:,} entries of {ih.IV_ENTRY_BYTES} bytes", bold=True)
    for n in range(12):
        c.box(20 + n * 44, 144, 44, 40, fill=GREY if n < 4 else YELLOW if n < 8 else WHITE)
    c.arrow((400, 98), (400, 142))
    c.arrow((196, 214), (196, 188), label=register("IH_RB_RPTR"), at=(150, 230))
    c.box(
        590,
        144,
        250,
        94,
        "the driver takes them",
        (
            python("amdrv.ip.ih.Ih.take", "Ih.take"),
            python("amdrv.interrupts.Interrupts.drain", "Interrupts.drain"),
            "by client and source",
        ),
        fill=YELLOW,
    )
    c.arrow((715, 98), (715, 142))
    c.arrow((550, 164), (588, 164))
    c.text(20, 272, f"an entry: {WORDS} words of 32 bits", bold=True)
    words = (
        ("0", "client 7:0, source 15:8", "ring 23:16, VMID 27:24, hub 31"),
        ("1, 2", "timestamp", "48 bits"),
        ("3", "PASID", "16 bits"),
        ("4 to 7", "context", "the source's own words"),
    )
    x = 20
    for (number, first, second), width in zip(words, (236, 130, 130, 180), strict=True):
        c.box(x, 284, width, 62, f"word {number}", (first, second), fill=GREY)
        x += width + 8
    c.words(
        20,
        376,
        "The driver moves",
        register("IH_RB_RPTR"),
        "by the ring's doorbell. The card writes a copy of the "
        "write pointer to memory; without an MSI (sysfs) that is polled. A ring that overflows says so in the pointer.",
    )
    return c


def graph_replay() -> Canvas:
    """A graph, from the recording to a replay; the schedule in it is that of a real one on the mock."""
    c = Canvas(860, 440, "A graph: recorded once, replayed often")
    c.text(20, 34, "once, when the recording ends", bold=True, size=14)
    c.box(
        20,
        48,
        190,
        96,
        "commands",
        (python("hcq.graph.Node", "Node"), "kernels, copies, fills,", "with inputs by name"),
        fill=GREEN,
    )
    c.box(
        236,
        48,
        190,
        96,
        "what depends on what",
        (python("hcq.access.Tracker", "Tracker"), "by what each reads and", "writes"),
        fill=GREEN,
    )
    c.box(
        452,
        48,
        190,
        96,
        "steps on engines",
        (python("hcq.schedule.Schedule", "Schedule"), "waits only where needed"),
        fill=GREEN,
    )
    c.box(
        668,
        48,
        172,
        96,
        "packets",
        (python("hcq.layout.Layout", "Layout"), "in a block of host", "memory"),
        fill=YELLOW,
    )
    for x in (210, 426, 642):
        c.arrow((x, 96), (x + 24, 96))
    c.text(20, 186, "the block", bold=True, size=14)
    for n in range(24):
        c.box(20 + n * 34, 198, 34, 34, fill=ORANGE if n in (3, 4, 9, 14, 15, 21) else GREY)
    c.text(
        20,
        254,
        "grey: words that never change; orange: words that a replay stores, by a patch table: this word is that "
        "symbol plus a constant.",
        size=12,
    )
    c.text(20, 300, "each replay", bold=True, size=14)
    c.box(20, 314, 190, 78, "the symbols", ("inputs, addresses, the", "timelines' next values"), fill=BLUE)
    c.box(
        236,
        314,
        190,
        78,
        "one scatter",
        (python("hcq.blocks.Table.scatter", "Table.scatter"), "NumPy, a table at once"),
        fill=BLUE,
    )
    c.box(452, 314, 190, 78, "into the rings", ("copied, or led to by an", "indirect buffer"), fill=YELLOW)
    c.box(668, 314, 172, 78, "doorbells", ("one for each engine", "that has work"), fill=ORANGE)
    for x in (210, 426, 642):
        c.arrow((x, 353), (x + 24, 353))
    c.arrow((331, 312), (331, 262), dashed=True)
    c.text(
        20,
        420,
        "While a replay's block is in use, the next one takes another copy of it, so that the host does not wait "
        "between replays.",
        size=12,
    )
    return c


PICTURES: dict[str, Callable[[], Canvas]] = {
    "floors": floors,
    "addresses": addresses,
    "queue-life": queue_life,
    "page-walk": page_walk,
    "strict-memory": strict_memory,
    "interrupts": interrupts,
    "graph-replay": graph_replay,
}


if __name__ == "__main__":
    for title, draw in PICTURES.items():
        (HERE / f"{title}.svg").write_text(draw().svg(), encoding="utf-8")
        print(HERE / f"{title}.svg")
