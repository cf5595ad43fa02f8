"""The register file: names to addresses, fields to bits, mistakes to one clear error each."""

from __future__ import annotations

import enum
import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import amdrv.regs
from amdrv.errors import AmdrvError, RegisterError
from amdrv.regs import Register, RegisterFile, Table, Value

GC_BASES = (0x1260, 0xA000, 0x1C000, 0x2402C00)


class Card:
    """32-bit registers that remember every access."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}
        self.log: list[tuple[str, int, int]] = []
        tables = [(amdrv.regs.table("gc_11_0_0"), GC_BASES), (amdrv.regs.table("mp_13_0_0"), (0x16000,)),
                  (amdrv.regs.table("nbio_4_3_0"), (0, 0x14, 0xD20))]
        self.regs = RegisterFile(self.read32, self.write32, tables)

    def read32(self, address: int) -> int:
        self.log.append(("R", address, self.words.get(address, 0)))
        return self.words.get(address, 0)

    def write32(self, address: int, value: int) -> None:
        self.log.append(("W", address, value))
        self.words[address] = value


@pytest.fixture
def card() -> Card:
    return Card()


def test_a_write_is_one_access_with_the_fields_in_place(card: Card) -> None:
    card.regs.GCVM_CONTEXT0_CNTL.write(enable_context=1, PAGE_TABLE_DEPTH=3)
    assert card.log == [("W", 0x1260 + 0x1688, 0b111)]


def test_a_write_puts_fields_into_the_value_given(card: Card) -> None:
    card.regs.GCVM_CONTEXT0_CNTL.write(0xFFFF_FFFF, page_table_depth=0)
    card.regs.GCVM_CONTEXT0_CNTL.write()
    assert [value for _, _, value in card.log] == [0xFFFF_FFF9, 0]


def test_update_reads_once_writes_once_and_keeps_the_rest(card: Card) -> None:
    register = card.regs.GCVM_CONTEXT0_CNTL
    card.words[register.address] = 0xF000_0006
    written = register.update(enable_context=1, page_table_depth=1)
    assert card.log == [("R", register.address, 0xF000_0006), ("W", register.address, 0xF000_0003)]
    assert written == 0xF000_0003 and written.page_table_depth == 1


def test_read_gives_an_integer_with_fields(card: Card) -> None:
    card.words[0x1260 + 0x1688] = 0x80000007
    value = card.regs.GCVM_CONTEXT0_CNTL.read()
    assert isinstance(value, int) and value == 0x80000007 and value & 1 == 1
    assert (value.enable_context, value.page_table_depth, value["PAGE_TABLE_DEPTH"]) == (1, 3, 3)
    assert value.fields()["PAGE_TABLE_BLOCK_SIZE"] == 0
    assert str(value) == repr(value) == (
        "GCVM_CONTEXT0_CNTL = 0x80000007 (ENABLE_CONTEXT=1, PAGE_TABLE_DEPTH=3, no field: 0x80000000)")
    assert f"{value}" == str(value) and f"{value:#x}" == "0x80000007" and f"{value:d}" == "2147483655"
    assert hash(value) == hash(0x80000007)
    assert pickle.loads(pickle.dumps(value)) == 0x80000007


def test_value_of_a_register_prints_zero_and_big_fields() -> None:
    status = amdrv.regs.table("gc_11_0_0")["CP_HQD_PQ_BASE"]
    assert repr(Value(status, 0)) == "CP_HQD_PQ_BASE = 0x00000000"
    assert repr(Value(status, 0x7FFF)) == "CP_HQD_PQ_BASE = 0x00007fff (ADDR=0x7fff)"


def test_value_without_such_a_field_is_an_attribute_error(card: Card) -> None:
    value = card.regs.CP_HQD_ACTIVE.read()
    with pytest.raises(AttributeError, match="CP_HQD_ACTIVE has no field 'activ'; close: ACTIVE"):
        _ = value.activ
    assert not hasattr(value, "activ") and hasattr(value, "active")


def test_names_may_be_computed(card: Card) -> None:
    for n in (0, 1, 15):
        card.regs[f"GCVM_CONTEXT{n}_CNTL"].write(enable_context=1)
    first, last = (card.regs[f"GCVM_CONTEXT{n}_CNTL"].address for n in (0, 15))
    assert last - first == 15 and card.words[last] == 1
    assert card.regs.SDMA1_QUEUE0_RB_CNTL.address - card.regs.SDMA0_QUEUE0_RB_CNTL.address == 0x600


def test_a_name_is_bound_once(card: Card) -> None:
    assert card.regs.CP_STAT is card.regs.CP_STAT is card.regs["CP_STAT"]
    assert "CP_STAT" in card.regs and "CP_STATT" not in card.regs


def test_bases_are_those_of_the_table(card: Card) -> None:
    assert card.regs.RLC_RLCS_BOOTLOAD_STATUS.address == 0xA000 + 0x4E82
    assert card.regs.MP1_SMN_C2PMSG_90.address == 0x16000 + 0x29A
    assert card.regs.BIF_BX_PF0_RSMU_INDEX.address == 0x14


def test_reverse_lookup(card: Card) -> None:
    assert [r.name for r in card.regs.at(0x1260 + 0x1FAB)] == ["CP_HQD_ACTIVE"]
    assert [r.name for r in card.regs.at(0x07F000 // 4)] == ["REMAP_HDP_MEM_FLUSH"]
    assert card.regs.at(0x3FFFFFF) == ()


def test_iteration_gives_what_has_an_address(card: Card) -> None:
    bound = {register.name: register.address for register in card.regs}
    assert bound["CP_HQD_ACTIVE"] == 0x1260 + 0x1FAB
    assert "SQ_WAVE_STATUS" not in bound                # indexed
    assert "BIF_CFG_DEV0_EPF0_VENDOR_ID" not in bound    # base 5, not given here
    assert all(name in card.regs for name in list(bound)[::500])
    assert card.log == []


def test_repr_does_not_touch_the_card(card: Card) -> None:
    assert repr(card.regs.CP_STAT) == "<CP_STAT at dword 0x21a0>"
    assert repr(card.regs) == "<RegisterFile gc_11_0_0 mp_13_0_0 nbio_4_3_0>"
    assert card.log == []


def test_integers_of_any_kind_are_values(card: Card) -> None:
    class Depth(enum.IntEnum):
        FOUR = 3

    card.regs.GCVM_CONTEXT0_CNTL.write(np.uint32(0), enable_context=True, page_table_depth=Depth.FOUR,
                                       page_table_block_size=np.int64(9))
    assert card.log == [("W", 0x1260 + 0x1688, 7 | 9 << 3)]
    assert type(card.log[0][2]) is int


def test_a_field_may_be_called_value() -> None:
    written: list[int] = []
    regs = RegisterFile(lambda _: 0, lambda _, value: written.append(value),
                        [(Table("t", "COUNT 0 0 VALUE:7:4 NAME:3:0\n"), (0,))])
    regs.COUNT.write(value=5, name=1)
    regs.COUNT.write(0xF00, value=5)
    assert written == [0x51, 0xF50]


ERRORS: list[tuple[Callable[[RegisterFile], object], str]] = [
    (lambda r: r.GCVM_CONTEXT0_CTL, "no register 'GCVM_CONTEXT0_CTL' in gc_11_0_0, mp_13_0_0, nbio_4_3_0; "
                                    "close: GCVM_CONTEXT0_CNTL"),
    (lambda r: r["regCP_STAT"], "no register 'regCP_STAT' in .*; close: CP_STAT$"),
    (lambda r: r["not a name"], "no register 'not a name' in .*; nothing has a name like it$"),
    (lambda r: r.CP_HQD_ACTIVE.write(actve=1), "^CP_HQD_ACTIVE has no field 'actve'; close: ACTIVE"),
    (lambda r: r.CP_HQD_ACTIVE.update(value=1), "^CP_HQD_ACTIVE has no field 'value'; close: ACTIVE, BUSY_GATE"),
    (lambda r: r.TD_DSM_CNTL.write(x=1), "^TD_DSM_CNTL has no field 'x': AMD's header names no fields"),
    (lambda r: r.GCVM_CONTEXT0_CNTL.write(page_table_depth=4),
     r"^GCVM_CONTEXT0_CNTL\.PAGE_TABLE_DEPTH = 0x4 does not fit bits 2:1; the largest value is 0x3$"),
    (lambda r: r.GCVM_CONTEXT0_CNTL.update(enable_context=-1), "ENABLE_CONTEXT = -0x1 does not fit bits 0:0"),
    (lambda r: r.GCVM_CONTEXT0_CNTL.write(enable_context=1.0),     # type: ignore[arg-type]
     r"^GCVM_CONTEXT0_CNTL\.ENABLE_CONTEXT: the value must be an integer, not 1\.0$"),
    (lambda r: r.CP_STAT.write(1 << 32), "^CP_STAT: the value 0x100000000 does not fit 32 bits$"),
    (lambda r: r.CP_STAT.write(-1), "^CP_STAT: the value -0x1 does not fit 32 bits$"),
    (lambda r: r.CP_STAT.write("1"), "^CP_STAT: the value must be an integer, not '1'$"),    # type: ignore[arg-type]
    (lambda r: r.SQ_WAVE_STATUS, "^SQ_WAVE_STATUS of gc_11_0_0 is an indexed register: .* reached through an index "),
    (lambda r: r.BIF_CFG_DEV0_EPF0_VENDOR_ID,
     "^BIF_CFG_DEV0_EPF0_VENDOR_ID of nbio_4_3_0 is relative to base 5, and the discovery table gives 3 bases"),
]


@pytest.mark.parametrize(("mistake", "message"), ERRORS)
def test_mistakes_are_register_errors_and_write_nothing(card: Card, mistake: Callable[[RegisterFile], object],
                                                        message: str) -> None:
    with pytest.raises(RegisterError, match=message) as caught:
        mistake(card.regs)
    assert isinstance(caught.value, AmdrvError)
    assert not [entry for entry in card.log if entry[0] == "W"]


def test_private_attributes_are_not_registers(card: Card) -> None:
    """copy, pickle and debuggers ask for such names."""
    with pytest.raises(AttributeError):
        _ = card.regs.__deepcopy__


@given(st.data())
def test_fields_do_not_disturb_each_other(data: st.DataObject) -> None:
    """Against arithmetic on a list of bits."""
    cuts = sorted(data.draw(st.sets(st.integers(1, 31), max_size=6)))
    edges = [0, *cuts, 32]
    spans = [(low, high - 1) for low, high in itertools.pairwise(edges)]
    spec = " ".join(f"F{i}:{high}:{low}" for i, (low, high) in enumerate(spans))
    register = Register("R", 0, 0, spec)
    old = data.draw(st.integers(0, 0xFFFFFFFF))
    i = data.draw(st.integers(0, len(spans) - 1))
    low, high = spans[i]
    new = data.draw(st.integers(0, 2 ** (high - low + 1) - 1))
    bits = list(f"{old:032b}"[::-1])
    bits[low:high + 1] = f"{new:0{high - low + 1}b}"[::-1]
    result = register.merge(old, {f"f{i}": new})
    assert result == int("".join(reversed(bits)), 2)
    assert register.unpack(result)[f"F{i}"] == new
