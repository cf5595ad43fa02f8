"""Temperatures, fan, power, clocks, voltages, throttling, usage: one shape, from whoever can tell.

Of a card that we drive the SMU's metrics table tells (``Device.metrics``; Linux 6.1, smu_v13_0_0_ppt.c,
smu_v13_0_0_get_gpu_metrics), of one that amdgpu drives its files in sysfs
(:mod:`tools.amdrv_info.kernel`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amdrv.facts import smu13 as facts

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["CLOCKS", "THROTTLERS", "empty", "of_device", "of_metrics"]

CLOCKS = {"gfx": facts.PPCLK_GFXCLK, "soc": facts.PPCLK_SOCCLK, "memory": facts.PPCLK_UCLK, "fabric": facts.PPCLK_FCLK,
          "video": facts.PPCLK_VCLK_0, "decode": facts.PPCLK_DCLK_0}
TEMPERATURES = {name.removeprefix("TEMP_").lower(): number for name, number in facts.ENUMS["TEMP_e"].items()
                if name != "TEMP_COUNT"}
VOLTAGES = ("gfx", "soc", "memory", "memory I/O")       # SVI_PLANE_* (smu13_driver_if_v13_0_0.h)
THROTTLERS = ("edge temperature", "hotspot temperature", "hotspot temperature of graphics",
              "hotspot temperature of memory dies", "memory temperature", "temperature of the graphics regulator",
              "temperature of memory regulator 0", "temperature of memory regulator 1",
              "temperature of the SoC regulator", "temperature of the U regulator", "liquid temperature 0",
              "liquid temperature 1", "PLX temperature", "current of graphics (TDC)", "current of the SoC (TDC)",
              "current of U (TDC)", "power limit 0", "power limit 1", "power limit 2", "power limit 3",
              "infrastructure limit (FIT)", "APCC+ of graphics")
"""By bit (smu13_driver_if_v13_0_0.h, THROTTLER_*_BIT)."""


def empty(source: str) -> dict[str, Any]:
    """The shape, with nothing known: numbers are null and groups empty."""
    return {"source": source, "temperatures": {}, "fan": {"rpm": None, "percent": None},
            "power": {"socket_watts": None, "board_watts": None, "limit_watts": None}, "energy_joules": None,
            "clocks_mhz": {}, "voltages_mv": {}, "usage_percent": {"gfx": None, "memory": None, "video": None},
            "throttling": []}


def of_device(device: Device) -> dict[str, Any]:
    """Of a card that this process drives. :raises PowerError: the SMU refuses, or does not answer."""
    return of_metrics(device.metrics().raw)


def of_metrics(metrics: facts.SmuMetrics_t) -> dict[str, Any]:
    """A metrics table as sensors; clocks are averages as amdgpu takes them: before or after deep sleep, by activity."""
    said = empty("SMU metrics")
    said["temperatures"] = {name: int(metrics.AvgTemperature[number]) for name, number in TEMPERATURES.items()
                            if metrics.AvgTemperature[number]}
    said["fan"] = {"rpm": int(metrics.AvgFanRpm), "percent": int(metrics.AvgFanPwm)}
    said["power"] = {"socket_watts": int(metrics.AverageSocketPower),
                     "board_watts": int(metrics.AverageTotalBoardPower), "limit_watts": int(metrics.dGPU_W_MAX)}
    said["clocks_mhz"] = {name: int(metrics.CurrClock[number]) for name, number in CLOCKS.items()}
    said["voltages_mv"] = {name: int(metrics.AvgVoltage[number]) for number, name in enumerate(VOLTAGES)
                           if metrics.AvgVoltage[number]}
    said["usage_percent"] = {"gfx": int(metrics.AverageGfxActivity), "memory": int(metrics.AverageUclkActivity),
                             "video": max(int(metrics.Vcn0ActivityPercentage), int(metrics.Vcn1ActivityPercentage))}
    said["throttling"] = [{"reason": name, "percent": int(metrics.ThrottlingPercentage[number])}
                          for number, name in enumerate(THROTTLERS) if metrics.ThrottlingPercentage[number]]
    return said
