"""The comparison of two boots, on boots small enough to know the answer, and on Linux's own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import amdrv.regs
import mock
from amdrv.facts import psp
from amdrv.hal.mock import MockHal
from tools.boot_diff import reasons, report, trace
from tools.boot_diff.__main__ import LINUX, main
from tools.boot_diff.compare import Difference, compare
from tools.boot_diff.record import RecordingHal, record
from tools.boot_diff.trace import Event

LOG = """\
   0.161 # DMA_MAP 2000
  29.204 R 0x058184 MP0_SMN_C2PMSG_33                            0x80000000
   ... repeated 2 times
  30.003 W 0x069eac MMVM_CONTEXT0_PAGE_TABLE_BASE_ADDR_LO32      0x0fe00001
  30.010 W 0x07f000 dw_0x1fc00                                   0x00000000
  30.010 R 0x00378c RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE             0x00000100
  30.020 W 0x05820c MP0_SMN_C2PMSG_67                            0x00000020
  30.021 PSP LOAD_IP_FW args 0x8ed000 0x7fff 0x3fe00 0x12 0x0 0x0 0x0 0x0 fence 2
  30.022 PSP SETUP_TMR args 0xc000000 0x0 0x1300000 0x2 0xc000000 0x0 0x0 0x0 fence 3
  30.186 W 0x000050 BIF_BX_PF0_RSMU_INDEX                        0x03b10024
  30.186 R 0x000054 BIF_BX_PF0_RSMU_DATA                         0x00000001
  30.187 W 0x058a68 MP1_SMN_C2PMSG_90                            0x00000000
  30.187 W 0x058a48 MP1_SMN_C2PMSG_82                            0x00000007
  30.187 W 0x058a08 MP1_SMN_C2PMSG_66                            0x00000002
  30.187 SMU msg 0x2 arg 0x0
  30.188 W doorbell 0x458 = 0x600
  30.300 W 0x00a900 GRBM_GFX_CNTL                                0x00000030
  40.000 W 0x0049f0 SDMA0_CNTL                                   0x10000000
"""


def written(**values: int) -> list[Event]:
    return [Event("W", name, value) for name, value in values.items()]


# reading -----------------------------------------------------------------------------------------------

def test_a_log_of_amdgpu_becomes_events() -> None:
    events = trace.parse_log(LOG.splitlines(), until=35)
    assert events[:3] == [Event("R", "MP0_SMN_C2PMSG_33", 0x80000000)] * 3
    assert trace.fold(events[3:]) == [
        Event("W", "MMVM_CONTEXT0_PAGE_TABLE_BASE_ADDR_LO32", 0x0FE00001),
        Event("HDP"),
        Event("PSP", "LOAD_IP_FW", 0x12), Event("PSP", "SETUP_TMR"),
        Event("R", "SMN[0x3b10024]", 1),
        Event("SMU", "GetSmuVersion", 7),
        *trace.fold([events[-1]]),
    ]


def test_repeated_counts_accesses_not_commands() -> None:
    events = trace.parse_log(["1.0 R 0x058184 X 0x1", "1.0 PSP LOAD_TOC args 0x0 0x0 0x0 0x0 fence 1",
                              "   ... repeated 1 times"])
    assert [event.kind for event in events] == ["R", "PSP", "R"]


def test_banked_registers_are_named_by_their_bank() -> None:
    select = amdrv.regs.table("gc_11_0_0")["GRBM_GFX_CNTL"].pack
    events = [Event("W", "GRBM_GFX_CNTL", select(vmid=3)), Event("W", "SH_MEM_BASES", 1),
              Event("W", "GRBM_GFX_CNTL", select(meid=1, pipeid=2, queueid=5)), Event("W", "CP_HQD_ACTIVE", 1),
              Event("W", "GRBM_GFX_CNTL", select(meid=1, pipeid=2, queueid=6)), Event("W", "CP_HQD_ACTIVE", 1),
              Event("W", "CP_STAT", 0),
              Event("W", "GRBM_GFX_CNTL", select(meid=1, pipeid=2, queueid=5)), Event("W", "CP_MQD_CONTROL", 0)]
    assert [event.name for event in trace.fold(events)] == [
        "SH_MEM_BASES[vmid 3]", "CP_HQD_ACTIVE[queue #1]", "CP_HQD_ACTIVE[queue #2]", "CP_STAT",
        "CP_MQD_CONTROL[queue #1]"]


def test_what_is_behind_an_index_has_its_name() -> None:
    """Byte addresses; the port of the IH's doorbell as Linux reaches it, nbio_v4_3.c, nbio_v4_3_ih_doorbell_range."""
    events = [Event("W", "BIF_BX_PF0_RSMU_INDEX", 0x0141E904), Event("R", "BIF_BX_PF0_RSMU_INDEX", 0x0141E904),
              Event("W", "BIF_BX_PF0_RSMU_DATA", 0x57801),
              Event("W", "BIF_BX_PF0_RSMU_INDEX", 0x77777774), Event("R", "BIF_BX_PF0_RSMU_DATA", 1)]
    assert trace.fold(events) == [Event("W", "S2A_DOORBELL_ENTRY_1_CTRL", 0x57801), Event("R", "SMN[0x77777774]", 1)]


def test_folding_twice_is_folding_once() -> None:
    once = trace.load(LINUX)
    assert trace.fold(once) == once


def test_a_file_without_accesses_is_an_error() -> None:
    with pytest.raises(trace.TraceError, match=r"no register access in it: lines look like '30\.003 W 0x069eac"):
        trace.parse_log(["hello"])


EVENTS = st.lists(st.one_of(
    st.just(Event("HDP")),
    st.builds(Event, st.sampled_from(["R", "W", "PSP", "SMU"]), st.sampled_from(["A", "B[vmid 1]", "C"]),
              st.integers(0, 3))), max_size=60)


@given(EVENTS)
def test_our_form_reads_back(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    path = tmp_path_factory.mktemp("t") / "x.txt"
    path.write_text(trace.dump(events * 3, ["about"]))
    assert trace.load(path) == events * 3
    assert path.read_text().startswith("# about\n")


def test_our_form_is_compact() -> None:
    group = [Event("W", f"R{i}", i) for i in range(12)]
    assert trace.dump(group * 24).splitlines()[12:] == ["* 12 23"]


@pytest.mark.parametrize("line", ["X A 0x1", "W A", "W 0x1", "R A zz", "* 5 2", "* x", "HDP 1", "nonsense"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "broken.txt"
    path.write_text(f"# c\nHDP\n{line}\n")
    with pytest.raises(trace.TraceError, match=r"broken\.txt:3: .* is no event"):
        trace.load(path)


@pytest.mark.parametrize(("name", "block"), [
    ("MMVM_L2_CNTL", "MM hub"), ("GCVM_L2_CNTL", "GC hub"), ("SDMA1_QUEUE0_RB_CNTL", "SDMA"), ("CP_HQD_ACTIVE", "GFX"),
    ("SH_MEM_BASES[vmid 1]", "GFX"), ("MP0_SMN_C2PMSG_64", "PSP"), ("MP1_SMN_C2PMSG_53", "SMU"), ("IH_RB_CNTL", "IH"),
    ("SMN[0x123]", "NBIO"), ("BIF_BX0_INTERRUPT_CNTL2", "NBIO"), ("HDP_CLK_CNTL", "HDP"), ("dw_0x12d1", "unnamed")])
def test_blocks(name: str, block: str) -> None:
    assert trace.block_of(name) == block


# comparing ---------------------------------------------------------------------------------------------

def test_equal_boots_do_not_differ() -> None:
    linux = trace.load(LINUX)
    assert compare(linux, linux) == []


def test_reads_do_not_count() -> None:
    assert compare(written(IH_CNTL2=1), [Event("R", "IH_CNTL2", 0), *written(IH_CNTL2=1)]) == []


def test_registers_of_one_side() -> None:
    assert compare(written(IH_CNTL2=8, CP_STAT=0), written(CP_STAT=0, GCVM_L2_CNTL=3)) == [
        Difference("IH", "only Linux", "IH_CNTL2", "0x8", ""),
        Difference("GC hub", "only ours", "GCVM_L2_CNTL", "", "0x3")]


def test_values_differ_by_field() -> None:
    [found] = compare(written(GCVM_CONTEXT0_CNTL=0b0011), written(GCVM_CONTEXT0_CNTL=0b1101))
    assert (found.kind, found.fields) == ("value", ("PAGE_TABLE_DEPTH", "PAGE_TABLE_BLOCK_SIZE"))
    assert found.linux == "PAGE_TABLE_DEPTH=0x1, PAGE_TABLE_BLOCK_SIZE=0x0"
    assert found.ours == "PAGE_TABLE_DEPTH=0x2, PAGE_TABLE_BLOCK_SIZE=0x1"


def test_bits_that_were_only_kept_do_not_differ() -> None:
    """Linux read 0 and set bit 0; we read 0x80 and set bit 0: the reset values differ, the drivers do not."""
    linux = [Event("R", "IH_CNTL2", 0), Event("W", "IH_CNTL2", 1)]
    ours = [Event("R", "IH_CNTL2", 0x80), Event("W", "IH_CNTL2", 0x81)]
    assert compare(linux, ours) == []
    assert [d.kind for d in compare(linux, written(IH_CNTL2=0x81))] == ["value"]


def test_the_way_to_the_same_value() -> None:
    [found] = compare([*written(IH_CNTL2=1), *written(IH_CNTL2=1), *written(IH_CNTL2=3)], written(IH_CNTL2=3))
    assert (found.kind, found.linux, found.ours) == ("way", "0x1, 0x3", "0x3")


def test_order_names_the_fewest_registers() -> None:
    names = ["IH_CNTL", "IH_CNTL2", "IH_RB_BASE", "IH_RB_RPTR", "IH_RB_WPTR"]
    linux = [Event("W", name, 0) for name in names]
    ours = [Event("W", name, 0) for name in [names[4], *names[:4]]]
    assert compare(linux, ours) == [Difference("IH", "order", "IH_RB_WPTR", "after IH_RB_RPTR", "first")]


def test_order_of_the_blocks() -> None:
    found = compare(written(IH_CNTL2=1, GCVM_L2_CNTL=1, HDP_CLK_CNTL=1),
                    written(GCVM_L2_CNTL=1, HDP_CLK_CNTL=1, IH_CNTL2=1))
    assert found == [Difference("stages", "order", "IH", "first", "after HDP")]


@given(st.permutations(["IH_CNTL", "IH_CNTL2", "IH_RB_BASE", "IH_RB_RPTR", "IH_RB_WPTR", "IH_RB_CNTL"]))
def test_moving_what_is_named_gives_the_other_order(other: list[str]) -> None:
    one = sorted(other)
    moved = {d.name for d in compare([Event("W", n, 0) for n in one], [Event("W", n, 0) for n in other])}
    assert [n for n in one if n not in moved] == [n for n in other if n not in moved]
    assert bool(moved) == (one != other)


def test_commands_are_compared_like_registers() -> None:
    linux = [Event("PSP", "LOAD_IP_FW", 8), Event("PSP", "LOAD_TA"), Event("SMU", "GetSmuVersion", 0)]
    ours = [Event("PSP", "LOAD_IP_FW", 8), Event("SMU", "GetSmuVersion", 1)]
    assert [str(d) for d in compare(linux, ours)] == [
        "PSP: only Linux: PSP LOAD_TA: Linux 1 times; ours -",
        "SMU: value: SMU GetSmuVersion: Linux 0x0; ours 0x1"]
    assert [d.name for d in compare([Event("PSP", "LOAD_IP_FW", 8)], [])] == ["PSP LOAD_IP_FW RLC_G"]


# reasons -----------------------------------------------------------------------------------------------

REASON = """
[[reason]]
block = "IH"
kind = ["only Linux", "order"]
names = ["IH_RB_*", "X[vmid *]"]
why = '''
because  it
is so'''
"""


def written_reasons(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "reasons.toml"
    path.write_text(text)
    return path


def test_a_reason_covers_block_kind_and_names(tmp_path: Path) -> None:
    [reason] = reasons.load_reasons(written_reasons(tmp_path, REASON))
    assert reason.why == "because it is so"
    yes = Difference("IH", "order", "IH_RB_CNTL", "", "")
    in_brackets = Difference("IH", "order", "X[vmid 3]", "", "")
    no = [Difference("IH", "value", "IH_RB_CNTL", "", ""), Difference("GFX", "order", "IH_RB_CNTL", "", ""),
          Difference("IH", "order", "IH_CNTL", "", "")]
    assert reasons.explain([yes, in_brackets, *no], [reason]) == [
        (yes, reason), (in_brackets, reason), *((difference, None) for difference in no)]


def test_a_reason_may_name_ranges_as_the_reports_do() -> None:
    reason = reasons.Reason("IH", ("order",), ("A{1..3,7}_B{0..1}*",), "x")
    names = [f"A{i}_B{j}_X" for i in range(10) for j in range(3)]
    assert [name for name in names if reason.covers(Difference("IH", "order", name, "", ""))] == [
        f"A{i}_B{j}_X" for i in (1, 2, 3, 7) for j in (0, 1)]


def test_a_reason_may_name_the_fields_that_may_differ() -> None:
    reason = reasons.Reason("IH", ("value",), ("*",), "x", fields=("RB_SIZE",))
    assert reason.covers(Difference("IH", "value", "IH_RB_CNTL", "", "", ("RB_SIZE",)))
    assert not reason.covers(Difference("IH", "value", "IH_RB_CNTL", "", "", ("RB_SIZE", "RB_ENABLE")))


def test_a_reason_that_explains_nothing_is_found() -> None:
    difference = Difference("IH", "order", "A", "", "")
    some, none = reasons.Reason("IH", ("order",), ("A",), "x"), reasons.Reason("IH", ("order",), ("B",), "x")
    assert reasons.unused(reasons.explain([difference], [some, none]), [some, none]) == [none]


@pytest.mark.parametrize(("change", "message"), [
    (('"IH"', '"IHH"'), "reason 1: no block of stages, NBIO"),
    (('"order"', '"odrer"'), "reason 1: no kind of only Linux"),
    (('["IH_RB_*", "X[vmid *]"]', "[]"), "reason 1: no names"),
    (("because  it\nis so", " "), "reason 1: no why"),
    (("names", "name"), "reason 1: an unknown key: name")])
def test_a_reason_that_means_nothing_is_an_error(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(reasons.ReasonError, match=message):
        reasons.load_reasons(written_reasons(tmp_path, REASON.replace(*change)))


# reporting ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("names", "short"), [
    (["A1_B", "A2_B", "A3_B", "A7_B"], ["A{1..3,7}_B"]),
    (["A1_LO32", "A2_LO32", "A2_HI32"], ["A{1..2}_LO32", "A2_HI32"]),
    (["X[me 1 pipe 0 queue 0]"], ["X[me 1 pipe 0 queue 0]"]),
    (["A1_B1", "A2_B2"], ["A1_B1", "A2_B2"]),
    (["PLAIN"], ["PLAIN"])])
def test_arrays_are_written_short(names: list[str], short: list[str]) -> None:
    assert report.names_in_short(names) == short


EXPLAINED: list[tuple[Difference, reasons.Reason | None]] = [
    (Difference("IH", "only Linux", "IH_CNTL", "0x1", ""), reasons.Reason("IH", ("only Linux",), ("*",), "it | is so")),
    (Difference("NBIO", "value", "A1", "0x1", "0x2"), None),
    (Difference("NBIO", "value", "A2", "0x1", "0x2"), None),
]


def test_markdown() -> None:
    text = report.markdown(EXPLAINED, [], (5, 4))
    assert text.startswith("Linux writes 5 registers and commands, we write 4; 3 differences, 2 without a reason.\n")
    assert "### NBIO\n\n| differs | register | Linux | ours | because |\n|---|---|---|---|---|\n" \
           "| value | `A{1..2}` | `0x1` | `0x2` | **no reason** |\n" in text
    assert "| only Linux | `IH_CNTL` | `0x1` |  | it \\| is so |" in text


def test_places_in_memory_are_not_shown() -> None:
    reason = reasons.Reason("IH", ("value",), ("*",), "allocated", allocated=True)
    explained = [(Difference("IH", "value", name, one, other), reason)
                 for name, one, other in (("IH_RB_BASE", "0x1", "0x2"), ("IH_RB_BASE_HI", "0x3", "0x4"))]
    assert "| value | `IH_RB_BASE`, `IH_RB_BASE_HI` | its own place | its own place | allocated |" in report.markdown(
        explained, [], (2, 2))
    assert "0x3" in json.dumps(report.as_json(explained, [], (2, 2)))


def test_text_is_plain_where_it_is_no_terminal() -> None:
    out = io.StringIO()
    report.print_text(EXPLAINED, [reasons.Reason("IH", ("way",), ("Z",), "x")], (5, 4), Console(file=out, width=80))
    text = out.getvalue()
    assert "\x1b" not in text
    assert all(part in text for part in ("A{1..2}", "NO REASON", "it | is so", "explains nothing: IH way Z",
                                         "1 reasons explain nothing."))


# the command -------------------------------------------------------------------------------------------

def run(tmp_path: Path, *arguments: str, reason: str = "", ours: str = "W IH_CNTL2 0x1\n") -> int:
    (tmp_path / "ours.txt").write_text(ours)
    (tmp_path / "linux.txt").write_text("W IH_CNTL2 0x2\n")
    return main(["--ours", str(tmp_path / "ours.txt"), "--linux", str(tmp_path / "linux.txt"), "--reasons",
                 str(written_reasons(tmp_path, reason)), *arguments])


def test_check_wants_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--check") == 1
    said = capsys.readouterr().err
    assert "no reason: IH: value: IH_CNTL2: Linux SELF_IV_FORCE_WPTR_UPDATE_TIMEOUT=0x2; ours SELF_IV_" in said


def test_check_wants_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--check", reason=REASON, ours="W IH_CNTL2 0x2\n") == 1
    assert "boot_diff: explains nothing: IH: only Linux/order: IH_RB_*" in capsys.readouterr().err


def test_json_has_a_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "amdrv-boot-diff/1" and said["written"] == {"linux": 1, "ours": 1}
    field = "SELF_IV_FORCE_WPTR_UPDATE_TIMEOUT"
    assert said["differences"] == [{"block": "IH", "kind": "value", "name": "IH_CNTL2", "linux": f"{field}=0x2",
                                    "ours": f"{field}=0x1", "fields": [field], "reason": None}]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, ours="what\n") == 2
    assert capsys.readouterr().err.endswith("ours.txt:1: 'what' is no event\n")
    assert run(tmp_path, reason="[[reason]]\nblock = 'IH'\n") == 2
    assert "reasons.toml, reason 1: no kind of" in capsys.readouterr().err
    assert main(["distill", str(tmp_path / "nothing.log")]) == 2
    assert "nothing.log" in capsys.readouterr().err


def test_the_mocks_recording_tells_what_ours_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our boot, written down by the HAL that the driver sees and by the card: the same writes, the same commands."""
    path = tmp_path / "boot.trace"
    monkeypatch.setenv("AMDRV_MOCK_TRACE", str(path))
    with mock.Machine() as machine:
        monkeypatch.setattr(MockHal, "_shared", MockHal(machine))
        seen = trace.fold(record("mock"))
    told = trace.fold(trace.parse_recording(path))
    for kinds in ("W", "PSP", "SMU"):
        expected = [event for event in seen if event.kind in kinds]
        assert [event for event in told if event.kind in kinds][:len(expected)] == expected and expected, kinds
    empty = tmp_path / "empty.trace"
    monkeypatch.setenv("AMDRV_MOCK_TRACE", str(empty))
    mock.Machine().close()
    with pytest.raises(trace.TraceError, match="no register access in it"):
        trace.parse_recording(empty)


def test_distill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.log").write_text(LOG)
    assert main(["distill", str(tmp_path / "a.log"), "--until", "35", "--version", "7.3.4", "-o",
                 str(tmp_path / "a.txt")]) == 0
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert "7.3.4" in lines[0] and "SMU GetSmuVersion 0x7" in lines and not any("SDMA0" in line for line in lines)


# recording ---------------------------------------------------------------------------------------------

class FakeCard:
    """A PCI device of which the recorder needs two BARs."""

    def __init__(self) -> None:
        self.vram = np.zeros(0x4000, np.uint8)
        self.words: dict[int, int] = {}
        self.accesses = 0

    def bar(self, index: int) -> FakeRegion:
        return FakeRegion(self)

    def __enter__(self) -> FakeCard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.accesses = -1


class FakeRegion:
    size = 1 << 20

    def __init__(self, card: FakeCard) -> None:
        self.card = card

    def read32(self, offset: int) -> int:
        self.card.accesses += 1
        return self.card.words.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        self.card.accesses += 1
        self.card.words[offset] = value

    def view(self, offset: int, size: int) -> np.ndarray:
        return self.card.vram[offset:offset + size]


class FakeHal:
    name = "fake"

    def __init__(self) -> None:
        self.card = FakeCard()

    def open(self, address: str, *, dma_bits: int = 44) -> FakeCard:
        return self.card


def test_a_recording_passes_everything_on_and_reads_the_psp_ring() -> None:
    hal = FakeHal()
    recording = RecordingHal(hal)       # type: ignore[arg-type]
    fb = 0x8000 << 24                   # MMMC_VM_FB_LOCATION_BASE counts 16 MiB
    hal.card.words[0x06A3B0] = 0x8000
    frame = psp.psp_gfx_rb_frame(cmd_buf_addr_lo=(fb + 0x2000) & 0xFFFFFFFF, cmd_buf_addr_hi=fb >> 32)
    command = psp.psp_gfx_cmd_resp(cmd_id=psp.GFX_CMD_ID_LOAD_IP_FW)
    command.cmd.cmd_load_ip_fw.fw_type = 8
    for offset, structure in ((0x1000, frame), (0x2000, command)):
        data = np.frombuffer(bytes(structure), np.uint8)
        hal.card.vram[offset:offset + len(data)] = data
    with recording.open("0000:03:00.0") as device:
        registers = device.bar(5)
        assert registers.size == 1 << 20 and device.bar(5) is registers
        assert registers.read32(0x06A3B0) == 0x8000
        for offset, value in ((0x058214, (fb + 0x1000) & 0xFFFFFFFF), (0x058218, fb >> 32), (0x05821C, 0x1000),
                              (0x05820C, 16)):
            registers.write32(offset, value)
    assert hal.card.accesses == -1      # the card was closed
    assert recording.name == "fake"
    assert [str(event) for event in recording.events] == [
        "R MMMC_VM_FB_LOCATION_BASE 0x8000", f"W MP0_SMN_C2PMSG_69 {fb + 0x1000 & 0xFFFFFFFF:#x}",
        f"W MP0_SMN_C2PMSG_70 {fb >> 32:#x}", "W MP0_SMN_C2PMSG_71 0x1000", "W MP0_SMN_C2PMSG_67 0x10",
        "PSP LOAD_IP_FW 0x8"]
    assert trace.fold(recording.events)[-1] == Event("PSP", "LOAD_IP_FW", 8)
