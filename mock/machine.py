"""A machine made of software: a host bus and the cards on it.

    with mock.Machine(gpus=[mock.Gpu("gfx1100", vram="1G")]) as machine:
        board = machine.gpus[0]

``AMDRV_MOCK="gfx1100:vram=1G,count=2"`` says the same in words: ``ARCH[:KEY=VALUE,...]``, several cards divided by
``;``. Keys: ``vram`` and ``bar0`` (sizes), ``count``, ``harvest`` (workgroup processors fused off, see :class:`Gpu`),
``clock`` (``wall``, or ``model``: timestamps are of modelled time, see :mod:`mock.clock`),
``strict`` (``strict=-hdp,-tlb`` switches rules of :mod:`mock.rules` off, ``strict=+gl1`` one on).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from mock.arch import arch_of
from mock.board import Board
from mock.bus import HostBus
from mock.clock import CLOCKS
from mock.rules import RULES, relaxed
from mock.vram import PAGE, parse_size

if TYPE_CHECKING:
    from mock.trace.record import Trace

__all__ = ["DEFAULT", "Gpu", "Machine", "RULES"]

DEFAULT = "gfx1100:vram=1G"
KEYS = ("vram", "bar0", "count", "harvest", "strict", "clock")
MIB = 1 << 20
MIN_VRAM = 64 * MIB
FIRST_BUS = 3       # the bus behind the first root port with a card, as desktop boards have it


@dataclass(frozen=True)
class Gpu:
    """One card to be. Sizes are bytes or "1G", "256M".

    ``harvest`` maps (shader engine, shader array) to the mask of workgroup processors fused off there; an integer is
    the mask for every array. ``clock``: "wall", or "model" for modelled time.
    ``bar0`` is the size that the platform's firmware gave the resizable BAR0 (default: all
    of VRAM). ``strict`` names rules of :mod:`mock.rules` to switch off, each with a minus: ``"-hdp,-poison"``, or
    on, with a plus, that are off by themselves: ``"+gl1"``.
    """

    arch: str = "gfx1100"
    vram: str | int = "1G"
    harvest: int | Mapping[tuple[int, int], int] = field(default_factory=dict)
    bar0: str | int | None = None
    strict: str = ""
    clock: str = "wall"

    def __post_init__(self) -> None:
        arch = arch_of(self.arch)
        if self.vram_bytes < MIN_VRAM or self.vram_bytes % MIB:
            raise ValueError(f"vram={self.vram!r}: must be a whole number of MiB, at least {MIN_VRAM // MIB}M")
        if self.bar0_bytes < MIN_VRAM or self.bar0_bytes & (self.bar0_bytes - 1):
            raise ValueError(f"bar0={self.bar0!r}: must be a power of two, at least {MIN_VRAM // MIB}M")
        full = (1 << arch.wgps_per_array) - 1
        for se in range(arch.shader_engines):
            for sa in range(arch.arrays_per_engine):
                mask = self.harvested_wgps(se, sa)
                if not 0 <= mask <= full:
                    raise ValueError(f"harvest mask {mask:#x} for shader engine {se}, array {sa}: {self.arch} has "
                                     f"{arch.wgps_per_array} workgroup processors an array (masks up to {full:#x})")
        if not isinstance(self.harvest, int):
            for se, sa in self.harvest:
                if not (0 <= se < arch.shader_engines and 0 <= sa < arch.arrays_per_engine):
                    raise ValueError(f"harvest of shader engine {se}, array {sa}: {self.arch} has "
                                     f"{arch.shader_engines} engines of {arch.arrays_per_engine} arrays")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock={self.clock!r}: must be one of {', '.join(CLOCKS)}")
        if self.active_wgps == 0:
            raise ValueError("harvest leaves no workgroup processor")
        relaxed(self.strict)

    def is_strict(self, rule: str) -> bool:
        """Whether a rule (a name of :data:`mock.rules.RULES`) holds on this card."""
        return rule not in relaxed(self.strict)

    @property
    def vram_bytes(self) -> int:
        """Bytes of video memory."""
        return parse_size(self.vram) // PAGE * PAGE

    @property
    def bar0_bytes(self) -> int:
        """Bytes of BAR 0 at the beginning; the capability may offer more."""
        if self.bar0 is not None:
            return parse_size(self.bar0)
        return max(256 * MIB, 1 << (self.vram_bytes - 1).bit_length())

    def harvested_wgps(self, se: int, sa: int) -> int:
        """Mask of the workgroup processors that are fused off in a shader array."""
        return self.harvest if isinstance(self.harvest, int) else self.harvest.get((se, sa), 0)

    @property
    def active_wgps(self) -> int:
        """Workgroup processors that are there, harvested ones not counted."""
        arch = arch_of(self.arch)
        return sum(arch.wgps_per_array - self.harvested_wgps(se, sa).bit_count()
                   for se in range(arch.shader_engines) for sa in range(arch.arrays_per_engine))

    @property
    def compute_units(self) -> int:
        """Compute units that are there: two a workgroup processor."""
        return 2 * self.active_wgps


class Machine:
    """Host bus and cards; a context manager. ``gpus`` are boards, ``bus`` the :class:`HostBus`."""

    def __init__(self, gpus: Sequence[Gpu] = (Gpu(),)) -> None:
        self.bus = HostBus()
        self.gpus: list[Board] = []
        self.trace: Trace | None = None
        """The recording that AMDRV_MOCK_TRACE asks for (:mod:`mock.trace`)."""
        try:
            for number, gpu in enumerate(gpus):
                board = Board(gpu, self.bus, f"0000:{FIRST_BUS + number:02x}:00.0")
                self.gpus.append(board)
                self.bus.add_board(board)
                board.config.assign(number)
            if os.environ.get("AMDRV_MOCK_TRACE"):
                from mock.trace.record import from_environment
                self.trace = from_environment(self.gpus)
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_environment(cls) -> Machine:
        """The machine that ``AMDRV_MOCK`` describes; default ``gfx1100:vram=1G``. ``snapshot:FILE`` is the machine of a
        snapshot (:mod:`mock.snapshot`). :raises ValueError:"""
        text = os.environ.get("AMDRV_MOCK") or DEFAULT
        try:
            if text.startswith("snapshot:"):
                from mock.snapshot import load
                return load(text.removeprefix("snapshot:"))
            return cls(parse(text))
        except ValueError as error:
            raise ValueError(f"AMDRV_MOCK={text!r}: {error}; an example is {DEFAULT},count=2") from None

    def close(self) -> None:
        """End all threads and give the memory back. Idempotent."""
        for board in self.gpus:
            board.close()
        if self.trace is not None:
            self.trace.close()
            self.trace = None
        self.gpus = []
        self.bus.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def parse(text: str) -> list[Gpu]:
    """Cards of ``ARCH[:KEY=VALUE,...][;...]``. :raises ValueError:"""
    gpus: list[Gpu] = []
    for part in text.split(";"):
        arch, _, rest = part.strip().partition(":")
        options: dict[str, str] = {}
        for item in filter(None, (piece.strip() for piece in rest.split(","))):
            if item.startswith(("-", "+")) and "strict" in options:
                options["strict"] += item
                continue
            key, equals, value = item.partition("=")
            if not equals or key not in KEYS:
                raise ValueError(f"{item!r} is not KEY=VALUE with a key of {', '.join(KEYS)}")
            if key in options:
                raise ValueError(f"{key} is given twice: {options[key]!r} and {value!r}")
            options[key] = value
        count = options.pop("count", "1")
        if not count.isdigit() or not 1 <= int(count) <= 16:
            raise ValueError(f"count={count!r} must be a number from 1 to 16")
        gpu = Gpu(arch, vram=options.get("vram", "1G"), bar0=options.get("bar0"), strict=options.get("strict", ""),
                  clock=options.get("clock", "wall"),
                  harvest=_mask(options["harvest"]) if "harvest" in options else {})
        gpus += [gpu] * int(count)
    return gpus


def _mask(text: str) -> int | dict[tuple[int, int], int]:
    """``0x8`` for every array, or ``0.1:0x8+2.0:0x1`` for (shader engine 0, array 1) and (2, 0)."""
    try:
        if ":" not in text:
            return int(text, 0)
        masks = {}
        for item in text.split("+"):
            place, mask = item.split(":")
            se, sa = place.split(".")
            masks[int(se), int(sa)] = int(mask, 0)
        return masks
    except ValueError:
        raise ValueError(f"harvest={text!r} must be a mask such as 0x8, or SE.SA:MASK+SE.SA:MASK") from None
