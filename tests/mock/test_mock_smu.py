"""SMU mailbox: results, features, clocks, tables, GFXOFF, mode-1 reset."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from amdrv.facts import smu13
from mock.smu import CLOCKS, FIRMWARE_FLAGS
from mock.smutables import COMBO_BYTES, Powerplay

OK, FAILED, UNKNOWN = smu13.PPSMC_Result_OK, smu13.PPSMC_Result_Failed, smu13.PPSMC_Result_UnknownCmd
PREREQ = smu13.PPSMC_Result_CmdRejectedPrereq
BUFFER = 0x400000


def flags(card: Any) -> int:
    card.write("BIF_BX_PF0_RSMU_INDEX", FIRMWARE_FLAGS)
    return int(card.read("BIF_BX_PF0_RSMU_DATA"))


def test_nothing_answers_before_the_firmware_runs(card: Any) -> None:
    card.setup()
    assert flags(card) == 0
    card.write("MP1_SMN_C2PMSG_66", smu13.PPSMC_MSG_TestMessage)
    assert card.read("MP1_SMN_C2PMSG_90") == 0 and "does not run" in card.rule("smu-dead")


def test_messages(card: Any) -> None:
    card.start_smu()
    assert flags(card) & 1
    assert card.smu(smu13.PPSMC_MSG_TestMessage, 41) == (OK, 42)
    assert card.smu(smu13.PPSMC_MSG_GetDriverIfVersion) == (OK, smu13.SMU13_DRIVER_IF_VERSION_SMU_V13_0_0_0)
    assert card.smu(smu13.PPSMC_MSG_GetSmuVersion)[1] >> 16 == 78
    assert card.smu(0x7F)[0] == UNKNOWN
    assert card.smu(smu13.PPSMC_MSG_EnterBaco)[0] == UNKNOWN
    assert card.smu(smu13.PPSMC_MSG_SetWorkloadMask, 3)[0] == OK
    assert card.board.smu.settings["SetWorkloadMask"] == 3
    assert card.smu(smu13.PPSMC_MSG_PrepareMp1ForUnload)[0] == OK
    assert flags(card) == 0


def test_an_old_result_is_no_new_one(card: Any) -> None:
    card.start_smu()
    assert card.smu(smu13.PPSMC_MSG_TestMessage, 41) == (OK, 42)
    held = threading.Event()
    card.board.engine("smu").post(held.wait)                            # the firmware is slow this time
    card.write("MP1_SMN_C2PMSG_82", 7)
    card.write("MP1_SMN_C2PMSG_66", smu13.PPSMC_MSG_TestMessage)        # without clearing C2PMSG_90
    assert card.read("MP1_SMN_C2PMSG_90") == OK and card.read("MP1_SMN_C2PMSG_82") == 7
    held.set()
    assert card.board.engine("smu").wait_idle() and card.read("MP1_SMN_C2PMSG_82") == 8


def test_features(card: Any) -> None:
    card.start_smu()
    running = lambda: card.smu(smu13.PPSMC_MSG_GetRunningSmuFeaturesHigh)[1] << 32 \
        | card.smu(smu13.PPSMC_MSG_GetRunningSmuFeaturesLow)[1]
    assert running() == 0
    card.smu(smu13.PPSMC_MSG_SetAllowedFeaturesMaskLow, 0xFFFFFFFF & ~(1 << smu13.FEATURE_GFXOFF_BIT))
    card.smu(smu13.PPSMC_MSG_EnableAllSmuFeatures)
    assert running() >> smu13.FEATURE_DPM_GFXCLK_BIT & 1 and not running() >> smu13.FEATURE_GFXOFF_BIT & 1
    card.smu(smu13.PPSMC_MSG_DisableSmuFeaturesLow, 1 << smu13.FEATURE_DPM_GFXCLK_BIT)
    assert not running() >> smu13.FEATURE_DPM_GFXCLK_BIT & 1
    card.smu(smu13.PPSMC_MSG_EnableSmuFeaturesHigh, 1 << smu13.FEATURE_GFX_IMU_BIT - 32)
    assert running() >> smu13.FEATURE_GFX_IMU_BIT & 1
    card.smu(smu13.PPSMC_MSG_DisableAllSmuFeatures)
    assert running() == 0


@pytest.mark.parametrize("clock", [smu13.PPCLK_GFXCLK, smu13.PPCLK_UCLK])
def test_clock_levels(card: Any, clock: int) -> None:
    card.start_smu()
    result, count = card.smu(smu13.PPSMC_MSG_GetDpmFreqByIndex, clock << 16 | 0xFF)
    assert result == OK and count & 0x7FFFFFFF == len(CLOCKS[clock])
    levels = [card.smu(smu13.PPSMC_MSG_GetDpmFreqByIndex, clock << 16 | i)[1] for i in range(count & 0xFF)]
    assert levels == sorted(levels) == list(CLOCKS[clock])
    assert card.smu(smu13.PPSMC_MSG_GetDpmFreqByIndex, clock << 16 | len(levels))[0] == FAILED
    assert card.smu(smu13.PPSMC_MSG_GetMinDpmFreq, clock << 16) == (OK, levels[0])
    assert card.smu(smu13.PPSMC_MSG_GetMaxDpmFreq, clock << 16) == (OK, levels[-1])
    assert card.smu(smu13.PPSMC_MSG_SetSoftMinByFreq, 99 << 16 | 5)[0] == FAILED


def test_metrics_go_to_the_drivers_memory(card: Any) -> None:
    card.start_smu()
    assert card.smu(smu13.PPSMC_MSG_TransferTableSmu2Dram, smu13.TABLE_SMU_METRICS)[0] == PREREQ
    card.smu(smu13.PPSMC_MSG_SetDriverDramAddrHigh, 0x80)
    card.smu(smu13.PPSMC_MSG_SetDriverDramAddrLow, BUFFER)
    assert card.smu(smu13.PPSMC_MSG_SetSoftMinByFreq, smu13.PPCLK_UCLK << 16 | 1249)[0] == OK
    assert card.smu(smu13.PPSMC_MSG_TransferTableSmu2Dram, smu13.TABLE_SMU_METRICS)[0] == OK
    table = smu13.SmuMetricsExternal_t.from_buffer_copy(card.memory(BUFFER, 1024).tobytes())
    assert table.SmuMetrics.CurrClock[smu13.PPCLK_UCLK] == 1249
    card.memory(BUFFER, 16)[:] = 7
    card.flush()
    assert card.smu(smu13.PPSMC_MSG_TransferTableDram2Smu, smu13.TABLE_WATERMARKS)[0] == OK
    card.memory(BUFFER, 16)[:] = 0
    card.flush()
    assert card.smu(smu13.PPSMC_MSG_TransferTableSmu2Dram, smu13.TABLE_WATERMARKS)[0] == OK
    assert (card.memory(BUFFER, 16) == 7).all()
    assert card.smu(smu13.PPSMC_MSG_TransferTableSmu2Dram, 77)[0] == FAILED
    card.smu(smu13.PPSMC_MSG_SetDriverDramAddrHigh, 0xFF)
    assert card.smu(smu13.PPSMC_MSG_TransferTableSmu2Dram, smu13.TABLE_SMU_METRICS)[0] == FAILED


def test_gfxoff_takes_the_registers_of_gc_away(card: Any) -> None:
    card.start_smu()
    card.board.psp.autoload_done = True
    card.write("SCRATCH_REG0", 0x1234)
    card.smu(smu13.PPSMC_MSG_AllowGfxOff)
    card.wait(lambda: card.board.engine("smu").idle)
    assert card.read("SCRATCH_REG0") == 0 and "SCRATCH_REG0" in card.rule("gfxoff")
    card.write("SCRATCH_REG0", 5)
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == 64
    assert card.smu(smu13.PPSMC_MSG_DisallowGfxOff)[0] == OK
    assert card.read("SCRATCH_REG0") == 0x1234


def test_gfxoff_rule_can_be_switched_off(make_card: Callable[..., Any]) -> None:
    card = make_card(strict="-gfxoff")
    card.start_smu()
    card.board.psp.autoload_done = True
    card.write("SCRATCH_REG0", 0x1234)
    card.smu(smu13.PPSMC_MSG_AllowGfxOff)
    assert card.read("SCRATCH_REG0") == 0x1234


def test_mode_1_reset_wipes(card: Any) -> None:
    card.start_smu()
    memory = card.memory(0x800000, 4096)
    memory[:] = 9
    card.write("SCRATCH_REG0", 0x1234)
    card.flush()
    assert card.smu(smu13.PPSMC_MSG_Mode1Reset)[0] == OK
    card.wait(lambda: card.board.engine("smu").idle)
    assert card.read("MP0_SMN_C2PMSG_35") == 0          # the card's own firmware starts first
    card.wait(lambda: card.read("MP0_SMN_C2PMSG_33"))
    assert card.read("MP0_SMN_C2PMSG_35") == 1 << 31 and card.read("MP0_SMN_C2PMSG_81") == 0
    assert not (memory == 9).all() and flags(card) == 0
    assert card.read("SCRATCH_REG0") == 0
    card.start_smu()                                    # and all again


def test_faults(card: Any) -> None:
    card.start_smu()
    card.board.faults.inject("smu-wrong", count=1, message=smu13.PPSMC_MSG_TestMessage, result=0xFF, argument=3)
    assert card.smu(smu13.PPSMC_MSG_TestMessage, 1) == (0xFF, 3)
    card.board.faults.inject("smu-busy", count=1)
    assert card.smu(smu13.PPSMC_MSG_TestMessage, 1)[0] == smu13.PPSMC_Result_CmdRejectedBusy
    card.board.faults.inject("smu-silent", count=1)
    card.write("MP1_SMN_C2PMSG_90", 0)
    card.write("MP1_SMN_C2PMSG_66", smu13.PPSMC_MSG_TestMessage)
    assert card.board.engine("smu").wait_idle() and card.read("MP1_SMN_C2PMSG_90") == 0
    assert card.smu(smu13.PPSMC_MSG_TestMessage, 1) == (OK, 2)
    assert np.uint32(card.board.counters["smu_messages"]) == 3


def test_the_debug_mailbox_resets_the_card(card: Any) -> None:
    """Linux 6.1, smu_v13_0_0_ppt.c: message in C2PMSG_75, result in C2PMSG_54, which outlives the reset."""
    card.start_smu()
    card.write("MP1_SMN_C2PMSG_54", 0)
    card.write("MP1_SMN_C2PMSG_75", 77)
    assert card.wait(lambda: card.read("MP1_SMN_C2PMSG_54")) == smu13.PPSMC_Result_UnknownCmd
    card.write("MP1_SMN_C2PMSG_54", 0)
    card.write("MP1_SMN_C2PMSG_75", 2)
    card.wait(lambda: not card.board.smu.alive)
    assert card.wait(lambda: card.read("MP1_SMN_C2PMSG_54")) == smu13.PPSMC_Result_OK
    card.write("MP1_SMN_C2PMSG_75", 2)
    assert "whose firmware does not run" in card.rule("smu-dead")


def table(card: Any, number: int, size: int) -> bytes:
    card.smu(smu13.PPSMC_MSG_SetDriverDramAddrHigh, 0x80)
    card.smu(smu13.PPSMC_MSG_SetDriverDramAddrLow, BUFFER)
    card.memory(BUFFER, size)[:] = 0xEE
    card.flush()
    assert card.smu(smu13.PPSMC_MSG_TransferTableSmu2Dram, number)[0] == OK
    return bytes(card.memory(BUFFER, size).tobytes())


def test_the_power_play_table_is_filled(card: Any) -> None:
    """What a driver takes from it: limits, levels with true counts, link levels, features; and it agrees with the
    messages that tell the same."""
    card.start_smu()
    driver = Powerplay.from_buffer_copy(table(card, smu13.TABLE_COMBO_PPTABLE, COMBO_BYTES))
    assert (driver.format_revision, driver.table_revision, driver.format_id) == (15, 2, 0x80)
    assert driver.structuresize == ctypes.sizeof(Powerplay) and 90 < driver.software_shutdown_temp < 130
    assert driver.table_size == ctypes.sizeof(Powerplay) - ctypes.sizeof(smu13.PPTable_t)
    sku = smu13.PPTable_t.from_buffer_copy(bytes(driver.smc_pptable)).SkuTable
    same = smu13.PPTable_t.from_buffer_copy(table(card, smu13.TABLE_PPTABLE, ctypes.sizeof(smu13.PPTable_t))).SkuTable
    assert bytes(sku) == bytes(same)
    assert sku.SocketPowerLimitAc[0] == card.smu(smu13.PPSMC_MSG_GetPptLimit)[1]
    for clock, levels in CLOCKS.items():
        count = card.smu(smu13.PPSMC_MSG_GetDpmFreqByIndex, clock << 16 | 0xFF)[1]
        assert sku.DpmDescriptor[clock].NumDiscreteLevels == count & 0xFF == len(levels)
        assert sku.DpmDescriptor[clock].SnapToDiscrete == 1 - (count >> 31)
    assert list(sku.FreqTableUclk) == list(CLOCKS[smu13.PPCLK_UCLK])
    assert sku.FreqTableGfx[1] == card.smu(smu13.PPSMC_MSG_GetMaxDpmFreq, smu13.PPCLK_GFXCLK << 16)[1]
    assert sku.TemperatureLimit[smu13.TEMP_HOTSPOT] >= sku.TemperatureLimit[smu13.TEMP_EDGE] > 60
    assert sku.PcieGenSpeed[1] == 3 and sku.PcieLaneCount[1] == 6 and sku.FanMaximumRpm > 1000
    clocks = sku.DriverReportedClocks
    assert CLOCKS[0][0] < clocks.BaseClockAc < clocks.GameClockAc < clocks.BoostClockAc <= CLOCKS[0][-1]
    card.smu(smu13.PPSMC_MSG_EnableAllSmuFeatures)
    assert sku.FeaturesToRun[0] == card.smu(smu13.PPSMC_MSG_GetRunningSmuFeaturesLow)[1]
    assert sku.FeaturesToRun[1] == card.smu(smu13.PPSMC_MSG_GetRunningSmuFeaturesHigh)[1]


def test_a_driver_may_give_another_power_play_table(card: Any) -> None:
    card.start_smu()
    mine = bytearray(table(card, smu13.TABLE_PPTABLE, ctypes.sizeof(smu13.PPTable_t)))
    mine[100] ^= 0xFF
    card.memory(BUFFER, len(mine))[:] = np.frombuffer(mine, np.uint8)
    card.flush()
    assert card.smu(smu13.PPSMC_MSG_TransferTableDram2Smu, smu13.TABLE_PPTABLE)[0] == OK
    assert table(card, smu13.TABLE_PPTABLE, len(mine)) == mine


def test_metrics_are_filled(card: Any) -> None:
    card.start_smu()
    size = ctypes.sizeof(smu13.SmuMetricsExternal_t)
    first = smu13.SmuMetricsExternal_t.from_buffer_copy(table(card, smu13.TABLE_SMU_METRICS, size)).SmuMetrics
    second = smu13.SmuMetricsExternal_t.from_buffer_copy(table(card, smu13.TABLE_SMU_METRICS, size)).SmuMetrics
    assert second.MetricsCounter == first.MetricsCounter + 1 and second.EnergyAccumulator > first.EnergyAccumulator
    assert 0 < first.AverageSocketPower < first.AverageTotalBoardPower <= first.dGPU_W_MAX == 303
    assert 20 < first.AvgTemperature[smu13.TEMP_HOTSPOT] < 100 and first.AvgVoltage[0] > 500
    assert (first.PcieRate, first.PcieWidth) == (3, 6) and first.PublicSerialNumberUpper and not first.PCIeBusy
    assert not any(first.ThrottlingPercentage)
    card.smu(smu13.PPSMC_MSG_SetPptLimit, 200)
    third = smu13.SmuMetricsExternal_t.from_buffer_copy(table(card, smu13.TABLE_SMU_METRICS, size)).SmuMetrics
    assert third.dGPU_W_MAX == 200


def test_driver_and_ecc_tables(card: Any) -> None:
    card.start_smu()
    info = smu13.DriverInfoTable_t.from_buffer_copy(
        table(card, smu13.TABLE_DRIVER_INFO, ctypes.sizeof(smu13.DriverInfoTable_t)))
    assert list(info.FreqTableUclk) == list(CLOCKS[smu13.PPCLK_UCLK]) and info.DcModeMaxFreq[0] == CLOCKS[0][-1]
    card.board.faults.inject("ecc-error", address=0x700)
    size = ctypes.sizeof(smu13.EccInfoTable_t)
    seen = smu13.EccInfoTable_t.from_buffer_copy(table(card, smu13.TABLE_ECCINFO, size))
    assert seen.EccInfo[7].ce_count_lo_chip == 1
    assert not any(table(card, smu13.TABLE_ECCINFO, size))
