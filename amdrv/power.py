"""Clocks, power and sensors of a card: what its SMU tells and takes.

    with card.power.limits(gfx=(500, 1500), watts=200):     # MHz, W; what was before comes back
        print(card.metrics())

Everything that is set is set back when the card is closed, and set again when it had to be reset.
Messages and tables: Linux 6.1, smu_v13_0.c (smu_v13_0_set_soft_freq_limited_range, smu_v13_0_set_power_limit) and
smu_v13_0_0_ppt.c; smu13_driver_if_v13_0_0.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from amdrv.errors import BootError, PowerError
from amdrv.facts import smu13 as facts

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["CLOCKS", "Clock", "Metrics", "Power"]

CLOCKS = {"gfx": facts.PPCLK_GFXCLK, "memory": facts.PPCLK_UCLK, "fabric": facts.PPCLK_FCLK, "soc": facts.PPCLK_SOCCLK,
          "video": facts.PPCLK_VCLK_0, "decode": facts.PPCLK_DCLK_0, "video1": facts.PPCLK_VCLK_1,
          "decode1": facts.PPCLK_DCLK_1, "display": facts.PPCLK_DISPCLK}
"""Our names of the clocks -> PPCLK_*."""
PROFILED = ("gfx", "memory", "fabric", "soc")
TEMPERATURES = ("edge", "hotspot", "hotspot gcd", "hotspot mcd", "memory", "vr gfx", "vr memory 0", "vr memory 1",
                "vr soc", "vr u", "liquid 0", "liquid 1", "plx")       # TEMP_e
RAILS = ("gfx", "soc", "vmemp", "vddio memory", "u")                   # SVI_PLANE_e
THROTTLERS = (*TEMPERATURES, "current gfx", "current soc", "current u", "power 0", "power 1", "power 2", "power 3",
              "fit", "apcc")                                           # THROTTLER_*_BIT
ALL_LEVELS = 0xFF               # as index: how many there are (smu_v13_0_get_dpm_freq_by_index)
FINE_GRAINED = 1 << 31          # in that count (smu_v13_0_get_fine_grained_status)
PCIE_SPEEDS = (2.5, 5.0, 8.0, 16.0)         # GT/s (smu_v13_0.c, link_speed)
PCIE_WIDTHS = (0, 1, 2, 4, 8, 12, 16)       # lanes (smu_v13_0.c, link_width)


@dataclass(frozen=True)
class Clock:
    """One clock domain. MHz; ``low`` and ``high`` are the limits that are set now."""

    name: str
    levels: tuple[int, ...]     # those that the firmware has; any between them where it is ``fine``
    fine: bool
    low: int
    high: int


@dataclass(frozen=True)
class Metrics:
    """One look at the SMU's sensors, averages of its own."""

    clocks: dict[str, int]              # MHz
    temperatures: dict[str, int]        # degrees Celsius; sensors that this board has not read 0
    socket_power: int                   # W
    board_power: int                    # W
    power_limit: int                    # W
    voltages: dict[str, int]            # mV
    currents: dict[str, int]            # as the firmware counts them
    gfx_busy: int                       # percent
    memory_busy: int                    # percent
    fan_rpm: int
    fan_percent: int
    pcie: tuple[float, int]             # GT/s, lanes
    throttling: dict[str, int]          # percent of the time, by cause; only those that are not 0
    counter: int                        # of the firmware's own updates
    serial: int
    raw: facts.SmuMetrics_t = field(repr=False, compare=False)

    @classmethod
    def decode(cls, raw: facts.SmuMetrics_t) -> Metrics:
        """From the SMU's table (SmuMetrics_t of smu13_driver_if_v13_0_0.h)."""
        def speed(table: tuple[float, ...] | tuple[int, ...], code: int) -> float:
            return table[code] if code < len(table) else 0
        return cls(
            clocks={name: raw.CurrClock[number] for name, number in CLOCKS.items()},
            temperatures=dict(zip(TEMPERATURES, raw.AvgTemperature, strict=True)),
            socket_power=raw.AverageSocketPower, board_power=raw.AverageTotalBoardPower, power_limit=raw.dGPU_W_MAX,
            voltages=dict(zip(RAILS, raw.AvgVoltage, strict=True)),
            currents=dict(zip(RAILS, raw.AvgCurrent, strict=True)),
            gfx_busy=raw.AverageGfxActivity, memory_busy=raw.AverageUclkActivity, fan_rpm=raw.AvgFanRpm,
            fan_percent=raw.AvgFanPwm,
            pcie=(speed(PCIE_SPEEDS, raw.PcieRate), int(speed(PCIE_WIDTHS, raw.PcieWidth))),
            throttling={name: share for name, share in zip(THROTTLERS, raw.ThrottlingPercentage, strict=True) if share},
            counter=raw.MetricsCounter, serial=raw.PublicSerialNumberUpper << 32 | raw.PublicSerialNumberLower, raw=raw)

    def __str__(self) -> str:
        clocks = ", ".join(f"{name} {self.clocks[name]} MHz" for name in PROFILED)
        hot = ", ".join(f"{name} {degrees} C" for name, degrees in self.temperatures.items() if degrees)
        throttled = ", ".join(f"{name} {share} %" for name, share in self.throttling.items())
        return "\n".join([
            f"{clocks}; graphics {self.gfx_busy} % busy, memory {self.memory_busy} %", hot,
            f"{self.socket_power} W of {self.power_limit} W, board {self.board_power} W; fan {self.fan_rpm} rpm "
            f"({self.fan_percent} %); PCIe {self.pcie[0]:g} GT/s x{self.pcie[1]}",
            f"throttled: {throttled or 'no'}"])


class Power:
    """``card.power``: the limits of the clocks and of the power, until the card is closed."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._ranges: dict[str, tuple[int, int]] = {}       # the firmware's own, of clocks that were asked about
        self._set: dict[str, tuple[int, int]] = {}          # limits that were set
        self._watts: tuple[int, int] | None = None          # (what it was, what was set)

    # -- looking ---------------------------------------------------------------------------------------------------

    def clock(self, name: str) -> Clock:
        """A clock's levels and limits. :raises PowerError: no such clock, or the SMU refuses."""
        number = self._number(name)
        count = self._ask(facts.PPSMC_MSG_GetDpmFreqByIndex, number << 16 | ALL_LEVELS, f"levels of {name}")
        levels = tuple(self._ask(facts.PPSMC_MSG_GetDpmFreqByIndex, number << 16 | index, f"level {index} of {name}")
                       for index in range(count & 0xFF))
        low, high = self._set.get(name, self._range(name))
        return Clock(name, levels, bool(count & FINE_GRAINED), low, high)

    def metrics(self) -> Metrics:
        """The sensors now (smu_cmn_get_metrics_table). :raises PowerError: the SMU refuses."""
        table = facts.SmuMetricsExternal_t.from_buffer_copy(
            self._device.smu.read_table(facts.TABLE_SMU_METRICS, ctypes.sizeof(facts.SmuMetricsExternal_t)))
        return Metrics.decode(table.SmuMetrics)

    @property
    def limit(self) -> int:
        """W that the card may draw."""
        return self._ask(facts.PPSMC_MSG_GetPptLimit, 0, "power limit")

    # -- setting ---------------------------------------------------------------------------------------------------

    def set_clock(self, name: str, low: int | None = None, high: int | None = None) -> None:
        """Keep a clock within [low, high] MHz; None: as far as the firmware goes.

        :raises PowerError: no such clock, limits that it does not have, or the SMU refuses.
        """
        first, last = self._range(name)
        low, high = first if low is None else low, last if high is None else high
        if not first <= low <= high <= last:
            raise PowerError(f"{name} clock: limits {low} to {high} MHz are not within {first} to {last} MHz; ask for "
                             "less, or see clock().levels")
        # a lower limit above the old upper one is not taken: widen first
        self._send_clock(name, first, last)
        self._send_clock(name, low, high)
        if (low, high) == (first, last):
            self._set.pop(name, None)
        else:
            self._set[name] = low, high

    def set_limit(self, watts: int) -> None:
        """W that the card may draw. :raises PowerError: more than the board allows, or the SMU refuses."""
        before = self._watts[0] if self._watts else self.limit
        self._ask(facts.PPSMC_MSG_SetPptLimit, watts, f"power limit of {watts} W (it was {before} W)")
        self._watts = None if watts == before else (before, watts)

    def profile(self, name: Literal["auto", "low", "high"]) -> None:
        """All clocks that computing needs: as the firmware likes, at their lowest level, or at their highest."""
        if name not in ("auto", "low", "high"):
            raise PowerError(f'profile {name!r} is not known; there are "auto", "low" and "high"')
        for clock in PROFILED:
            first, last = self._range(clock)
            self.set_clock(clock, last if name == "high" else None, first if name == "low" else None)

    @contextmanager
    def limits(self, *, watts: int | None = None, **clocks: tuple[int | None, int | None]) -> Iterator[None]:
        """Limits for as long as the block lasts; afterwards they are what they were."""
        before, power = {name: self._set.get(name, (None, None)) for name in clocks}, self.limit
        try:
            for name, (low, high) in clocks.items():
                self.set_clock(name, low, high)
            if watts is not None:
                self.set_limit(watts)
            yield
        finally:
            for name, (low, high) in before.items():
                if name in CLOCKS:
                    self.set_clock(name, low, high)
            if watts is not None:
                self.set_limit(power)

    def restore(self) -> None:
        """Set back everything that was set."""
        for name in list(self._set):
            self.set_clock(name)
        if self._watts is not None:
            self.set_limit(self._watts[0])

    def apply_again(self) -> None:
        """After a reset of the card, which has forgotten."""
        for name, (low, high) in self._set.items():
            self._send_clock(name, low, high)
        if self._watts is not None:
            self._ask(facts.PPSMC_MSG_SetPptLimit, self._watts[1], "power limit")

    # -- the SMU ---------------------------------------------------------------------------------------------------

    def _number(self, name: str) -> int:
        if name not in CLOCKS:
            raise PowerError(f"there is no clock {name!r}; there are {', '.join(CLOCKS)}")
        return CLOCKS[name]

    def _range(self, name: str) -> tuple[int, int]:
        number = self._number(name)
        if name not in self._ranges:
            self._ranges[name] = (self._ask(facts.PPSMC_MSG_GetMinDpmFreq, number << 16, f"lowest {name} clock"),
                                  self._ask(facts.PPSMC_MSG_GetMaxDpmFreq, number << 16, f"highest {name} clock"))
        return self._ranges[name]

    def _send_clock(self, name: str, low: int, high: int) -> None:
        number = self._number(name) << 16
        self._ask(facts.PPSMC_MSG_SetSoftMaxByFreq, number | high, f"{name} clock of at most {high} MHz")
        self._ask(facts.PPSMC_MSG_SetSoftMinByFreq, number | low, f"{name} clock of at least {low} MHz")

    def _ask(self, message: int, argument: int, what: str) -> int:
        try:
            return self._device.smu.send(message, argument)
        except BootError as error:
            raise PowerError(f"{what}: {error}") from error
