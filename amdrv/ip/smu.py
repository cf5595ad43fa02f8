"""SMU: clocks, power and resets. A mailbox of three registers: message, argument, response."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from amdrv.errors import BootError, PowerError, WaitTimeout
from amdrv.facts import smu13 as facts
from amdrv.ip.discovery import FIRMWARE_READY, MP0_SMN_C2PMSG_33, RCC_CONFIG_MEMSIZE
from amdrv.wait import wait_until

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["Smu"]

# Linux 6.1, smu_v13_0.c, smu_v13_0_check_fw_status: byte address in the SMU's own space, bit 0
FIRMWARE_FLAGS, INTERRUPTS_ENABLED = 0x3B10024, 1 << 0
RESPONSE_TIMEOUT = 2.0          # smu_cmn.c: 20 times usec_timeout
BUSY_TIMEOUT = 1.0              # how long a message that is rejected as "busy" is repeated
TABLE_BYTES = 1 << 16           # for the largest table, the power-play table with what is around it
RESET_TIME = 0.5                # smu_v13_0.h, SMU13_MODE1_RESET_WAIT_TIME_IN_MS
RESET_TIMEOUT = 5.0

ALL_FEATURES = 0xFFFF_FFFF      # Linux asks for every feature it has not been told to leave out
RESULTS = {number: name.removeprefix("PPSMC_Result_") for name, number in facts.ENUMS["result"].items()}
MESSAGES = {number: name.removeprefix("PPSMC_MSG_") for name, number in facts.ENUMS["message"].items()}


class Smu:
    def __init__(self, device: Device) -> None:
        self.device, self.regs = device, device.regs
        self.version = (0, 0, 0)
        self.booted = False
        self._talking = False
        self._lock, self._table_lock = threading.Lock(), threading.Lock()

    @property
    def running(self) -> bool:
        """smu_v13_0_check_fw_status"""
        return bool(self.device.mmio.read32(FIRMWARE_FLAGS // 4) & INTERRUPTS_ENABLED)

    def boot(self) -> None:
        """smu_hw_init, without what only displays need; what a firmware that was taken over has on, it keeps on."""
        wait_until(lambda: self.running, RESPONSE_TIMEOUT, "SMU firmware to run (MP1_FIRMWARE_FLAGS bit 0)")
        version = self.send(facts.PPSMC_MSG_GetSmuVersion)
        self.version = version >> 16 & 0xFF, version >> 8 & 0xFF, version & 0xFF
        # smu_v13_0_set_driver_table_location: where tables (metrics) are exchanged
        self._table = self.device.require_memory().boot_pages.allocate(TABLE_BYTES)[0][0]
        table = self.device.gmc.fb_start + self._table
        self.send(facts.PPSMC_MSG_SetDriverDramAddrHigh, table >> 32)
        self.send(facts.PPSMC_MSG_SetDriverDramAddrLow, table & 0xFFFF_FFFF)
        if not self.device.warm:
            self.send(facts.PPSMC_MSG_RunDcBtc)     # smu_v13_0_run_btc: calibrates voltages
            self.send(facts.PPSMC_MSG_SetAllowedFeaturesMaskHigh, ALL_FEATURES)
            self.send(facts.PPSMC_MSG_SetAllowedFeaturesMaskLow, ALL_FEATURES)
            self.send(facts.PPSMC_MSG_EnableAllSmuFeatures)
            self.allow_gfxoff(False)
        self.booted = True

    def allow_gfxoff(self, allowed: bool) -> None:
        """With all features on, an idle graphics core loses power, and with it every register that we set."""
        self.send(facts.PPSMC_MSG_AllowGfxOff if allowed else facts.PPSMC_MSG_DisallowGfxOff)

    def shutdown(self) -> None:
        """Limits that were set are set back. Nothing else is said on the way out: this SMU's firmware puts its features
        away by itself, and "driver involvement may cause some unexpected issues" (smu_disable_dpms). It must stay able
        to reset the card for the next owner."""
        if self.booted:
            self.booted = False
            self.device.power.restore()

    def read_table(self, number: int, nbytes: int) -> bytes:
        """smu_cmn_update_table: the firmware writes one of its tables (TABLE_*) to memory. :raises PowerError:"""
        with self._table_lock:
            try:
                self.send(facts.PPSMC_MSG_TransferTableSmu2Dram, number)
            except BootError as error:
                raise PowerError(f"table {number} of the SMU: {error}") from error
            self.device.hdp.flush()
            return self.device.require_memory().view(self._table, nbytes).tobytes()

    def send(self, message: int, argument: int = 0) -> int:
        """smu_cmn_send_smc_msg_with_param: the SMU's answer.

        :raises BootError: refused, or no answer.
        """
        what = f"SMU message {MESSAGES.get(message, hex(message))}({argument:#x})"
        with self._lock:
            if self._talking:       # a firmware that has just started has answered nothing yet (newer smu_cmn.c)
                self._answer(f"{what}: the SMU still works on an earlier message")
            self._talking = True
            deadline = time.monotonic() + BUSY_TIMEOUT
            while True:
                self._write(message, argument)
                result = self._answer(what)
                if result != facts.PPSMC_Result_CmdRejectedBusy or time.monotonic() > deadline:
                    break
                time.sleep(1e-3)
            if result != facts.PPSMC_Result_OK:
                version = ".".join(map(str, self.version))
                raise BootError(f"{what}: refused with {RESULTS.get(result, 'an unknown result')} ({result:#x}); SMU "
                                f"firmware {version}")
            return int(self.regs.MP1_SMN_C2PMSG_82.read())

    def _write(self, message: int, argument: int) -> None:
        self.regs.MP1_SMN_C2PMSG_90.write(0)
        self.regs.MP1_SMN_C2PMSG_82.write(argument)
        self.regs.MP1_SMN_C2PMSG_66.write(message)

    def _answer(self, what: str) -> int:
        try:
            return wait_until(lambda: int(self.regs.MP1_SMN_C2PMSG_90.read()), RESPONSE_TIMEOUT,
                              f"{what} (MP1_SMN_C2PMSG_90)", seen=lambda: int(self.regs.MP1_SMN_C2PMSG_90.read()))
        except WaitTimeout as error:
            raise BootError(f"{error}; the SMU hangs: power-cycle the card") from error

    def reset_card(self) -> None:
        """Reset the whole card but PCIe, as Linux does on a card that someone left running
        (soc21_need_reset_on_init, smu_v13_0_0_mode1_reset), and wait until its own firmware is ready again.

        Without a PSP whose system runs there is no SMU to ask; it, and an SMU that does not answer any more, leave
        the bus: a reset by the HAL.
        """
        state, psp = self.device.save_config(), self.device.psp
        tried = "its SMU does not run"
        try:
            if psp.alive and self.running:
                self._mode1_reset()
        except BootError as error:
            tried = str(error)
        if psp.alive or psp.stuck or psp.silent():
            self.device.pci.reset()
            time.sleep(RESET_TIME)
            try:
                self._wait_for_reset("reset through the bus")
            except BootError as error:
                raise BootError(f"the card was left running and cannot be reset: {tried}; {error}; power-cycle the "
                                "machine") from error
        self._talking = False
        self.device.restore_config(state)

    def _mode1_reset(self) -> None:
        if self.regs.MP1_SMN_C2PMSG_66.read():      # somebody has sent a message since power-on: let it end
            self._answer("SMU before a reset")
        self._write(facts.PPSMC_MSG_Mode1Reset, 0)
        time.sleep(RESET_TIME)                      # nothing may touch the card meanwhile
        self._wait_for_reset("mode-1 reset by the SMU")

    def _wait_for_reset(self, what: str) -> None:
        region, psp = self.device.registers, self.device.psp
        try:
            wait_until(lambda: region.read32(4 * RCC_CONFIG_MEMSIZE) not in (0, 0xFFFF_FFFF)
                       and region.read32(4 * MP0_SMN_C2PMSG_33) & FIRMWARE_READY and not psp.alive, RESET_TIMEOUT,
                       f"card ready after a {what}",
                       seen=lambda: f"C2PMSG_33 {region.read32(4 * MP0_SMN_C2PMSG_33):#x}, sign of life of the PSP's "
                                    f"system {int(self.regs.MP0_SMN_C2PMSG_81.read()):#x}")
        except WaitTimeout as error:
            raise BootError(str(error)) from error
