"""Clock and power limits are set, felt, and set back; sensors are read from the SMU's table."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
from test_boot import everything_works

import mock
from amdrv.device import Device
from amdrv.errors import AmdrvError, PowerError
from amdrv.facts import smu13
from amdrv.power import CLOCKS, Metrics
from mock.smu import CLOCKS as LEVELS

Boot = Callable[[], Device]


def limits(board: object) -> dict[int, list[int]]:
    return {clock: list(pair) for clock, pair in board.smu._limits.items()}      # type: ignore[attr-defined]


def test_clocks_are_what_the_firmware_has(boot: Boot) -> None:
    device = boot()
    for name, number in CLOCKS.items():
        clock = device.power.clock(name)
        assert clock.levels == LEVELS[number] and (clock.low, clock.high) == (LEVELS[number][0], LEVELS[number][-1])
    assert device.power.clock("gfx").fine and not device.power.clock("memory").fine


def test_limits_are_felt_and_set_back_at_the_end(boot: Boot, machine: mock.Machine) -> None:
    device, board = boot(), machine.gpus[0]
    before, watts = limits(board), device.power.limit
    device.power.set_clock("gfx", 700, 900)
    device.power.set_clock("gfx", 1000, 1200)           # above the old upper limit
    device.power.set_clock("memory", high=456)
    device.power.set_limit(200)
    assert device.metrics().clocks["gfx"] == 1000 and device.power.clock("gfx").high == 1200
    assert device.metrics().power_limit == device.power.limit == 200
    assert limits(board)[smu13.PPCLK_UCLK] == [96, 456]
    with device.power.limits(gfx=(600, 800), watts=150):
        assert limits(board)[smu13.PPCLK_GFXCLK] == [600, 800] and device.power.limit == 150
    assert limits(board)[smu13.PPCLK_GFXCLK] == [1000, 1200] and device.power.limit == 200
    device.close()
    assert limits(board) == before and board.smu._ppt == watts and device.shutdown_errors == []
    assert boot().warm


@pytest.mark.parametrize(("name", "index"), [("high", -1), ("low", 0)])
def test_profiles(boot: Boot, machine: mock.Machine, name: str, index: int) -> None:
    device = boot()
    before = limits(machine.gpus[0])
    device.power.profile(name)      # type: ignore[arg-type]
    for clock in ("gfx", "memory", "fabric", "soc"):
        assert set(limits(machine.gpus[0])[CLOCKS[clock]]) == {LEVELS[CLOCKS[clock]][index]}
    device.power.profile("auto")
    assert limits(machine.gpus[0]) == before


def test_limits_outlive_a_reset_of_the_card_and_end_with_an_exception(boot: Boot, machine: mock.Machine) -> None:
    device, board = boot(), machine.gpus[0]
    with pytest.raises(RuntimeError), device.power.limits(soc=(600, None), watts=100):
        device.reset()
        assert limits(board)[smu13.PPCLK_SOCCLK] == [600, 1200] and device.power.limit == 100
        raise RuntimeError
    assert limits(board)[smu13.PPCLK_SOCCLK] == [500, 1200] and device.power.limit == mock.smu.PPT_LIMIT_WATTS
    everything_works(device)


def test_what_is_refused(boot: Boot, machine: mock.Machine) -> None:
    device, board = boot(), machine.gpus[0]
    before = limits(board)
    for low, high in ((1, 900), (900, 700), (None, 99_999)):
        with pytest.raises(PowerError, match=r"gfx clock: limits .* are not within 500 to 2526 MHz"):
            device.power.set_clock("gfx", low, high)
    with pytest.raises(PowerError, match="there is no clock 'warp'; there are gfx, memory"):
        device.power.set_clock("warp", 1, 2)
    with pytest.raises(PowerError, match="profile 'ludicrous' is not known"):
        device.power.profile("ludicrous")       # type: ignore[arg-type]
    with pytest.raises(PowerError, match=r"power limit of 9000 W \(it was 303 W\): SMU message SetPptLimit.*refused"):
        device.power.set_limit(9000)
    with pytest.raises(PowerError, match="there is no clock"), device.power.limits(gfx=(600, 700), warp=(1, 2)):
        pytest.fail("not reached")
    assert limits(board) == before
    board.faults.inject("smu-wrong", message=smu13.PPSMC_MSG_TransferTableSmu2Dram, result=0xFF, count=1)
    with pytest.raises(PowerError, match=r"table .* of the SMU: .*TransferTableSmu2Dram.*refused with Failed"):
        device.metrics()
    device.metrics()
    device.close()
    with pytest.raises(AmdrvError, match="is closed"):
        device.metrics()


def test_metrics_are_those_of_the_table(boot: Boot, machine: mock.Machine) -> None:
    device, board = boot(), machine.gpus[0]
    found = device.metrics()
    expected = smu13.SmuMetricsExternal_t.from_buffer_copy(board.smu._metrics()).SmuMetrics
    assert found.counter + 1 == expected.MetricsCounter
    assert found.temperatures["hotspot"] == expected.AvgTemperature[smu13.TEMP_HOTSPOT] > 0
    assert found.pcie == (16.0, 16) and found.serial >> 32 == 0x6D6F636B and found.throttling == {}
    assert found.voltages["gfx"] == expected.AvgVoltage[0] and found.socket_power == expected.AverageSocketPower
    board.faults.inject("clock-drop", clock=smu13.PPCLK_GFXCLK, mhz=500, celsius=115)
    hot = device.metrics()
    assert hot.throttling == {"hotspot": 100} and hot.temperatures["hotspot"] == 115
    assert "throttled: hotspot 100 %" in str(hot) and "gfx 500 MHz" in str(hot) and "throttled: no" in str(found)


def test_every_byte_of_the_table_has_its_place() -> None:
    raw = smu13.SmuMetrics_t.from_buffer_copy(bytes(i * 7 & 0xFF for i in range(ctypes.sizeof(smu13.SmuMetrics_t))))
    found = Metrics.decode(raw)
    assert found.clocks["memory"] == raw.CurrClock[2] and found.fan_rpm == raw.AvgFanRpm
    assert found.pcie == (0, 0)         # codes that nobody knows
    assert len(found.throttling) == sum(1 for share in raw.ThrottlingPercentage if share)
