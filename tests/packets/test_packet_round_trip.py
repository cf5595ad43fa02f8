"""Every packet: what build() writes, decode() reads back; what cannot be built says why; garbage is only garbage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amdrv import pm4, sdma
from amdrv.errors import PacketError
from amdrv.facts import pm4 as pm4_facts
from amdrv.facts import sdma6 as sdma_facts
from amdrv.facts.layout import Packet

WORDS = st.integers(0, 0xFFFFFFFF)


def values(packet: Packet, fixed: set[str]) -> st.SearchStrategy[dict[str, int]]:
    """Values for one meaning of every word: fields of a word that overlap are not given together."""
    wide = {part.field for parts in packet.wide.values() for part in parts}
    chosen: dict[str, st.SearchStrategy[int]] = {}
    for word in packet.words:
        taken = 0
        for name, bits in word.fields.items():
            mask = ((2 << (bits[0] - bits[1])) - 1) << bits[1]
            if not taken & mask and name not in fixed and name not in wide:
                taken |= mask
                chosen[name] = st.integers(0, mask >> bits[1])
    lone = {name for word in packet.words if len(word.fields) == 1 for name in word.fields}
    for name, parts in packet.wide.items():
        if not all(part.field in lone or packet is pm4_facts.PACKETS["MEM_SEMAPHORE"] for part in parts) \
                and "FENCE_ADDR" in name:
            continue        # a word's second meaning
        said = sum(((2 << (part.msb - part.lsb)) - 1) << part.lsb for part in parts)
        chosen[name] = st.integers(0, (1 << 64) - 1).map(said.__and__)
    return st.fixed_dictionaries(chosen)


@pytest.mark.parametrize("name", list(pm4_facts.PACKETS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_pm4_round_trip(name: str, data: st.DataObject) -> None:
    packet = pm4_facts.PACKETS[name]
    fields = data.draw(values(packet, set()))
    tail = data.draw(st.lists(WORDS, min_size=1, max_size=9)) if packet.tail else []
    words = pm4.build(name, **fields, **({packet.tail: tail} if packet.tail else {}), SHADER_TYPE=1)
    assert words[0] == 3 << 30 | (len(words) - 2) << 16 | packet.opcode << 8 | 2
    [read] = pm4.decode(words)
    assert (read.name, read.problem, read.tail, read.words) == (name, None, tuple(tail), tuple(words))
    assert {field: read.fields[field] for field in fields} == fields
    again = {field: read.fields[field] for field in pm4.fields(name) if field in fields}
    assert pm4.build(name, **again, **({packet.tail: tail} if packet.tail else {}), SHADER_TYPE=1) == words


@pytest.mark.parametrize("name", list(sdma_facts.PACKETS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_sdma_round_trip(name: str, data: st.DataObject) -> None:
    packet = sdma_facts.PACKETS[name]
    fixed = {"OP", "SUB_OP", *packet.when, *([packet.length[0]] if packet.length else [])}
    fields = data.draw(values(packet, fixed))
    tail = data.draw(st.lists(WORDS, min_size=packet.length[1], max_size=9)) if packet.length else []
    words = sdma.build(name, **fields, **({packet.tail: tail} if packet.tail else {}))
    assert len(words) == len(packet.words) + len(tail)
    [read] = sdma.decode(words)
    expected = name
    if name == "COPY_TILED" and words[0] >> 27 & 1:
        expected = "COPY_L2T_BROADCAST"
    assert (read.name, read.problem, read.tail, read.words) == (expected, None, tuple(tail), tuple(words))
    assert {field: read.fields[field] for field in fields} == fields


def test_streams_are_read_packet_by_packet() -> None:
    first = pm4.build("PFP_SYNC_ME")
    second = pm4.build("NOP")
    third = pm4.build("WRITE_DATA", DST_SEL="MEM", DST_ADDR=0x1234_5678_9ABC, DATA=[7])
    read = pm4.decode(first + second + [pm4_facts.PACKET2_NOP] + third)
    assert [(packet.name, packet.index) for packet in read] == [("PFP_SYNC_ME", 0), ("NOP", 2), ("NOP2", 3),
                                                                ("WRITE_DATA", 4)]
    assert read[3]["DST_ADDR"] == 0x1234_5678_9ABC
    assert read[3].enums["DST_SEL"] == "MEM"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(WORDS, WORDS.map(lambda word: word & 0xC003FFFF | 3 << 30)), max_size=40))
def test_any_words_are_read_and_none_is_lost(words: list[int]) -> None:
    modules: tuple[ModuleType, ...] = (pm4, sdma)
    for module in modules:
        packets = module.decode(words)
        assert [word for packet in packets for word in packet.words] == words
        assert module.dump(words).count("\n") + 1 >= len(packets)


def test_register_names_and_fields_are_printed() -> None:
    words = pm4.build("SET_SH_REG", REG_OFFSET=0x20C, VALUE=[0x1234, 0x80])
    assert "COMPUTE_PGM_LO = 0x00001234" in pm4.dump(words)
    assert "COMPUTE_PGM_HI = 0x00000080" in pm4.dump(words)
    assert "GRBM_GFX_INDEX = 0xe0000000 (SA_BROADCAST_WRITES=1" in pm4.dump(pm4.set_registers(0xC200, [0xE0000000]))
    assert "register 0x2fff = 0x00000007" in pm4.dump(pm4.set_registers(0x2FFF, [7]), registers=lambda _: ())


def test_a_dump_says_what_is_wrong() -> None:
    release = pm4.build("RELEASE_MEM", EVENT_TYPE="CS_DONE", ADDRESS=0x1000, DATA=1, INT_CTXID=0)
    assert "EVENT_TYPE = CS_DONE (47)" in pm4.dump(release)
    cut = pm4.decode(release[:3])[0]
    assert cut.problem == "its header announces 7 words, 2 are left"
    assert "!! its header announces 7 words, 2 are left: c0064900" in str(cut)
    assert pm4.decode([0x12345678])[0].problem == "a header of type 0"
    assert pm4.decode([0xC000F500, 1])[0].problem == "opcode 0xf5 is not known"
    assert pm4.decode([0xC0024200, 1, 2, 3])[0].problem == "it has 2 words, its header announces 4"
    assert "CONTROL: bits of no field 0x00000800" in pm4.dump([0xC0005900, 0x800])
    assert sdma.decode([0x000000FE])[0].problem == "opcode 254, sub-opcode 0 is not known"
    assert sdma.decode(sdma.build("NOP", DATA=[1, 2, 3])[:2])[0].problem == "it has 4 words, 2 are left"


BAD: list[tuple[Callable[..., object], str, Mapping[str, Any], str]] = [
    (pm4.build, "JUMP", {}, "'JUMP' is no PM4 packet; known are NOP, SET_BASE, "),
    (pm4.build, "AQL_PACKET", {}, "'AQL_PACKET' has no layout; known are NOP, "),
    (pm4.build, "WRITE_DATA", {"DST_ADDR": 0}, "WRITE_DATA needs DATA, at least one word"),
    (pm4.build, "WRITE_DATA", {"DATA": [1]}, "WRITE_DATA needs DST_ADDR"),
    (pm4.build, "WRITE_DATA", {"DST_ADDR": 0, "DATA": [1 << 32]},
     "WRITE_DATA.DATA = 0x100000000 does not fit; the largest value is 0xffffffff"),
    (pm4.build, "WRITE_DATA", {"DST_ADDR": 0, "DST_ADDR_LO": 0, "DATA": [1]},
     "WRITE_DATA: DST_ADDR and its part DST_ADDR_LO are both given"),
    (pm4.build, "WRITE_DATA", {"DST_ADDR_LO": 0, "DATA": [1]}, "WRITE_DATA needs DST_ADDR"),
    (pm4.build, "RELEASE_MEM", {"ADDRESS": 0x1002, "DATA": 0, "INT_CTXID": 0},
     "RELEASE_MEM.ADDRESS = 0x1002 must be a multiple of 0x4"),
    (pm4.build, "RELEASE_MEM", {"ADDRESS": 0, "DATA": 1 << 64, "INT_CTXID": 0},
     "RELEASE_MEM.DATA = 0x10000000000000000 does not fit; the largest value is 0xffffffffffffffff"),
    (pm4.build, "RELEASE_MEM", {"ADDRESS": 0, "DATA": 1.0, "INT_CTXID": 0},
     "RELEASE_MEM.DATA: the value must be an integer, not 1.0"),
    (pm4.build, "RELEASE_MEM", {"ADDRESS": 0, "DATA": 0, "INT_CTXID": 0, "EVENT": 4},
     "RELEASE_MEM has no field 'EVENT'; it has PREDICATE, SHADER_TYPE, "),
    (pm4.build, "RELEASE_MEM", {"ADDRESS": 0, "DATA": 0, "INT_CTXID": 0, "INT_SEL": 8},
     "RELEASE_MEM.INT_SEL = 0x8 does not fit; the largest value is 0x7"),
    (pm4.build, "RELEASE_MEM", {"ADDRESS": 0, "DATA": 0, "INT_CTXID": 0, "INT_SEL": "SOON"},
     "RELEASE_MEM.INT_SEL has no value 'SOON'; it has NONE, INTERRUPT_ONLY, "),
    (pm4.build, "EVENT_WRITE", {"EVENT_TYPE": 7, "ADDRESS_LO": 8},
     "EVENT_WRITE: ADDRESS, ADDRESS_HI, ADDRESS_LO are given all or not at all"),
    (pm4.build, "REWIND", {"OPCODE": 1}, "REWIND.OPCODE is filled in and cannot be given"),
    (pm4.build, "NOP", {"DATA": [0] * 0x4000}, "NOP: 16384 words of DATA are too many"),
    (pm4.set_registers, "", {}, "registers 0x5 to 0x5 are in no space that a packet sets: SET_CONFIG_REG 0x2000"),
    (sdma.build, "COPY", {}, "'COPY' is no SDMA packet; known are NOP, COPY_LINEAR, "),
    (sdma.build, "COPY_LINEAR", {"SRC_ADDR": 0}, "COPY_LINEAR needs COUNT, DST_ADDR"),
    (sdma.build, "COPY_LINEAR", {"SRC_ADDR": 0, "DST_ADDR": 0, "COUNT": -1},
     "COPY_LINEAR.COUNT = -0x1 does not fit; the largest value is 0x3fffffff"),
    (sdma.build, "WRITE_UNTILED", {"DST_ADDR": 0}, "WRITE_UNTILED needs DATA, at least one word"),
    (sdma.build, "WRITE_UNTILED", {"DST_ADDR": 0, "DATA": [1], "COUNT": 0},
     "WRITE_UNTILED.COUNT is filled in and cannot be given"),
    (sdma.build, "NOP", {"DATA": [0] * 0x4000}, "NOP: 16384 in COUNT is more than the 16383 that a packet can say"),
    (sdma.build, "GCR_REQ", {"BASE_VA": 0x40, "LIMIT_VA": 0}, "GCR_REQ.BASE_VA = 0x40 must be a multiple of 0x80"),
]


@pytest.mark.parametrize(("function", "name", "fields", "message"), BAD)
def test_what_cannot_be_built_says_why(function: Callable[..., object], name: str, fields: Mapping[str, Any],
                                       message: str) -> None:
    with pytest.raises(PacketError) as caught:
        function(name, **fields) if name else function(5, [1])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("module", [pm4, sdma])
def test_decoding_wants_words(module: ModuleType) -> None:
    with pytest.raises(PacketError, match="word 1 is 0x100000000, which is no 32-bit word"):
        module.decode([0, 1 << 32])
    with pytest.raises(PacketError, match="a sequence of integers is needed"):
        module.decode(["x"])
    with pytest.raises(PacketError, match="NOP has no field 'ADDRESS'"):
        module.decode(module.build("NOP"))[0]["ADDRESS"]
