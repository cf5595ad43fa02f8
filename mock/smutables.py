"""The tables that the SMU hands out: the power-play table, the driver's table around it, level tables, metrics.

Layouts: Linux 6.1, smu13_driver_if_v13_0_0.h (through :mod:`amdrv.facts.smu13`) and smu_v13_0_0_pptable.h
(smu_13_0_0_powerplay_table, packed: what TABLE_COMBO_PPTABLE transfers, in a region of 0x4000 bytes,
smu_v13_0_0_ppt.c, MP0_MP1_DATA_REGION_SIZE_COMBOPPTABLE). The figures in them are ours, in the range of the card's:
AMD does not publish the boards' tables.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from amdrv.facts import smu13 as facts

__all__ = ["COMBO_BYTES", "FEATURES", "LINK_LEVELS", "PPT_LIMIT_WATTS", "TEMPERATURE_LIMITS", "Powerplay", "combo",
           "driver_info", "pptable"]

COMBO_BYTES = 0x4000
PPT_LIMIT_WATTS = 303
TDC_LIMIT_AMPERES = (330, 55, 63)                           # TDC_THROTTLER_GFX, SOC, U
TEMPERATURE_LIMITS = {facts.TEMP_EDGE: 100, facts.TEMP_HOTSPOT: 110, facts.TEMP_HOTSPOT_G: 110,
                      facts.TEMP_HOTSPOT_M: 100, facts.TEMP_MEM: 108, facts.TEMP_VR_GFX: 115, facts.TEMP_VR_MEM0: 115,
                      facts.TEMP_VR_MEM1: 115, facts.TEMP_VR_SOC: 115, facts.TEMP_VR_U: 115}
"""Degrees Celsius."""
SHUTDOWN_TEMPERATURE = 118
LINK_LEVELS = ((0, 6, 311), (3, 6, 619))
"""(speed code, width code, LCLK in MHz) of the PCIe link's levels (Linux 6.1, smu_v13_0.c, link_speed, link_width)."""
BASE_CLOCK, GAME_CLOCK, BOOST_CLOCK = 1855, 2269, 2499      # MHz
FAN_RPM = 3300
WITHOUT = (facts.FEATURE_LED_DISPLAY_BIT, facts.FEATURE_SMARTSHIFT_BIT, facts.FEATURE_OUT_OF_BAND_MONITOR_BIT,
           facts.FEATURE_GFX_READ_MARGIN_BIT)
FEATURES = (1 << facts.FEATURE_SPARE_51_BIT) - 1 & ~sum(1 << bit for bit in WITHOUT)
"""Mask of the features that this board's table asks PMFW to run."""

# smu_v13_0_0_pptable.h
FORMAT_REVISION, TABLE_REVISION, FORMAT_ID = 15, 2, 0x80
CAP_POWERPLAY, CAP_BACO, CAP_MACO = 0x1, 0x8, 0x10
THERMAL_CONTROLLER_NAVI21 = 28
OVERDRIVE_VERSION, OD_FEATURES, OD_SETTINGS = 0x81, 16, 30
OD_POWER_LIMIT_CAP, OD_POWER_PERCENTAGE = 3, 8

TABLES = {facts.PPCLK_GFXCLK: "FreqTableGfx", facts.PPCLK_VCLK_0: "FreqTableVclk", facts.PPCLK_DCLK_0: "FreqTableDclk",
          facts.PPCLK_SOCCLK: "FreqTableSocclk", facts.PPCLK_UCLK: "FreqTableUclk",
          facts.PPCLK_DISPCLK: "FreqTableDispclk", facts.PPCLK_DPPCLK: "FreqTableDppClk",
          facts.PPCLK_DPREFCLK: "FreqTableDprefclk", facts.PPCLK_DCFCLK: "FreqTableDcfclk",
          facts.PPCLK_DTBCLK: "FreqTableDtbclk", facts.PPCLK_FCLK: "FreqTableFclk"}

u8, u16, u32 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32


class _Overdrive(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("revision", u8), ("reserve", u8 * 3), ("feature_count", u32), ("setting_count", u32), ("cap", u8 * 32),
                ("max", u32 * 64), ("min", u32 * 64), ("pm_setting", ctypes.c_int16 * 32)]


class Powerplay(ctypes.Structure):
    """smu_13_0_0_powerplay_table."""

    _pack_ = 1
    _fields_ = [("structuresize", u16), ("format_revision", u8), ("content_revision", u8), ("table_revision", u8),
                ("padding", u8), ("table_size", u16), ("golden_pp_id", u32), ("golden_revision", u32),
                ("format_id", u16), ("platform_caps", u32), ("thermal_controller_type", u8),
                ("small_power_limit1", u16), ("small_power_limit2", u16), ("boost_power_limit", u16),
                ("software_shutdown_temp", u16), ("reserve", u32 * 45), ("overdrive_table", _Overdrive),
                ("padding1", u8), ("smc_pptable", u8 * ctypes.sizeof(facts.PPTable_t))]


def _levels(table: Any, clocks: Mapping[int, Sequence[int]]) -> None:
    for clock, name in TABLES.items():
        row = getattr(table, name)
        for i, mhz in enumerate(clocks[clock][:len(row)]):
            row[i] = mhz


def pptable(clocks: Mapping[int, Sequence[int]], fine: Sequence[int]) -> facts.PPTable_t:
    """PPTable_t for the levels of the clocks; ``fine`` are those that take every frequency between two levels."""
    table = facts.PPTable_t()
    sku: Any = table.SkuTable
    sku.FeaturesToRun[0], sku.FeaturesToRun[1] = FEATURES & 0xFFFFFFFF, FEATURES >> 32
    sku.SocketPowerLimitAc[0] = sku.SocketPowerLimitDc[0] = PPT_LIMIT_WATTS
    for i, limit in enumerate(TDC_LIMIT_AMPERES):
        sku.VrTdcLimit[i] = sku.PlatformTdcLimit[i] = limit
    for sensor, limit in TEMPERATURE_LIMITS.items():
        sku.TemperatureLimit[sensor] = sku.MsgLimits.Temperature[sensor] = limit
        sku.FwCtfLimit[sensor] = limit + 5
    sku.HwCtfTempLimit = SHUTDOWN_TEMPERATURE + 5
    sku.MsgLimits.Power[0][facts.POWER_SOURCE_AC] = sku.MsgLimits.Power[0][facts.POWER_SOURCE_DC] = PPT_LIMIT_WATTS
    for clock, levels in clocks.items():
        sku.DpmDescriptor[clock].NumDiscreteLevels = len(levels)
        sku.DpmDescriptor[clock].SnapToDiscrete = int(clock not in fine)
        sku.DcModeMaxFreq[clock] = levels[-1]
    _levels(sku, clocks)
    sku.GfxclkFreqCap = clocks[facts.PPCLK_GFXCLK][-1]
    sku.GfxclkThrottleClock = clocks[facts.PPCLK_GFXCLK][0]
    for i, (speed, width, lclk) in enumerate(LINK_LEVELS):
        sku.PcieGenSpeed[i], sku.PcieLaneCount[i], sku.LclkFreq[i] = speed, width, lclk
    sku.FanMaximumRpm, sku.FanPwmMin, sku.FanTachEdgePerRev, sku.FanZeroRpmEnable = FAN_RPM, 15, 2, 1
    clock = sku.DriverReportedClocks
    clock.BaseClockAc = clock.BaseClockDc = BASE_CLOCK
    clock.GameClockAc = clock.GameClockDc = GAME_CLOCK
    clock.BoostClockAc = clock.BoostClockDc = BOOST_CLOCK
    boot: Any = sku.BootValues
    boot.InitGfx, boot.InitSoc, boot.InitU = 700, 700, 700
    boot.InitSocclk, boot.InitFclk = clocks[facts.PPCLK_SOCCLK][0], clocks[facts.PPCLK_FCLK][0]
    table.BoardTable.DramWidth = 12             # channels of 32 bits: 384 in all
    return table


def combo(clocks: Mapping[int, Sequence[int]], fine: Sequence[int]) -> bytes:
    """What TABLE_COMBO_PPTABLE gives: the driver's table, PPTable_t at its end, zeros to the region's."""
    table = Powerplay()
    table.structuresize = ctypes.sizeof(Powerplay)
    table.format_revision, table.content_revision = FORMAT_REVISION, 0
    table.table_revision, table.format_id = TABLE_REVISION, FORMAT_ID
    table.table_size = Powerplay.smc_pptable.offset
    table.platform_caps = CAP_POWERPLAY | CAP_BACO | CAP_MACO
    table.thermal_controller_type = THERMAL_CONTROLLER_NAVI21
    table.software_shutdown_temp = SHUTDOWN_TEMPERATURE
    overdrive: Any = table.overdrive_table
    overdrive.revision, overdrive.feature_count, overdrive.setting_count = OVERDRIVE_VERSION, OD_FEATURES, OD_SETTINGS
    overdrive.cap[OD_POWER_LIMIT_CAP] = 1
    overdrive.max[OD_POWER_PERCENTAGE] = 15
    ctypes.memmove(table.smc_pptable, bytes(pptable(clocks, fine)), ctypes.sizeof(facts.PPTable_t))
    return bytes(table).ljust(COMBO_BYTES, b"\0")


def driver_info(clocks: Mapping[int, Sequence[int]]) -> bytes:
    table = facts.DriverInfoTable_t()
    _levels(table, clocks)
    for clock, levels in clocks.items():
        table.DcModeMaxFreq[clock] = levels[-1]
    return bytes(table)
