"""SMU: the mailbox of the power-management firmware, clocks, features, tables, GFXOFF, mode-1 reset.

C2PMSG_82 takes the argument, C2PMSG_66 the message; the driver clears C2PMSG_90 before, which then becomes the result,
and C2PMSG_82 what the SMU returns (Linux 6.1, smu_cmn.c, smu_cmn_send_smc_msg_with_param). A driver that does not clear
it takes the last result for the new one. The firmware runs from the moment
that the PSP loaded it until PrepareMp1ForUnload; FIRMWARE_FLAGS, at an SMN address, says so. Before that, nothing
answers.

GFXOFF: while it is allowed (AllowGfxOff; PMFW starts with it disallowed, as Linux's boot relies on) and GC has nothing
to do, GC has no power: its registers read as 0 and writes to them are lost. A doorbell wakes GC for as long as there is
work. The state belongs to the SMU, so it outlives a driver: the next one must send DisallowGfxOff before it touches GC.

Clock levels and metrics are figures of ours in the range of the card's; nothing else here depends on them. The tables
it hands out are :mod:`mock.smutables`'; a table that the driver gave is handed back as it came.

A throttled clock (an injected "clock-drop") is told by an interrupt of client MP1, source 0xFE, context 7, and by
ThrottlingPercentage in the metrics; a temperature beyond the limit by client THM, source 0 (smu_v13_0.c,
smu_v13_0_irq_process), while MP1_SMN_IH_SW_INT.VALID and IH_SW_INT_CTRL.INT_MASK let it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from amdrv.facts import ih
from amdrv.facts import smu13 as facts
from mock import smutables
from mock.block import Block, on_write
from mock.faults import Fault, register
from mock.smutables import PPT_LIMIT_WATTS

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["CLOCKS", "Smu"]

FIRMWARE_FLAGS = 0x03B10024
"""SMN address; bit 0 is INTERRUPTS_ENABLED: PMFW runs (Linux 6.1, smu_v13_0.c, smu_v13_0_check_fw_status)."""
SMU_VERSION = 78 << 16 | 126 << 8       # 78.126.0, the program, major and minor of a smu_13_0_0.bin
LATENCY = 100e-6
"""Seconds that the firmware takes for a message; a figure of ours."""
DEBUG_MODE1_RESET = 2
"""Linux 6.1, smu_v13_0_0_ppt.c, DEBUGSMC_MSG_Mode1Reset: what amdgpu sends to gfx1100's SMU for a mode-1 reset."""
ALL_LEVELS = 0xFF
FINE_GRAINED = 1 << 31
"""In a level count: every frequency between two levels may be asked for (smu_v13_0_get_fine_grained_status)."""

CLOCKS: dict[int, tuple[int, ...]] = {      # MHz, by PPCLK_*
    facts.PPCLK_GFXCLK: (500, 2526), facts.PPCLK_SOCCLK: (500, 1200), facts.PPCLK_UCLK: (96, 456, 772, 1249),
    facts.PPCLK_FCLK: (500, 900, 1200, 1500, 1800, 2000), facts.PPCLK_DCLK_0: (300, 1600),
    facts.PPCLK_VCLK_0: (300, 1900), facts.PPCLK_DCLK_1: (300, 1600), facts.PPCLK_VCLK_1: (300, 1900),
    facts.PPCLK_DISPCLK: (300, 1950), facts.PPCLK_DPPCLK: (300, 1950), facts.PPCLK_DPREFCLK: (720,),
    facts.PPCLK_DCFCLK: (300, 1650), facts.PPCLK_DTBCLK: (300, 1564)}
FINE = (facts.PPCLK_GFXCLK, facts.PPCLK_SOCCLK, facts.PPCLK_DCLK_0, facts.PPCLK_VCLK_0, facts.PPCLK_DCLK_1,
        facts.PPCLK_VCLK_1)
TABLE_TYPES: dict[int, type[ctypes.Structure]] = {
    facts.TABLE_PPTABLE: facts.PPTable_t, facts.TABLE_COMBO_PPTABLE: facts.PPTable_t,
    facts.TABLE_WATERMARKS: facts.WatermarksExternal_t, facts.TABLE_SMU_METRICS: facts.SmuMetricsExternal_t,
    facts.TABLE_DRIVER_SMU_CONFIG: facts.DriverSmuConfigExternal_t,
    facts.TABLE_OVERDRIVE: facts.OverDriveTableExternal_t, facts.TABLE_DRIVER_INFO: facts.DriverInfoTable_t,
    facts.TABLE_ECCINFO: facts.EccInfoTable_t}

STORED = ("SetAllowedFeaturesMaskLow", "SetAllowedFeaturesMaskHigh", "SetDriverDramAddrHigh", "SetDriverDramAddrLow",
          "SetToolsDramAddrHigh", "SetToolsDramAddrLow", "SetSystemVirtualDramAddrHigh", "SetSystemVirtualDramAddrLow",
          "DramLogSetDramAddrHigh", "DramLogSetDramAddrLow", "DramLogSetDramSize", "STBtoDramLogSetDramAddrHigh",
          "STBtoDramLogSetDramAddrLow", "STBtoDramLogSetDramSize", "SetWorkloadMask", "OverridePcieParameters",
          "NotifyPowerSource", "SetTemperatureInputSelect", "SetFwDstatesMask", "SetThrottlerMask",
          "SetExternalClientDfCstateAllow", "SetMGpuFanBoostLimitRpm", "SetGpoAllow", "SetVideoFps", "SetDcsArch",
          "AllowGfxDcs", "DisallowGfxDcs", "PowerUpVcn", "PowerDownVcn", "PowerUpJpeg", "PowerDownJpeg",
          "PowerUpUmsch", "PowerDownUmsch", "ReenableAcDcInterrupt", "AllowIHHostInterrupt", "ArmD3",
          "SetPriorityDeltaGain", "SetNumBadMemoryPagesRetired", "SetBadMemoryPagesRetiredFlagsPerChannel",
          "EnableAudioStutterWA", "UseDefaultPPTable", "RunDcBtc")
"""Messages whose argument is kept (``Smu.settings``) and answered OK; they switch what this card does not model."""

SMU_INTERRUPT, THROTTLED = 0xFE, 7
"""Source and context of the SMU's interrupt for a throttled clock (smu_v13_0.c, smu_v13_0_irq_process)."""
THERM_HIGH = 0
"""THM_11_0__SRCID__THM_DIG_THERM_L2H (smu_v13_0.c)."""
IDLE_CELSIUS, BUSY_CELSIUS = 40, 68
THROTTLER_TEMP_HOTSPOT, THROTTLER_PPT0 = 1, 16
"""Places of THROTTLER_TEMP_HOTSPOT_BIT and THROTTLER_PPT0_BIT (smu13_driver_if_v13_0_0.h)."""

register("smu-silent", "the SMU takes a message and never answers", "message")
register("smu-busy", "the SMU answers that it is busy (0xFC)", "message")
register("smu-wrong", "the SMU answers with this result and argument", "message", "result", "argument")


class Rejected(Exception):
    """A message that the SMU answers with something else than OK."""

    def __init__(self, result: int, why: str) -> None:
        self.result = result
        super().__init__(why)


class Smu(Block):
    ip = "MP1"

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._engine = board.engine("smu")
        names = {value: name.removeprefix("PPSMC_MSG_") for name, value in vars(facts).items()
                 if name.startswith("PPSMC_MSG_")}
        self._messages: dict[int, tuple[str, Callable[[int], int] | None]] = {
            number: (name, getattr(self, f"_do_{name}", None)) for number, name in names.items()}
        self._dropped: dict[int, int] = {}
        self._celsius = 0
        self._clear()

    def _clear(self) -> None:
        self.alive = self.loaded = False
        self.gfxoff_allowed = False
        self.settings: dict[str, int] = {}
        self.running = 0
        """Feature mask."""
        self._working = False
        self._tables: dict[int, bytes] = {}
        self._limits = {clock: [levels[0], levels[-1]] for clock, levels in CLOCKS.items()}
        self._ppt = PPT_LIMIT_WATTS
        self._energy = self._counter = 0

    def reset(self) -> None:
        self._clear()
        self.board.nbio.on_smn(FIRMWARE_FLAGS, read=lambda: int(self.alive))

    def start(self) -> None:
        """The PSP loaded PMFW: it starts anew."""
        self._clear()
        self.alive = self.loaded = True

    @property
    def gfx_off(self) -> bool:
        """Has GC lost its power? True while GFXOFF is allowed and no engine works."""
        board = self.board
        return (self.gfxoff_allowed and self.alive and board.psp.autoload_done and not board.engines.busy
                and board.gpu.is_strict("gfxoff"))

    # ---- mailbox

    @on_write("MP1_SMN_C2PMSG_66")
    def message(self, number: int) -> None:
        board = self.board
        if not self.alive:
            board.note("smu-dead", f"message {number:#x} to the SMU, whose firmware does not run")
            return
        if board.faults.any:
            board.faults.event("smu-message", message=number)
        argument = board.regs["MP1_SMN_C2PMSG_82"]
        if self._working:
            board.note("smu-busy", f"message {number:#x} while the SMU still works on another")
            board.regs["MP1_SMN_C2PMSG_90"] = facts.PPSMC_Result_CmdRejectedBusy
            return
        if board.faults.strike("smu-silent", message=number):
            return
        board.counters["smu_messages"] += 1
        self._working = True
        self._engine.post(self._work, number, argument)

    @on_write("MP1_SMN_C2PMSG_75")
    def debug_message(self, number: int) -> None:
        """The debug mailbox: message here, argument in C2PMSG_53, result in C2PMSG_54 (Linux 6.1,
        smu_v13_0_0_ppt.c, smu_v13_0_0_set_smu_mailbox_registers). Only mode-1 reset is known of it, and that it
        answers after PrepareMp1ForUnload: so a reloaded driver resets a card on which the secure OS runs (Linux 7.3,
        amdgpu_device.c, amdgpu_device_init)."""
        if self.loaded:
            if number == DEBUG_MODE1_RESET:
                self.board.resetting = True         # from here on; a slow machine must not show the card as it was
            self._engine.post(self._debug, number)
        else:
            self.board.note("smu-dead", f"debug message {number:#x} to the SMU, whose firmware does not run")

    def _debug(self, number: int) -> None:
        time.sleep(LATENCY)
        known = number == DEBUG_MODE1_RESET
        self.board.regs["MP1_SMN_C2PMSG_54"] = facts.PPSMC_Result_OK if known else facts.PPSMC_Result_UnknownCmd
        if known:
            self._do_Mode1Reset(0)
        else:
            self.board.note("smu-message", f"debug message {number:#x}: not known")

    def _work(self, number: int, argument: int) -> None:
        board = self.board
        time.sleep(LATENCY)
        name, work = self._messages.get(number, (hex(number), None))
        result, answer = facts.PPSMC_Result_OK, argument
        wrong = board.faults.strike("smu-wrong", message=number)
        try:
            if board.faults.strike("smu-busy", message=number):
                raise Rejected(facts.PPSMC_Result_CmdRejectedBusy, "busy by an injected fault")
            if name in STORED:
                self.settings[name] = argument
            elif work is not None:
                answer = work(argument)
            else:
                raise Rejected(facts.PPSMC_Result_UnknownCmd, "not known")
        except Rejected as why:
            result = why.result
            board.note("smu-message", f"{name}({argument:#x}): {why}")
        if wrong is not None:
            result, answer = wrong.settings.get("result", result), wrong.settings.get("argument", answer)
        self._working = False
        board.regs["MP1_SMN_C2PMSG_82"] = answer & 0xFFFFFFFF
        board.regs["MP1_SMN_C2PMSG_90"] = result

    # ---- messages, in the order of their numbers

    def _do_TestMessage(self, argument: int) -> int:
        return argument + 1

    def _do_GetSmuVersion(self, argument: int) -> int:
        return SMU_VERSION

    def _do_GetDriverIfVersion(self, argument: int) -> int:
        return facts.SMU13_DRIVER_IF_VERSION_SMU_V13_0_0_0

    def _allowed(self) -> int:
        low = self.settings.get("SetAllowedFeaturesMaskLow", 0xFFFFFFFF)
        high = self.settings.get("SetAllowedFeaturesMaskHigh", 0xFFFFFFFF)
        return high << 32 | low

    def _do_EnableAllSmuFeatures(self, argument: int) -> int:
        self.running = self._allowed() & smutables.FEATURES
        return argument

    def _do_DisableAllSmuFeatures(self, argument: int) -> int:
        self.running = 0
        return argument

    def _do_EnableSmuFeaturesLow(self, argument: int) -> int:
        self.running |= argument & self._allowed() & smutables.FEATURES
        return argument

    def _do_EnableSmuFeaturesHigh(self, argument: int) -> int:
        self.running |= argument << 32 & self._allowed() & smutables.FEATURES
        return argument

    def _do_DisableSmuFeaturesLow(self, argument: int) -> int:
        self.running &= ~argument
        return argument

    def _do_DisableSmuFeaturesHigh(self, argument: int) -> int:
        self.running &= ~(argument << 32)
        return argument

    def _do_GetRunningSmuFeaturesLow(self, argument: int) -> int:
        return self.running & 0xFFFFFFFF

    def _do_GetRunningSmuFeaturesHigh(self, argument: int) -> int:
        return self.running >> 32

    def _table(self, argument: int) -> tuple[int, int, int]:
        """(table, bytes, GPU address of the driver's buffer)."""
        table = argument & 0xFFFF
        if table not in TABLE_TYPES:
            raise Rejected(facts.PPSMC_Result_Failed, f"table {table} is not kept here")
        low, high = self.settings.get("SetDriverDramAddrLow"), self.settings.get("SetDriverDramAddrHigh")
        if low is None or high is None:
            raise Rejected(facts.PPSMC_Result_CmdRejectedPrereq, "SetDriverDramAddrHigh and Low come first")
        size = smutables.COMBO_BYTES if table == facts.TABLE_COMBO_PPTABLE else ctypes.sizeof(TABLE_TYPES[table])
        return table, size, high << 32 | low

    def _content(self, table: int, size: int) -> bytes:
        """What the SMU has for a table; one that it has nothing for, and that no driver gave, is zeros."""
        if table == facts.TABLE_SMU_METRICS:
            return self._metrics()
        if table == facts.TABLE_ECCINFO:
            return bytes(self.board.ras.table())
        if table in self._tables:
            return self._tables[table]
        if table == facts.TABLE_PPTABLE:
            return bytes(smutables.pptable(CLOCKS, FINE))
        if table == facts.TABLE_COMBO_PPTABLE:
            return smutables.combo(CLOCKS, FINE)
        if table == facts.TABLE_DRIVER_INFO:
            return smutables.driver_info(CLOCKS)
        return bytes(size)

    def _do_TransferTableSmu2Dram(self, argument: int) -> int:
        from mock.gmc import Client, Fault
        table, size, address = self._table(argument)
        data = self._content(table, size)
        try:
            self.board.memory.write("mm", 0, address, data, client=Client.MM_MP1)
        except Fault as error:
            raise Rejected(facts.PPSMC_Result_Failed, f"write at {address:#x}: {error}") from None
        return argument

    def _do_TransferTableDram2Smu(self, argument: int) -> int:
        from mock.gmc import Client, Fault
        table, size, address = self._table(argument)
        try:
            self._tables[table] = bytes(self.board.memory.read("mm", 0, address, size, client=Client.MM_MP1))
        except Fault as error:
            raise Rejected(facts.PPSMC_Result_Failed, f"read at {address:#x}: {error}") from None
        return argument

    def _clock(self, argument: int) -> tuple[int, int]:
        clock, value = argument >> 16, argument & 0xFFFF
        if clock not in CLOCKS:
            raise Rejected(facts.PPSMC_Result_Failed, f"there is no clock {clock}")
        return clock, value

    def _set_limit(self, argument: int, which: int) -> int:
        clock, value = self._clock(argument)
        levels = CLOCKS[clock]
        self._limits[clock][which] = min(max(value, levels[0]), levels[-1])
        return argument

    def _do_SetSoftMinByFreq(self, argument: int) -> int:
        return self._set_limit(argument, 0)

    def _do_SetSoftMaxByFreq(self, argument: int) -> int:
        return self._set_limit(argument, 1)

    def _do_SetHardMinByFreq(self, argument: int) -> int:
        return self._set_limit(argument, 0)

    def _do_SetHardMaxByFreq(self, argument: int) -> int:
        return self._set_limit(argument, 1)

    def _do_GetMinDpmFreq(self, argument: int) -> int:
        return CLOCKS[self._clock(argument)[0]][0]

    def _do_GetMaxDpmFreq(self, argument: int) -> int:
        return CLOCKS[self._clock(argument)[0]][-1]

    _do_GetDcModeMaxDpmFreq = _do_GetMaxDpmFreq

    def _do_GetDpmFreqByIndex(self, argument: int) -> int:
        clock, index = self._clock(argument)
        levels = CLOCKS[clock]
        if index == ALL_LEVELS:
            return len(levels) | (FINE_GRAINED if clock in FINE else 0)
        if index >= len(levels):
            raise Rejected(facts.PPSMC_Result_Failed, f"clock {clock} has {len(levels)} levels")
        return levels[index]

    def _do_AllowGfxOff(self, argument: int) -> int:
        self.gfxoff_allowed = True
        return argument

    def _do_DisallowGfxOff(self, argument: int) -> int:
        self.gfxoff_allowed = False
        return argument

    def _do_PrepareMp1ForUnload(self, argument: int) -> int:
        """PMFW takes no more messages after this answer."""
        self.alive = False
        self.running = 0
        return argument

    def _do_Mode1Reset(self, argument: int) -> int:
        self.board.resetting = True
        self._engine.post(self.board.mode1_reset)
        return argument

    def _do_SetPptLimit(self, argument: int) -> int:
        if not 0 < argument & 0xFFFF <= PPT_LIMIT_WATTS * 115 // 100:
            raise Rejected(facts.PPSMC_Result_Failed, f"a limit of {argument & 0xFFFF} W")
        self._ppt = argument & 0xFFFF
        return argument

    def _do_GetPptLimit(self, argument: int) -> int:
        return self._ppt

    # ---- metrics

    def clock_mhz(self, clock: int) -> int:
        """What a clock runs at now: its upper limit while engines work, its lower one while they rest."""
        low, high = self._limits[clock]
        mhz = max(low, high) if self.working else low
        return min(mhz, self._dropped.get(clock, mhz))

    @property
    def working(self) -> bool:
        """Does an engine beside the SMU's own have work?"""
        return self.board.engines.busy > 1

    def drop_clock(self, clock: int, mhz: int, celsius: int) -> None:
        """A clock falls to ``mhz`` and stays there until the fault is cleared; the driver is told why."""
        self._dropped[clock] = mhz
        self._celsius = celsius
        self.board.note("clock-drop", f"clock {clock} is throttled to {mhz} MHz at {celsius} degrees")
        if self.alive:
            self.board.ih.post(ih.SOC21_IH_CLIENTID_MP1, SMU_INTERRUPT, data=(THROTTLED, 0, 0, 0))
        if celsius > smutables.TEMPERATURE_LIMITS[facts.TEMP_HOTSPOT]:
            self.board.ih.post(ih.SOC21_IH_CLIENTID_THM, THERM_HIGH)

    def undrop(self) -> None:
        self._dropped.clear()
        self._celsius = 0

    def _metrics(self) -> bytes:
        table = facts.SmuMetricsExternal_t()
        metrics = table.SmuMetrics
        for clock in CLOCKS:
            metrics.CurrClock[clock] = self.clock_mhz(clock)
        gfx, memory, fabric = (metrics.CurrClock[clock] for clock in (
            facts.PPCLK_GFXCLK, facts.PPCLK_UCLK, facts.PPCLK_FCLK))
        metrics.AverageGfxclkFrequencyTarget = max(self._limits[facts.PPCLK_GFXCLK])
        metrics.AverageGfxclkFrequencyPostDs = metrics.AverageGfxclkFrequencyPreDs = gfx
        metrics.AverageMemclkFrequencyPostDs = metrics.AverageMemclkFrequencyPreDs = memory
        metrics.AverageFclkFrequencyPostDs = metrics.AverageFclkFrequencyPreDs = fabric
        busy = self.working
        watts = min(self._ppt, 90 if busy else 15)
        self._energy = (self._energy + watts) & 0xFFFFFFFF
        self._counter = (self._counter + 1) & 0xFFFFFFFF
        metrics.MetricsCounter, metrics.EnergyAccumulator = self._counter, self._energy
        metrics.dGPU_W_MAX = self._ppt
        metrics.AverageGfxActivity = metrics.AverageUclkActivity = 100 if busy else 0
        metrics.AverageSocketPower, metrics.AverageTotalBoardPower = watts, watts + 20
        celsius = self._celsius or (BUSY_CELSIUS if busy else IDLE_CELSIUS)
        for sensor in smutables.TEMPERATURE_LIMITS:
            metrics.AvgTemperature[sensor] = celsius
        metrics.AvgTemperatureFanIntake = 28
        for rail, millivolts in enumerate((1050 if busy else 700, 850, 700, 1350, 850)):
            metrics.AvgVoltage[rail] = millivolts
        metrics.AvgFanPwm, metrics.AvgFanRpm = (30, smutables.FAN_RPM * 30 // 100) if busy else (0, 0)
        if self._dropped:
            hot = celsius >= smutables.TEMPERATURE_LIMITS[facts.TEMP_HOTSPOT]
            metrics.ThrottlingPercentage[THROTTLER_TEMP_HOTSPOT if hot else THROTTLER_PPT0] = 100
        metrics.PcieRate, metrics.PcieWidth = smutables.LINK_LEVELS[-1][:2]
        serial = 0x6D6F_636B_0000_0000 | int(self.board.address.split(":")[1], 16)       # "mock", and the bus number
        metrics.PublicSerialNumberLower, metrics.PublicSerialNumberUpper = serial & 0xFFFFFFFF, serial >> 32
        return bytes(table)


def _drop(board: Board, fault: Fault) -> None:
    clock = fault.settings.get("clock", facts.PPCLK_GFXCLK)
    if clock not in CLOCKS:
        raise ValueError(f"clock={clock!r}: the SMU has the clocks {sorted(CLOCKS)}")
    board.smu.drop_clock(clock, fault.settings.get("mhz", CLOCKS[clock][0]), fault.settings.get("celsius", 90))


register("clock-drop", "a clock (PPCLK_*) is throttled to that many MHz, at that many degrees Celsius; the SMU tells "
         "of it by an interrupt and in its metrics", "clock", "mhz", "celsius", at_once=_drop)
