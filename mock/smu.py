"""SMU: the mailbox of the power-management firmware, clocks, features, tables, GFXOFF, mode-1 reset.

C2PMSG_82 takes the argument, C2PMSG_66 the message; the driver clears C2PMSG_90 before, which then becomes the result,
and C2PMSG_82 what the SMU returns (Linux 6.1, smu_cmn.c, smu_cmn_send_smc_msg_with_param). A driver that does not clear
it takes the last result for the new one. The firmware runs from the moment
that the PSP loaded it until PrepareMp1ForUnload; FIRMWARE_FLAGS, at an SMN address, says so. Before that, nothing
answers.

GFXOFF: while it is allowed (AllowGfxOff; PMFW starts with it disallowed, as Linux's boot relies on) and GC has nothing
to do, GC has no power: its registers read as 0 and writes to them are lost. A doorbell wakes GC for as long as there is
work. The state belongs to the SMU, so it outlives a driver: the next one must send DisallowGfxOff before it touches GC.

Clock levels and metrics are figures of ours in the range of the card's; nothing else here depends on them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from amdrv.facts import smu13 as facts
from mock.block import Block, on_write
from mock.faults import register

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
PPT_LIMIT_WATTS = 303
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
        self._clear()

    def _clear(self) -> None:
        self.alive = False
        self.gfxoff_allowed = False
        self.settings: dict[str, int] = {}
        self.running = 0
        """Feature mask."""
        self._working = False
        self._tables: dict[int, bytes] = {}
        self._limits = {clock: [levels[0], levels[-1]] for clock, levels in CLOCKS.items()}
        self._ppt = PPT_LIMIT_WATTS

    def reset(self) -> None:
        self._clear()
        self.board.nbio.on_smn(FIRMWARE_FLAGS, read=lambda: int(self.alive))

    def start(self) -> None:
        """The PSP loaded PMFW: it starts anew."""
        self._clear()
        self.alive = True

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
        smu_v13_0_0_ppt.c, smu_v13_0_0_set_smu_mailbox_registers). Only mode-1 reset is known of it."""
        if self.alive:
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
        self.running = self._allowed() & (1 << facts.FEATURE_SPARE_51_BIT) - 1
        return argument

    def _do_DisableAllSmuFeatures(self, argument: int) -> int:
        self.running = 0
        return argument

    def _do_EnableSmuFeaturesLow(self, argument: int) -> int:
        self.running |= argument & self._allowed()
        return argument

    def _do_EnableSmuFeaturesHigh(self, argument: int) -> int:
        self.running |= argument << 32 & self._allowed()
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
        return table, ctypes.sizeof(TABLE_TYPES[table]), high << 32 | low

    def _do_TransferTableSmu2Dram(self, argument: int) -> int:
        from mock.gmc import Client, Fault
        table, size, address = self._table(argument)
        data = self._metrics() if table == facts.TABLE_SMU_METRICS else self._tables.get(table, bytes(size))
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
        """PMFW stops after this answer."""
        self.alive = False
        self.running = 0
        return argument

    def _do_Mode1Reset(self, argument: int) -> int:
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
        return max(low, high) if self.board.engines.busy > 1 else low

    def _metrics(self) -> bytes:
        table = facts.SmuMetricsExternal_t()
        metrics = table.SmuMetrics
        for clock in CLOCKS:
            metrics.CurrClock[clock] = self.clock_mhz(clock)
        metrics.AverageGfxclkFrequencyPostDs = metrics.AverageGfxclkFrequencyPreDs = metrics.CurrClock[0]
        metrics.AverageMemclkFrequencyPostDs = metrics.AverageMemclkFrequencyPreDs = \
            metrics.CurrClock[facts.PPCLK_UCLK]
        metrics.AverageGfxActivity = 100 if self.board.engines.busy > 1 else 0
        metrics.AverageSocketPower = 90 if self.board.engines.busy > 1 else 15
        for sensor in range(facts.TEMP_COUNT):
            metrics.AvgTemperature[sensor] = 40
        metrics.PcieRate, metrics.PcieWidth = 4, 6      # codes: 16 GT/s; x16 (Linux 6.1, smu_v13_0.c, link_width)
        return bytes(table)
