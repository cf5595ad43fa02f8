"""Hardware counters, programmed, started, stopped and read by packets of the compute queue: for ``hcq.profile``.

Each block has a few counters, and each counter counts the event that its PERFCOUNTERn_SELECT names. A block that the
card has several times (SQ in each shader engine, GL2C in each channel of GL2) is read one by one and added up.

Facts: Mesa 25.0, ac_perfcounter.c and si_perfcounter.c (the order: DISABLE_AND_RESET, selections, START_COUNTING, then
STOP_COUNTING with PERFMON_SAMPLE_ENABLE; GRBM_GFX_INDEX chooses the engine or instance that COPY_DATA reads); Linux
6.1, soc21_enum.h (CP_PERFMON_STATE, GRBM_PERF_SEL, SQ_PERF_SEL, CPC_PERFCOUNT_SEL, GL2C_PERF_SEL, SDMA_PERF_SEL).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from amdrv import pm4

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["COUNTERS", "Counters"]

RESET_STATE, START_COUNTING, STOP_COUNTING = 0, 1, 2        # CP_PERFMON_STATE

_EVENTS: dict[str, dict[str, int]] = {
    "GRBM": {"COUNT": 0, "GUI_ACTIVE": 2, "CP_BUSY": 3, "SPI_BUSY": 0xB},
    "SQ": {"CYCLES": 2, "BUSY_CYCLES": 3, "WAVES": 4, "WAVES_32": 5, "WAVES_64": 6, "ITEMS": 8, "INSTS_ALL": 0x30},
    "CPC": {"ALWAYS_COUNT": 0},
    "GL2C": {"CYCLE": 1, "REQ": 3, "READ": 6, "WRITE": 7, "UC_REQ": 0x24, "HIT": 0x2A, "MISS": 0x2B,
             "WRITEBACK": 0x33, "MC_WRREQ": 0x53, "MC_RDREQ": 0x60}}
_SDMA = {"CYCLE": 0, "MC_WR_COUNT": 0x11, "MC_RD_COUNT": 0x13, "INT_REQ_COUNT": 0x20, "NUM_PACKET": 0x23,
         "DOORBELL": 0x3C}
_EVENTS |= {"SDMA0": _SDMA, "SDMA1": _SDMA}
COUNTERS: dict[str, tuple[str, int]] = {f"{block}_{event}": (block, number) for block, events in _EVENTS.items()
                                        for event, number in events.items()}
"""{name: (block, PERF_SEL)}"""
SLOTS = {"GRBM": 2, "SQ": 8, "CPC": 2, "GL2C": 4, "SDMA0": 2, "SDMA1": 2}
# counted once where every engine, or channel, has the same: time
TIMES = frozenset(("SQ_CYCLES", "SQ_BUSY_CYCLES", "GL2C_CYCLE"))


class _Place(NamedTuple):
    """One counter of one instance of a block."""

    name: str
    register: str               # its low half
    engine: int | None          # that GRBM_GFX_INDEX chooses; None: all, and so is the instance
    instance: int | None
    wide: bool                  # it has a high half


class Counters:
    """Hardware counters between :meth:`start` and :meth:`stop`, as words for the compute queue.

    :raises ValueError: an unknown name, or more of a block than it has.
    """

    def __init__(self, device: Device, names: Sequence[str]) -> None:
        if unknown := [name for name in names if name not in COUNTERS]:
            raise ValueError(f"no counter {unknown[0]!r}; there are {', '.join(COUNTERS)}")
        self.device, self.names = device, list(dict.fromkeys(names))
        self._selected: dict[str, tuple[str, int]] = {}         # name -> block, number of its counter there
        used: dict[str, int] = {}
        for name in self.names:
            block, _ = COUNTERS[name]
            number = used[block] = used.get(block, -1) + 1
            if number >= SLOTS[block]:
                raise ValueError(f"{block} counts {SLOTS[block]} events at a time; {name} is one more")
            self._selected[name] = block, number
        self._places = sorted(self._find(), key=lambda place: (place.engine or 0, place.instance or 0))

    def _find(self) -> Iterator[_Place]:
        for name, (block, number) in self._selected.items():
            register = f"{block}_PERFCOUNTER{number}_LO"
            if block == "SQ":                   # SQ's have no high half
                engines = 1 if name in TIMES else self.device.shader_engines
                yield from (_Place(name, register, engine, None, False) for engine in range(engines))
            elif block == "GL2C":
                channels = 1 if name in TIMES else self.device.discovery.gc.tables["gc_num_gl2c"]
                yield from (_Place(name, register, None, channel, True) for channel in range(channels))
            else:
                yield _Place(name, register, None, None, True)

    def _set(self, register: str, **fields: int) -> list[int]:
        found = self.device.regs[register]
        return pm4.set_registers(found.address, [found.register.pack(**fields)])

    def start(self) -> list[int]:
        words = [*self._choose(None, None), *self._set("CP_PERFMON_CNTL", PERFMON_STATE=RESET_STATE),
                 *self._set("SQ_PERFCOUNTER_CTRL", CS_EN=1)]
        for name, (block, number) in self._selected.items():
            words += self._set(f"{block}_PERFCOUNTER{number}_SELECT", PERF_SEL=COUNTERS[name][1])
        return words + self._set("CP_PERFMON_CNTL", PERFMON_STATE=START_COUNTING)

    def stop(self) -> list[int]:
        return self._set("CP_PERFMON_CNTL", PERFMON_STATE=STOP_COUNTING, PERFMON_SAMPLE_ENABLE=1)

    def _choose(self, engine: int | None, instance: int | None) -> list[int]:
        """What the next reads and writes of registers mean."""
        return self._set("GRBM_GFX_INDEX", SA_BROADCAST_WRITES=1,
                         SE_INDEX=engine or 0, SE_BROADCAST_WRITES=int(engine is None),
                         INSTANCE_INDEX=instance or 0, INSTANCE_BROADCAST_WRITES=int(instance is None))

    @property
    def read_words(self) -> int:
        """64-bit words that :meth:`read` fills."""
        return len(self._places)

    def read(self, address: int) -> list[int]:
        """Store every counter of every instance at ``address``; :meth:`values` adds them up."""
        words: list[int] = []
        chosen: tuple[int | None, int | None] | None = None
        for index, place in enumerate(self._places):
            if chosen != (place.engine, place.instance):
                chosen = place.engine, place.instance
                words += self._choose(*chosen)
            words += pm4.build("COPY_DATA", SRC_SEL="PERF", DST_SEL="MEM", COUNT_SEL="QWORD" if place.wide else "DWORD",
                               WR_CONFIRM=1, SRC_ADDR=self.device.regs[place.register].address,
                               DST_ADDR=address + 8 * index)
        return words + self._choose(None, None)

    def values(self, words: Sequence[int]) -> dict[str, int]:
        """What :meth:`read` stored, by name: the sum over the instances."""
        found = dict.fromkeys(self.names, 0)
        for place, value in zip(self._places, words, strict=True):
            found[place.name] += value
        return found
