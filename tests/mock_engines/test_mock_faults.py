"""Faults at a chosen moment: what each shows in registers, interrupts and queues, and how it is over."""

from __future__ import annotations

import time

import numpy as np
import pytest
from compute_rig import ARGS, CODE, DATA, NOP, SIGNAL, Interrupts, Rig, lohi, packet, release, write_data
from raw_board import RWX, RawBoard, Tables

from amdrv.facts import ih, smu13
from mock.faults import EVENTS, KINDS, Moment
from mock.gmc import Client, Fault
from mock.ras import CONTROL, GARBAGE, LINE

CP, GFX, BIF, MP1, THM = (ih.SOC21_IH_CLIENTID_GRBM_CP, ih.SOC21_IH_CLIENTID_GFX, ih.SOC21_IH_CLIENTID_BIF,
                          ih.SOC21_IH_CLIENTID_MP1, ih.SOC21_IH_CLIENTID_THM)
END, ENDLESS = 0xBFB00000, 0xBFA0FFFF       # s_endpgm; s_branch to itself
QUEUE = "compute 1.0.0"


class TestWhen:
    def test_names_are_checked(self, raw: RawBoard) -> None:
        faults = raw.board.faults
        for wrong in (lambda: Moment("dawn"), lambda: Moment("dispatch", vmid=1), lambda: Moment("dispatch", 0),
                      lambda: faults.inject("page-fault", count=0), lambda: faults.inject("page-fault", skip=-1)):
            with pytest.raises(ValueError):
                wrong()
        assert repr(Moment("dispatch", 2, queue="q")) == "Moment('dispatch', 2, queue='q')"

    def test_every_kind_and_event_is_described(self) -> None:
        assert all(text and not text.endswith(".") for text, _names in (*KINDS.values(), *EVENTS.values()))

    def test_skip_and_count(self, rig: Rig) -> None:
        """The third and fourth packets of four are garbled; a queue that is brought up again reads on behind them."""
        board = rig.raw.board
        fault = board.faults.inject("bad-packet", skip=2, count=1, queue=QUEUE)
        rig.put([*write_data(SIGNAL, 1), *write_data(SIGNAL + 8, 2), *write_data(SIGNAL + 16, 3)])
        assert "garbled" in rig.hung()
        assert list(rig.signal[:3]) == [1, 2, 0] and fault.struck == 1 and not board.faults.any

    def test_a_moment_of_another_engine(self, rig: Rig) -> None:
        """The queue stands still at the first packet after the second launch."""
        rig.code(END)
        board = rig.raw.board
        fault = board.faults.inject("queue-hang", at=Moment("dispatch", 2, queue=QUEUE))
        launch = rig.dispatch((1, 1, 1), (32, 1, 1), rsrc2=0)
        rig.put([*launch, *release(SIGNAL, 1)])
        rig.done(1)
        assert fault.struck == 0
        rig.put([*launch, *release(SIGNAL, 2)])
        assert "stands still" in rig.hung() and rig.signal[0] == 1
        assert board.counters["kernels"] == 2

    def test_settings_must_match(self, rig: Rig) -> None:
        rig.raw.board.faults.inject("bad-packet", queue="compute 1.2.3")
        rig.put(release(SIGNAL, 1))
        rig.done(1)

    def test_nothing_is_left_after_clear(self, rig: Rig) -> None:
        board = rig.raw.board
        board.faults.inject("bad-packet", at=Moment("pm4-packet", 1))
        board.faults.clear()
        rig.put(release(SIGNAL, 1))
        rig.done(1)
        assert not board.faults.any

    def test_the_card_goes_at_a_register_access(self, raw: RawBoard) -> None:
        scratch = raw.board.regs.dword("SCRATCH_REG0")
        raw.board.faults.inject("card-lost", at=Moment("register-read", 3, dword=scratch))
        raw.poke("SCRATCH_REG0", 7)
        assert [raw.peek("SCRATCH_REG0") for _ in range(4)] == [7, 7, 0xFFFFFFFF, 0xFFFFFFFF]
        raw.board.faults.clear("card-lost")
        assert raw.peek("SCRATCH_REG0") == 7

    def test_doorbells_interrupts_and_writes_count(self, raw: RawBoard) -> None:
        faults = raw.board.faults
        by = {name: faults.inject("spurious-interrupt", at=Moment(name, 2)) for name in ("register-write", "interrupt")}
        raw.poke("SCRATCH_REG0", 1)
        raw.board.ih.post(CP, 1)
        assert not any(fault.struck for fault in by.values())
        raw.poke("SCRATCH_REG0", 1)
        raw.board.ih.post(CP, 1)
        assert all(fault.struck == 1 for fault in by.values()) and not faults.any


class TestPageFaults:
    STATUS, ADDRESS = "GCVM_L2_PROTECTION_FAULT_STATUS", "GCVM_L2_PROTECTION_FAULT_ADDR_LO32"

    def test_injected(self, rig: Rig, posted: Interrupts) -> None:
        """Of an address that is mapped: registers, interrupt and queue are those of a real one."""
        raw = rig.raw
        rig.tables.buffer(DATA, 4096)
        raw.board.faults.inject("page-fault", count=1, client=Client.CPC, write=True, vmid=1)
        rig.put(write_data(DATA, 5))
        rig.hung()
        status = raw.board.regs.register(self.STATUS).unpack(raw.peek(self.STATUS))
        assert (status["CID"], status["RW"], status["VMID"], status["PERMISSION_FAULTS"]) == (Client.CPC, 1, 1, 1)
        assert raw.peek(self.ADDRESS) == DATA >> 12 & 0xFFFFFFFF
        assert posted[0] == (GFX, ih.UTCL2_1_0__SRCID__FAULT, 0x28, 1,        # the ring id: valid, a write
                             (DATA >> 12 & 0xFFFFFFFF, DATA >> 44 | 0x20, 0, 0))

    def test_the_entry_carries_the_pasid(self, raw: RawBoard, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(raw.board.ih, "_append", lambda ring, entry: seen.append(entry) or False)
        raw.poke("IH_VMID_1_LUT", 0x8765)
        with pytest.raises(Fault):
            raw.board.memory.read("gc", 1, 0x1234_5000, 4)
        assert np.frombuffer(seen[0], np.uint32)[3] == 0x8765

    @pytest.fixture
    def default(self, raw: RawBoard, tables: Tables) -> np.ndarray:
        """A default page on the host, with all kinds of faults led to it."""
        page = np.zeros(8192, np.uint8)
        start = -page.ctypes.data % 4096
        live = page[start:start + 4096]
        bus = raw.board.bus.attach(live.ctypes.data, 4096)
        raw.poke("GCVM_L2_PROTECTION_FAULT_DEFAULT_ADDR_LO32", bus >> 12 & 0xFFFFFFFF)
        raw.poke("GCVM_L2_PROTECTION_FAULT_DEFAULT_ADDR_HI32", bus >> 44)
        raw.update("GCVM_L2_CNTL", ENABLE_DEFAULT_PAGE_OUT_TO_SYSTEM_MEMORY=1)
        raw.update("GCVM_CONTEXT1_CNTL", **{f"{kind}_PROTECTION_FAULT_ENABLE_DEFAULT": 1
                                            for kind in ("RANGE", "PDE0", "VALID", "READ", "WRITE", "EXECUTE")})
        return live

    def test_default_page(self, rig: Rig, default: np.ndarray, posted: Interrupts) -> None:
        """Reads and writes of nowhere go to the default page, and the queue goes on; the fault is told."""
        default[16:20] = [1, 2, 3, 4]
        nowhere = 0x5000_0000_0000
        rig.put([*packet(0x40, 1 | 5 << 8 | 1 << 20, *lohi(nowhere + 16), *lohi(SIGNAL + 8)),       # COPY_DATA
                 *write_data(nowhere + 32, 0xCAFE), *release(SIGNAL, 1)])
        rig.done(1)
        assert rig.signal[1] == 0x04030201 and default[32:36].view(np.uint32)[0] == 0xCAFE
        assert rig.raw.peek(self.STATUS) and posted[0][:2] == (GFX, 0)

    def test_only_the_pages_that_fault_are_led_there(self, raw: RawBoard, tables: Tables, default: np.ndarray) -> None:
        tables.buffer(DATA, 4096, fill=7)
        tables.buffer(DATA + 8192, 4096, fill=9)
        default[:] = 1
        data = raw.board.memory.read("gc", 1, DATA, 3 * 4096)
        assert data == b"\x07" * 4096 + b"\x01" * 4096 + b"\x09" * 4096

    def test_default_page_off_for_a_kind(self, raw: RawBoard, tables: Tables, default: np.ndarray) -> None:
        tables.buffer(DATA, 4096, flags=RWX & ~0x40)
        raw.update("GCVM_L2_PROTECTION_FAULT_CNTL", WRITE_PROTECTION_FAULT_ENABLE_DEFAULT=0)
        raw.board.memory.read("gc", 1, 0x5000_0000_0000, 4)
        with pytest.raises(Fault):
            raw.board.memory.write("gc", 1, DATA, b"1234")

    def test_default_page_in_vram(self, raw: RawBoard, tables: Tables, default: np.ndarray) -> None:
        place = raw.vram(4096, 0x5A)
        raw.poke("GCVM_L2_PROTECTION_FAULT_DEFAULT_ADDR_LO32", place >> 12)
        raw.poke("GCVM_L2_PROTECTION_FAULT_DEFAULT_ADDR_HI32", 0)
        raw.update("GCVM_L2_CNTL", ENABLE_DEFAULT_PAGE_OUT_TO_SYSTEM_MEMORY=0)
        assert raw.board.memory.read("gc", 1, 0x5000_0000_0000, 4) == b"ZZZZ"

    def test_crash_wins(self, raw: RawBoard, tables: Tables, default: np.ndarray) -> None:
        raw.update("GCVM_L2_PROTECTION_FAULT_CNTL", CRASH_ON_NO_RETRY_FAULT=1)
        with pytest.raises(Fault):
            raw.board.memory.read("gc", 1, 0x5000_0000_0000, 4)

    @pytest.mark.parametrize("told", [0, 1])
    def test_retry(self, rig: Rig, posted: Interrupts, told: int) -> None:
        """The client waits, once told, until the page is there; then nothing is lost."""
        raw, place = rig.raw, rig.raw.vram(4096)
        rig.tables.entry(DATA, 0)[0] = 0
        raw.update("GCVM_CONTEXT1_CNTL", RETRY_PERMISSION_OR_INVALID_PAGE_FAULT=1)
        raw.update("GCVM_L2_PROTECTION_FAULT_CNTL2", ENABLE_RETRY_FAULT_INTERRUPT=told)
        rig.put([*write_data(DATA, 0xBEEF), *release(SIGNAL, 1)])
        raw.wait(lambda: raw.peek(self.STATUS), "the fault's status")
        time.sleep(0.01)
        assert rig.signal[0] == 0 and not raw.board.notes.of("queue-hang")
        assert [entry[4][1] & 0xA0 for entry in posted] == [0xA0] * told
        rig.tables.map(DATA, place, 4096)
        rig.done(1)
        assert raw.words(place, 1)[0] == 0xBEEF

    def test_a_retry_ends_with_the_queue(self, rig: Rig) -> None:
        raw = rig.raw
        raw.update("GCVM_CONTEXT1_CNTL", RETRY_PERMISSION_OR_INVALID_PAGE_FAULT=1)
        rig.tables.entry(DATA, 0)[0] = 0
        rig.put(write_data(DATA, 1))
        raw.wait(lambda: raw.peek(self.STATUS), "the fault's status")
        raw.poke("GRBM_GFX_CNTL", MEID=1)
        raw.poke("CP_HQD_DEQUEUE_REQUEST", 2)
        raw.wait(lambda: not raw.field("CP_HQD_ACTIVE", "ACTIVE") and raw.board.engine(QUEUE).idle, "the queue's end")


class TestWaves:
    def launch(self, rig: Rig, word: int) -> None:
        rig.code(word)
        rig.put([*rig.dispatch((1, 1, 1), (32, 1, 1), rsrc2=0), *release(SIGNAL, 1)])

    def test_illegal_instruction(self, rig: Rig, posted: Interrupts) -> None:
        rig.raw.board.faults.inject("illegal-instruction", count=1)
        self.launch(rig, END)
        assert "IllegalInstruction" in rig.hung()
        assert posted == [(CP, ih.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID, 4, 1, (1 << 21, 2 << 6, 0, 0))]

    def test_memory_violation(self, rig: Rig, posted: Interrupts) -> None:
        rig.raw.board.faults.inject("memory-violation", address=0x4444_0000_0000)
        self.launch(rig, END)
        assert "0x444400000000" in rig.hung()
        assert [entry[:2] for entry in posted] == [(GFX, 0), (CP, ih.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID)]
        assert posted[1][4][:2] == (2 << 21, 2 << 6)
        status = rig.raw.board.regs.field("GCVM_L2_PROTECTION_FAULT_STATUS", "CID")
        assert status == Client.TCP

    def hung_wave(self, rig: Rig, real: bool) -> None:
        if not real:
            rig.raw.board.faults.inject("hung-wave", queue=QUEUE)
        self.launch(rig, ENDLESS if real else END)
        rig.raw.wait(lambda: rig.raw.board.mec.dispatching, "the launch")

    @pytest.mark.parametrize("real", [False, True])
    def test_dequeue_waits_for_waves_and_a_reset_does_not(self, rig: Rig, real: bool) -> None:
        raw = rig.raw
        self.hung_wave(rig, real)
        raw.poke("GRBM_GFX_CNTL", MEID=1)
        raw.poke("CP_HQD_DEQUEUE_REQUEST", 1)
        time.sleep(0.02)
        assert raw.field("CP_HQD_ACTIVE", "ACTIVE") == 1            # drains, and the wave does not end
        raw.poke("CP_HQD_DEQUEUE_REQUEST", 2)
        raw.wait(lambda: not raw.field("CP_HQD_ACTIVE", "ACTIVE"), "the queue's end")
        raw.wait(lambda: raw.board.engine(QUEUE).idle, "the wave's end")

    @pytest.mark.parametrize("how", ["SPI", "VMID"])
    def test_waves_are_killed(self, rig: Rig, how: str) -> None:
        """By queue (SPI_COMPUTE_QUEUE_RESET) the queue goes on behind the launch; by VMID it is gone."""
        raw = rig.raw
        self.hung_wave(rig, False)
        raw.board.faults.clear()
        raw.poke("GRBM_GFX_CNTL", MEID=1)
        if how == "SPI":
            raw.poke("SPI_COMPUTE_QUEUE_RESET", 1)
            raw.wait(lambda: raw.peek("SPI_COMPUTE_QUEUE_RESET") == 0, "the reset's end")
        else:
            raw.poke("CP_VMID_RESET", RESET_REQUEST=1 << 1)
            raw.wait(lambda: not raw.field("CP_HQD_ACTIVE", "ACTIVE"), "the queue's end")
        raw.wait(lambda: not raw.board.mec.dispatching, "the wave's end")

    def test_soft_reset_of_the_compute_engine(self, rig: Rig) -> None:
        raw = rig.raw
        self.hung_wave(rig, True)
        raw.poke("GRBM_SOFT_RESET", SOFT_RESET_CP=1, SOFT_RESET_CPC=1)
        raw.poke("GRBM_SOFT_RESET", 0)
        raw.wait(lambda: not raw.board.mec.busy, "the wave's end")
        raw.poke("GRBM_GFX_CNTL", MEID=1)
        assert not raw.field("CP_HQD_ACTIVE", "ACTIVE")
        raw.poke("GRBM_GFX_CNTL", 0)
        raw.board.faults.clear()
        again = Rig(raw, rig.tables)
        raw.invalidate("GC", 1 << 1)            # it lies elsewhere than the first
        again.put(release(SIGNAL, 9))
        again.done(9)


# s_mov_b32 m0, 0x1234; s_trap 2; s_endpgm
TRAPPING = (0xBEFD00FF, 0x1234, 0xBF900002, END)
# s_sendmsg(MSG_INTERRUPT); ttmp[0:1] + 4, PC bits alone; s_rfe_b64 ttmp[0:1]
HANDLER = (0xBFB60001, 0x806C846C, 0x826D806D, 0x8B6DFF6D, 0xFFFF, 0xBE804A6C)
# v4 = lds[4 i] after a store of 0x7f there, v5 at + 0x10000 after a store there, v7 at + 0x200; out = v4, v5, v7
LDS = (0xF4040100, 0xF8000000, 0x30020082, 0x7E0402FF, 0x7F, 0xD8340000, 0x00000201, 0x4A0602FF, 0x10000, 0xD8340000,
       0x00000203, 0xBF89FC07, 0xD8D80000, 0x04000001, 0xD8D80000, 0x05000003, 0x4A0C02FF, 0x200, 0xD8D80000,
       0x07000006, 0xBF89FC07, 0x30100084, 0xDC6A0000, 0x00040408, 0xDC6A0004, 0x00040508, 0xDC6A0008, 0x00040708, END)


class TestTraps:
    def install(self, rig: Rig) -> None:
        raw = rig.raw
        address = 0x7E60_0000_0000
        raw.words(rig.tables.buffer(address, 4096), len(HANDLER))[:] = HANDLER
        raw.poke("GRBM_GFX_CNTL", VMID=1)
        raw.poke("SQ_SHADER_TBA_LO", address >> 8 & 0xFFFFFFFF)
        raw.poke("SQ_SHADER_TBA_HI", ADDR_HI=address >> 40, TRAP_EN=1)
        raw.poke("GRBM_GFX_CNTL", 0)

    def launch(self, rig: Rig) -> None:
        rig.code(*TRAPPING)
        rig.put([*rig.dispatch((1, 1, 1), (32, 1, 1), rsrc2=0), *release(SIGNAL, 1)])

    def test_a_handler_tells_the_host_and_returns(self, rig: Rig, posted: Interrupts) -> None:
        """The SQ's interrupt carries M0, and that it came from a handler (bit 26); the wave goes on."""
        self.install(rig)
        self.launch(rig)
        rig.done(1)
        [(client, source, ring, vmid, data)] = posted
        assert (client, source, ring, vmid) == (CP, ih.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID, 4, 1)
        assert data[0] & 0xFFFFFF == 0x1234 and data[0] >> 26 & 1 and data[1] >> 6 & 3 == 1

    def test_a_handler_is_its_vmids_own(self, rig: Rig, posted: Interrupts) -> None:
        """Another VMID's handler does not run; a trap with nobody there stops the queue."""
        self.install(rig)
        rig.raw.poke("GRBM_GFX_CNTL", VMID=1)
        rig.raw.update("SQ_SHADER_TBA_HI", TRAP_EN=0)
        rig.raw.poke("GRBM_GFX_CNTL", VMID=2)
        rig.raw.poke("SQ_SHADER_TBA_HI", TRAP_EN=1)
        rig.raw.poke("GRBM_GFX_CNTL", 0)
        self.launch(rig)
        assert "Trap" in rig.hung() and posted == []


@pytest.mark.parametrize("executor", ["interpreter", "jit"])
def test_local_memory_out_of_range(rig: Rig, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads 0, writes nothing, no fault: beyond the allocation of one granule (512 bytes)."""
    monkeypatch.setenv("AMDRV_ISA", executor)
    raw = rig.raw
    rig.code(*LDS)
    out = raw.words(rig.tables.buffer(DATA, 4096, fill=0xEE), 128)
    raw.words(rig.tables.buffer(ARGS, 4096), 1, np.uint64)[0] = DATA
    rig.put([*rig.dispatch((1, 1, 1), (32, 1, 1), rsrc2=2 << 1 | 1 << 7 | 1 << 15), *release(SIGNAL, 1)])
    rig.done(1)
    assert (out.reshape(32, 4)[:, :3] == [0x7F, 0, 0]).all()


def test_the_kernels_way_to_reset_a_queue(rig: Rig) -> None:
    """Dequeue with reset, then SPI_COMPUTE_QUEUE_RESET, both polled (Linux 6.12, gfx_v11_0.c, gfx_v11_0_reset_kcq and
    amdgpu_amdkfd_gfx_v11.c); the queue is set up again and works."""
    raw = rig.raw
    rig.code(ENDLESS)
    rig.put(rig.dispatch((1, 1, 1), (32, 1, 1), rsrc2=0))
    raw.wait(lambda: raw.board.mec.dispatching, "the launch")
    raw.poke("GRBM_GFX_CNTL", MEID=1)
    raw.poke("CP_HQD_DEQUEUE_REQUEST", 2)
    raw.poke("SPI_COMPUTE_QUEUE_RESET", 1)
    raw.wait(lambda: not raw.field("CP_HQD_ACTIVE", "ACTIVE"), "the queue's end")
    raw.wait(lambda: raw.peek("SPI_COMPUTE_QUEUE_RESET") == 0, "the reset's end")
    for name in ("CP_HQD_PQ_WPTR_LO", "CP_HQD_PQ_WPTR_HI", "CP_HQD_PQ_RPTR"):
        raw.poke(name, 0)
    raw.poke("CP_HQD_ACTIVE", 1)
    raw.poke("GRBM_GFX_CNTL", 0)
    rig.write = 0
    rig.put(release(SIGNAL, 7))
    rig.done(7)


class TestPackets:
    def test_privileged_access(self, rig: Rig, posted: Interrupts) -> None:
        rig.raw.board.faults.inject("privileged-access", count=1)
        rig.put([NOP])
        rig.hung()
        assert posted == [(CP, ih.GFX_11_0_0__SRCID__CP_PRIV_REG_FAULT, 4, 1, (0, 0, 0, 0))]

    def test_hang_without_a_word(self, rig: Rig, posted: Interrupts) -> None:
        rig.raw.board.faults.inject("queue-hang", queue=QUEUE, skip=1)
        rig.put([*write_data(SIGNAL, 1), *write_data(SIGNAL, 2)])
        assert "stands still" in rig.hung() and rig.signal[0] == 1 and posted == []


class TestEcc:
    def test_corrected(self, raw: RawBoard, posted: Interrupts) -> None:
        raw.board.vram.view[0x1000:0x1040] = 5
        raw.board.faults.inject("ecc-error", address=0x1000)
        assert posted == [(BIF, ih.NBIF_7_4__SRCID__RAS_CONTROLLER_INTERRUPT, 0, 0, ())]
        assert raw.field(CONTROL, "RAS_CNTLR_INTERRUPT_STATUS") and (raw.board.vram.view[0x1000:0x1040] == 5).all()
        table = smu13.EccInfoTable_t.from_buffer_copy(raw.board.ras.table())
        [entry] = [entry for entry in table.EccInfo if entry.mca_umc_status]
        assert (entry.ce_count_lo_chip, entry.mca_umc_addr, entry.mca_umc_status >> 46 & 1) == (1, 0x1000, 1)
        assert not any(raw.board.ras.table())                                   # read means cleared

    def test_uncorrectable(self, raw: RawBoard, posted: Interrupts) -> None:
        """The line is lost and no other; the status is cleared through the CLEAR field alone."""
        view = raw.board.vram.view
        view[0x2000:0x2100] = 5
        raw.board.faults.inject("ecc-error", address=0x2048, fatal=True)
        assert (view[0x2040:0x2040 + LINE] == GARBAGE).all() and (view[0x2000:0x2040] == 5).all()
        assert (view[0x2080:0x2100] == 5).all()
        assert posted[0][:2] == (BIF, ih.NBIF_7_4__SRCID__ERREVENT_ATHUB_INTERRUPT)
        raw.update(CONTROL, RAS_ATHUB_ERR_EVENT_INTERRUPT_STATUS=0)
        assert raw.field(CONTROL, "RAS_ATHUB_ERR_EVENT_INTERRUPT_STATUS") == 1
        raw.update(CONTROL, RAS_ATHUB_ERR_EVENT_INTERRUPT_CLEAR=1)
        assert raw.field(CONTROL, "RAS_ATHUB_ERR_EVENT_INTERRUPT_STATUS") == 0
        assert raw.field(CONTROL, "RAS_ATHUB_ERR_EVENT_INTERRUPT_CLEAR") == 0

    def test_switched_off(self, raw: RawBoard, posted: Interrupts) -> None:
        raw.update(CONTROL, RAS_CNTLR_INTERRUPT_DISABLE=1)
        raw.board.faults.inject("ecc-error", address=0)
        assert posted == [] and "interrupt-off" in raw.rules

    def test_engines(self, rig: Rig, posted: Interrupts) -> None:
        rig.raw.poke("CP_ME1_PIPE0_INT_CNTL", CP_ECC_ERROR_INT_ENABLE=1)
        rig.raw.board.faults.inject("ecc-error", block="cp", queue=QUEUE)
        assert "own memory" in rig.hung()
        rig.raw.board.faults.inject("ecc-error", block="sdma", queue="sdma 1.2")
        assert [entry[:3] for entry in posted] == [(CP, ih.GFX_11_0_0__SRCID__CP_ECC_ERROR, 4),
                                                   (GFX, ih.GFX_11_0_0__SRCID__SDMA_SRAM_ECC, 0x12)]
        with pytest.raises(ValueError, match="block='vcn'"):
            rig.raw.board.faults.inject("ecc-error", block="vcn")


class TestClocks:
    def test_a_throttled_clock(self, raw: RawBoard, posted: Interrupts) -> None:
        smu = raw.board.smu
        smu.start()
        metrics = lambda: smu13.SmuMetricsExternal_t.from_buffer_copy(smu._metrics()).SmuMetrics
        smu._limits[smu13.PPCLK_UCLK][0] = 1249
        assert metrics().CurrClock[smu13.PPCLK_UCLK] == 1249 and not any(metrics().ThrottlingPercentage)
        raw.board.faults.inject("clock-drop", clock=smu13.PPCLK_UCLK, mhz=96, celsius=111)
        assert posted == [(MP1, 0xFE, 0, 0, (7, 0, 0, 0)), (THM, 0, 0, 0, ())]
        seen = metrics()
        assert seen.CurrClock[smu13.PPCLK_UCLK] == 96 and seen.AvgTemperature[smu13.TEMP_HOTSPOT] == 111
        assert seen.ThrottlingPercentage[1] == 100
        raw.board.faults.clear("clock-drop")
        assert metrics().CurrClock[smu13.PPCLK_UCLK] == 1249 and not any(metrics().ThrottlingPercentage)

    def test_time_goes_on(self, raw: RawBoard) -> None:
        before = raw.board.clock()
        raw.board.faults.inject("clock-drop")
        assert raw.board.clock() >= before


def test_an_unmapped_hole_of_a_launch_does_not_reach_others(rig: Rig) -> None:
    """After a memory violation of one queue another runs."""
    raw = rig.raw
    raw.board.faults.inject("memory-violation", count=1)
    rig.code(END)
    rig.put(rig.dispatch((1, 1, 1), (32, 1, 1), rsrc2=0))
    rig.hung()
    assert raw.board.memory.read("gc", 1, CODE, 4) == END.to_bytes(4, "little")
