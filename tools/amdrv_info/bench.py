"""``bench``: what the card and the way to it carry: BAR, copies, peers, launches, arithmetic, each beside its limit.

Copies and kernels are timed by the card's own clock (timestamps in their queues), the rest by the host's. Limits follow
from what the card says of itself: link speed and width (PCI Express Base Specification 4.0: 128 of 130 bits are data
from 8 GT/s on), compute units and highest clocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import hcq
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.errors import AmdrvError
from amdrv.hal import Hal, select
from hcq.errors import HcqError
from tools.amdrv_info import card
from tools.amdrv_info.pci import Link, read_pci
from tools.amdrv_info.space import save

__all__ = ["BENCHES", "draw", "measure"]

MIB = 1 << 20
LANES, FMA, DUAL = 64, 2, 2     # of a CU: lanes a clock, operations of a fused multiply-add, both halves of VOPD
MEMORY_BUS = {0x744C: 384}      # bits (AMD, product page of the RX 7900 XTX)
TRANSFERS = 16                  # bits a pin for each UCLK: GDDR6 at 20 Gbit/s has a UCLK of 1250 MHz
CHAINS, STEPS = 8, 512          # of the arithmetic kernel: independent sums of a lane, rounds of each


class _Card:
    """What the measurements share."""

    def __init__(self, hal: Hal, device: hcq.Device, amdrv_device: Device, quick: bool) -> None:
        self.hal, self.device, self.card = hal, device, amdrv_device
        self.scale = 10 if quick else 1
        self.link: Link | None = read_pci(amdrv_device.pci).link

    def bytes(self, nbytes: int) -> int:
        return max(nbytes // self.scale & -4096, 4096)

    def turns(self, count: int) -> int:
        return max(count // self.scale, 3)

    def max_mhz(self, clock: str) -> int:
        """The highest frequency of a clock, by the SMU."""
        return self.card.power.clock(clock).levels[-1]

    def link_bytes(self) -> tuple[float | None, str]:
        """Bytes a second that the link carries at best, one way, before packets' headers."""
        if self.link is None or not self.link.speed:
            return None, "the link's speed is not known"
        coding = 128 / 130 if self.link.speed >= 8 else 8 / 10
        rate = self.link.speed * 1e9 * coding / 8 * self.link.width
        return rate, f"link, {self.link.speed:g} GT/s x{self.link.width}"

    def vram_bytes(self) -> tuple[float | None, str]:
        bits = MEMORY_BUS.get(self.card.function.device)
        if bits is None:
            return None, "the width of its memory is not known"
        mhz = self.max_mhz("memory")
        return mhz * 1e6 * TRANSFERS * bits / 8, f"memory, {bits} bits at {mhz * TRANSFERS / 1000:g} Gbit/s"


def _best(work: Callable[[], float], turns: int = 3) -> float:
    return min(work() for _ in range(turns))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


Row = dict[str, Any]


def _row(bench: str, name: str, value: float | None, unit: str, limit: tuple[float | None, str] = (None, ""),
         scale: float = 1.0, note: str = "", clock: str = "host") -> Row:
    most = limit[0] / scale if limit[0] is not None else None
    return {"bench": bench, "name": name, "value": value, "unit": unit, "limit": most, "limit_is": limit[1] or None,
            "percent": round(100 * value / most, 2) if value is not None and most else None, "clock": clock,
            "note": note or None, "error": None}


def _bar(c: _Card) -> list[Row]:
    """VRAM through BAR 0, and one register."""
    size = c.bytes(16 * MIB)
    buffer = c.card.alloc(size, contiguous=True, name="bench BAR")
    try:
        view = buffer.view
        if view is None:
            raise AmdrvError("BAR 0 gives no single window on the buffer")
        data = np.arange(size, dtype=np.uint8)

        def store() -> None:
            view[:] = data
            c.card.pci.fence()
        write = size / _best(lambda: _timed(store))
        read = size / _best(lambda: _timed(view.copy))
    finally:
        c.card.free(buffer)
    registers, count = c.card.registers, c.turns(2000)

    def look() -> None:
        for _ in range(count):
            registers.read32(0)
    return [_row("bar", "BAR 0, write", write / 1e9, "GB/s", c.link_bytes(), 1e9, "stores of the CPU, then a fence"),
            _row("bar", "BAR 0, read", read / 1e9, "GB/s", c.link_bytes(), 1e9,
                 "loads of the CPU cannot be combined: slow on every card"),
            _row("bar", "register, read", _best(lambda: _timed(look)) / count * 1e6, "us")]


def _copy_rate(c: _Card, destination: hcq.Buffer, source: hcq.Buffer, size: int) -> float:
    """Bytes a second, by the copy engine's timestamps."""
    def once() -> float:
        begin, end, done = (c.device.signal() for _ in range(3))
        hcq.CopyQueue(c.device).timestamp(begin).copy(destination, source).timestamp(end).signal(done, 1).submit()
        done.wait(1)
        return c.device.seconds(begin, end)
    return size / _best(once)


def _sdma(c: _Card) -> list[Row]:
    size = c.bytes(32 * MIB)
    a, b = c.device.alloc(size), c.device.alloc(size)
    host = c.device.alloc(size, host=True)
    rows = [("VRAM to VRAM", b, a, c.vram_bytes(), 2.0), ("host to VRAM", a, host, c.link_bytes(), 1.0),
            ("VRAM to host", host, a, c.link_bytes(), 1.0)]
    return [_row("sdma", f"SDMA, {name}", _copy_rate(c, to, of, size) / 1e9, "GB/s", limit, each * 1e9,
                 "half of the memory's rate is the limit: each byte is read and written" if each == 2 else "", "card")
            for name, to, of, limit, each in rows]


def _p2p(c: _Card) -> list[Row]:
    """Straight from this card's VRAM into another's, where there is another."""
    others = [f for f in card.cards(c.hal) if f.address != c.card.function.address]
    if not others:
        return [_row("p2p", "peer to peer", None, "GB/s", note="needs a second card")]
    size = c.bytes(16 * MIB)
    with Device.open(hal=c.hal, address=others[0].address) as second, hcq.Device(AmBackend(second, 1)) as peer:
        source, target = c.device.alloc(size), peer.alloc(size)
        pattern = np.arange(size // 4, dtype=np.uint32)
        source.copyin(pattern)

        def once() -> None:
            target.copy_from(source)
            peer.synchronize()
            c.device.synchronize()
        rate = size / _best(lambda: _timed(once))
        if not np.array_equal(target.copyout(np.empty_like(pattern)), pattern):
            raise AmdrvError("the bytes that came to the other card are not those that were sent")
    return [_row("p2p", "peer to peer, VRAM to VRAM", rate / 1e9, "GB/s", c.link_bytes(), 1e9,
                 f"to {others[0].address}; bytes compared")]


_EMPTY = """
target triple = "amdgcn-amd-amdhsa"
define amdgpu_kernel void @empty(ptr addrspace(1) %out) { ret void }
"""


def _launch(c: _Card) -> list[Row]:
    program = c.device.program(_compiled(_EMPTY, c), "empty")
    buffer = c.device.alloc(4096)
    many = c.turns(200)

    def run(count: int, wait_each: bool) -> None:
        for _ in range(count):
            program(buffer, grid=1, block=32)
            if wait_each:
                c.device.synchronize()
        c.device.synchronize()

    run(10, True)
    alone = _best(lambda: _timed(lambda: run(many, True))) / many
    queued = _best(lambda: _timed(lambda: run(many, False))) / many
    with c.device.graph() as graph:
        for _ in range(16):
            program(buffer, grid=1, block=32)
    replays = c.turns(50)

    def replay() -> None:
        for _ in range(replays):
            graph.replay()
        c.device.synchronize()
    recorded = _best(lambda: _timed(replay)) / replays / 16
    return [_row("launch", "launch, waited for", alone * 1e6, "us", note="empty kernel, submit to host sees its end"),
            _row("launch", "launch, one after the other", queued * 1e6, "us"),
            _row("launch", "launch in a graph of 16", recorded * 1e6, "us")]


def _arithmetic() -> str:
    """CHAINS independent chains of FMAs a lane, so that each clock can take a pair (VOPD)."""
    names = range(CHAINS)
    phis = "\n".join(f"  %v{i} = phi float [%x{i}, %entry], [%w{i}, %loop]" for i in names)
    # each round is unrolled eight times, so that the loop's own instructions do not count
    body, last = [], {i: f"%v{i}" for i in names}
    for turn in range(8):
        for i in names:
            result = f"%w{i}" if turn == 7 else f"%t{turn}_{i}"
            body.append(f"  {result} = call float @llvm.fma.f32(float {last[i]}, float %x, float %y)")
            last[i] = result
    total, sums = "%w0", []
    for i in range(1, CHAINS):
        sums.append(f"  %s{i} = fadd float {total}, %w{i}")
        total = f"%s{i}"
    starts = "\n".join(f"  %x{i} = fadd float %x, {float(i):e}" for i in names)
    return f"""
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workitem.id.x()
declare i32 @llvm.amdgcn.workgroup.id.x()
declare float @llvm.fma.f32(float, float, float)
define amdgpu_kernel void @arithmetic(ptr addrspace(1) %out, float %x, float %y) #0 {{
entry:
  %item = call i32 @llvm.amdgcn.workitem.id.x()
  %group = call i32 @llvm.amdgcn.workgroup.id.x()
  %first = mul i32 %group, 256
  %i = add i32 %first, %item
{starts}
  br label %loop
loop:
  %n = phi i32 [0, %entry], [%m, %loop]
{phis}
{chr(10).join(body)}
  %m = add i32 %n, 1
  %more = icmp ult i32 %m, {STEPS // 8}
  br i1 %more, label %loop, label %done
done:
{chr(10).join(sums)}
  %p = getelementptr float, ptr addrspace(1) %out, i32 %i
  store float {total}, ptr addrspace(1) %p
  ret void
}}
attributes #0 = {{ "amdgpu-flat-work-group-size"="256,256" }}
"""


def _kernel(c: _Card) -> list[Row]:
    program = c.device.program(_compiled(_arithmetic(), c), "arithmetic")
    groups = c.turns(2 * c.card.compute_units)
    out = c.device.alloc(4 * 256 * groups)

    def once() -> float:
        begin, end, done = (c.device.signal() for _ in range(3))
        hcq.ComputeQueue(c.device).timestamp(begin).exec(
            program, (out, np.float32(0.5), np.float32(1.0)), groups, 256).timestamp(end).signal(done, 1).submit()
        done.wait(1)
        return c.device.seconds(begin, end)
    once()
    flops = 256 * groups * CHAINS * STEPS * FMA / _best(once)
    mhz, units = c.max_mhz("gfx"), c.card.compute_units
    limit = units * LANES * FMA * DUAL * mhz * 1e6
    return [_row("kernel", "fp32 multiply-adds", flops / 1e9, "GFLOP/s",
                 (limit, f"{units} CUs at {mhz} MHz, both halves of VOPD"), 1e9, "", "card")]


def _compiled(source: str, c: _Card) -> bytes:
    from llvmlite import binding
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu=c.card.arch, opt=2)
    return bytes(target.emit_object(binding.parse_assembly(source)))


BENCHES: dict[str, Callable[[_Card], list[Row]]] = {
    "bar": _bar, "sdma": _sdma, "p2p": _p2p, "launch": _launch, "kernel": _kernel}


def measure(hal_name: str | None, device: str, *, only: Sequence[str] | None = None,
            quick: bool = False) -> dict[str, Any]:
    """``bench --json``. A measurement that fails is a row with its error; the others go on.

    :raises AmdrvError: the card does not boot.
    """
    hal = select(hal_name)
    function = card.choose(hal, device)
    rows: list[Row] = []
    with Device.open(hal=hal, address=function.address) as opened, hcq.Device(AmBackend(opened, 0)) as queues:
        shared = _Card(hal, queues, opened, quick)
        for name, run in BENCHES.items():
            if only and name not in only:
                continue
            try:
                rows += run(shared)
            except (AmdrvError, HcqError) as error:
                rows.append(_row(name, name, None, "") | {"error": f"{type(error).__name__}: {error}"})
        said = {"hal": hal.name, "card": function.address, "name": card.marketing_name(function), "arch": opened.arch,
                "compute_units": opened.compute_units, "software": hal.name in ("mock", "vfio-user"), "results": rows}
    return said


def draw(document: dict[str, Any], path: str) -> None:
    """The results as bars, one panel a unit, with their limits as lines.

    :raises AmdrvError: matplotlib is missing, there is nothing to draw, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise AmdrvError(f"{path}: pictures need matplotlib; install it: pip install matplotlib") from None
    rows = [row for row in document["results"] if row["value"] is not None]
    units = list(dict.fromkeys(row["unit"] for row in rows))
    if not units:
        raise AmdrvError(f"{path}: nothing was measured, so there is nothing to draw")
    figure = Figure(figsize=(9, 1.2 + 0.55 * len(rows) + 0.5 * len(units)), layout="constrained")
    heights = [sum(row["unit"] == unit for row in rows) + 0.6 for unit in units]
    panels = figure.subplots(len(units), 1, height_ratios=heights, squeeze=False)[:, 0]
    what = "the software card" if document["software"] else document["name"]
    figure.suptitle(f"{what}, {document['arch']}, {document['hal']} HAL", x=0.01, ha="left", fontsize=11)
    for unit, axes in zip(units, panels, strict=True):
        mine = [row for row in rows if row["unit"] == unit]
        axes.barh([row["name"] for row in mine], [row["value"] for row in mine], color="tab:blue", height=0.6)
        for place, row in enumerate(mine):
            axes.annotate(f" {row['value']:.3g}" + (f" ({row['percent']:.2g} % of {row['limit']:.4g})"
                                                   if row["limit"] else ""),
                          (row["value"], place), va="center", fontsize=8)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(low / 2, high * 30)
        axes.set_xlabel(unit + (", lower is better" if unit == "us" else ""), fontsize=8)
        axes.tick_params(labelsize=8)
        axes.invert_yaxis()
    save(figure, path)
