"""The tables say what AMD's headers say: spot values read by hand, and the whole against a second reader."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import amdrv.regs
from amdrv.errors import RegisterError, UnknownIpError
from amdrv.regs import Field, Register
from tools.fetch_sources import locate

NAMES = ["athub_3_0_0", "gc_11_0_0", "hdp_6_0_0", "mmhub_3_0_0", "mp_13_0_0", "nbio_4_3_0", "osssys_6_0_0",
         "smuio_13_0_6", "thm_13_0_2"]
ASIC_REG = "drivers/gpu/drm/amd/include/asic_reg"

# Read by eye in Linux 6.1, include/asic_reg/*_offset.h.
PLACES = [
    ("gc_11_0_0", "CP_HQD_ACTIVE", 0, 0x1FAB),
    ("gc_11_0_0", "GCVM_CONTEXT0_CNTL", 0, 0x1688),
    ("gc_11_0_0", "SDMA0_QUEUE0_RB_CNTL", 0, 0x0080),
    ("gc_11_0_0", "RLC_RLCS_BOOTLOAD_STATUS", 1, 0x4E82),
    ("mmhub_3_0_0", "MMVM_CONTEXT0_CNTL", 0, 0x0740),
    ("nbio_4_3_0", "RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN", 2, 0x00C0),
    ("nbio_4_3_0", "BIF_BX_PF0_RSMU_INDEX", 1, 0x0000),
    ("mp_13_0_0", "MP0_SMN_C2PMSG_64", 0, 0x0080),
    ("mp_13_0_0", "MP1_SMN_C2PMSG_90", 0, 0x029A),
    ("osssys_6_0_0", "IH_RB_CNTL", 0, 0x0080),
    ("smuio_13_0_6", "GOLDEN_TSC_COUNT_LOWER", 1, 0x002E),
]
# BAR5 byte addresses at which Linux's amdgpu was seen to reach these registers of a Navi31, with the base
# addresses of that board (they equal sienna_cichlid_ip_offset.h).
SEEN = [
    ("gc_11_0_0", (0x1260, 0xA000), "CP_HQD_ACTIVE", 0x00C82C),
    ("gc_11_0_0", (0x1260, 0xA000), "RLC_RLCS_BOOTLOAD_STATUS", 0x03BA08),
    ("gc_11_0_0", (0x1260, 0xA000), "SDMA0_QUEUE0_RB_CNTL", 0x004B80),
    ("gc_11_0_0", (0x1260, 0xA000), "GCVM_CONTEXT0_CNTL", 0x00A3A0),
    ("mmhub_3_0_0", (0x1A000,), "MMVM_L2_PROTECTION_FAULT_CNTL", 0x069C20),
    ("mp_13_0_0", (0x16000,), "MP0_SMN_C2PMSG_81", 0x058244),
    ("mp_13_0_0", (0x16000,), "MP1_SMN_C2PMSG_90", 0x058A68),
    ("osssys_6_0_0", (0x10A0,), "IH_RB_CNTL", 0x004480),
    ("osssys_6_0_0", (0x10A0,), "IH_RING1_CLIENT_CFG_DATA", 0x004898),
    ("nbio_4_3_0", (0, 0x14, 0xD20), "RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE", 0x00378C),
    ("nbio_4_3_0", (0, 0x14, 0xD20), "BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL", 0x003934),
    ("nbio_4_3_0", (0, 0x14, 0xD20), "BIF_BX_PF0_RSMU_DATA", 0x000054),
    ("nbio_4_3_0", (0, 0x14, 0xD20), "REMAP_HDP_MEM_FLUSH", 0x07F000),
]


def test_tables_are_named_after_their_ip_versions() -> None:
    assert amdrv.regs.tables() == NAMES


@pytest.mark.parametrize(("table", "name", "base_idx", "offset"), PLACES)
def test_place(table: str, name: str, base_idx: int, offset: int) -> None:
    register = amdrv.regs.table(table)[name]
    assert (register.name, register.base_idx, register.offset) == (name, base_idx, offset)
    assert register in amdrv.regs.table(table).at(base_idx, offset)


@pytest.mark.parametrize(("table", "bases", "name", "byte"), SEEN)
def test_address_is_where_the_kernel_goes(table: str, bases: tuple[int, ...], name: str, byte: int) -> None:
    register = amdrv.regs.table(table)[name]
    assert register.base_idx is not None
    assert (bases[register.base_idx] + register.offset) * 4 == byte


def test_fields_by_hand() -> None:
    """Linux 6.1, gc_11_0_0_sh_mask.h and osssys_6_0_0_sh_mask.h."""
    control = amdrv.regs.table("gc_11_0_0")["GCVM_CONTEXT0_CNTL"]
    assert control["ENABLE_CONTEXT"] == Field("ENABLE_CONTEXT", 0, 0)
    assert control["page_table_depth"] == Field("PAGE_TABLE_DEPTH", 2, 1)
    assert control["PAGE_TABLE_BLOCK_SIZE"].mask == 0x78
    assert amdrv.regs.table("gc_11_0_0")["GCVM_CONTEXT15_CNTL"].fields == control.fields    # by "=NAME" in the file
    size = amdrv.regs.table("osssys_6_0_0")["IH_RB_CNTL"]["RB_SIZE"]
    assert (size.msb, size.lsb, size.width, size.mask, size.get(0x26)) == (5, 1, 5, 0x3E, 0x13)


def test_values_after_reset() -> None:
    """Linux 6.1, gc_11_0_0_default.h; AMD publishes none for the other blocks."""
    gc = amdrv.regs.table("gc_11_0_0")
    assert [gc[name].default for name in ("SDMA0_CNTL", "GRBM_CNTL", "CP_HQD_PERSISTENT_STATE", "CP_HQD_ACTIVE")] == [
        0x2440, 0x18, 0x0BE05501, 0]
    assert gc["CP_HQD_PQ_CONTROL"].offset == 0x1FBA and gc["CP_HQD_PQ_CONTROL"].default == 0x00308509
    assert amdrv.regs.table("mmhub_3_0_0")["MMVM_L2_CNTL3"].default is None


def test_kernel_values_read_back_by_field() -> None:
    """Values that amdgpu writes, in the fields that its source sets."""
    gc, nbio, osssys = (amdrv.regs.table(name) for name in ("gc_11_0_0", "nbio_4_3_0", "osssys_6_0_0"))
    # Linux 6.1, sdma_v6_0.c and gfx_v11_0.c; ih_v6_0.c after 6.1 routes UTCL2 faults (client 10) to ring 1
    assert osssys["IH_RING1_CLIENT_CFG_DATA"].unpack(0x0001000A) == {
        "CLIENT_ID": 10, "SOURCE_ID": 0, "SOURCE_ID_MATCH_ENABLE": 1}
    assert gc["CP_INT_CNTL_RING0"].replace(0x85C00000, cntx_busy_int_enable=1, cntx_empty_int_enable=1,
                                           cmp_busy_int_enable=1, gfx_idle_int_enable=1) == 0x85FC0000
    assert nbio["RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN"].pack(bif_doorbell_aper_en=1) == 1


def test_iteration_gives_every_register_once_in_the_headers_order() -> None:
    table = amdrv.regs.table("hdp_6_0_0")
    registers = list(table)
    assert [register.name for register in registers] == table.names()
    assert len(registers) == len(table) == 89       # 178 "#define reg" lines, half of them _BASE_IDX
    assert registers[0].name == "HDP_NONSURFACE_BASE" and registers[0].block == "hdp_hdpdec"


def test_block_is_the_same_by_lookup_and_by_iteration() -> None:
    read = Path(amdrv.regs.__file__).with_name("tables").joinpath("gc_11_0_0.txt").read_text()
    fresh = amdrv.regs.Table("gc_11_0_0", read)
    found = fresh["SDMA1_QUEUE0_RB_CNTL"].block
    assert found == "gc_sdma0_sdma1dec"
    assert next(r for r in amdrv.regs.Table("gc_11_0_0", read) if r.name == "SDMA1_QUEUE0_RB_CNTL").block == found


def test_lookup_parses_one_line_only() -> None:
    table = amdrv.regs.Table("t", "# head\n## b\nA 0 1 F:3:0\nBROKEN LINE THAT IS NONE\nAB 1 2 =A\n")
    assert table["A"]["F"].msb == 3
    assert table["AB"].fields == table["A"].fields
    assert "B" not in table and "F" not in table and "" not in table and "A 0" not in table


def test_indexed_registers_have_no_base() -> None:
    status = amdrv.regs.table("gc_11_0_0")["SQ_WAVE_STATUS"]
    assert (status.base_idx, status.offset, status["SCC"].lsb) == (None, 0x102, 0)
    assert amdrv.regs.table("gc_11_0_0").at(0, 0x102) != (status,)


def test_places_without_a_register_and_with_several() -> None:
    nbio = amdrv.regs.table("nbio_4_3_0")
    assert nbio.at(0, 0x12345) == () and nbio.at(9, 0) == ()
    assert {"BIF_BX_PF0_MM_INDEX", "BIF_BX_DEV0_EPF0_VF0_MM_INDEX"} <= {r.name for r in nbio.at(0, 0)}


def test_search() -> None:
    gc = amdrv.regs.table("gc_11_0_0")
    assert [r.name for r in gc.search("cp_hqd_pq_base*")] == ["CP_HQD_PQ_BASE", "CP_HQD_PQ_BASE_HI"]
    assert "GCVM_CONTEXT7_CNTL" in {r.name for r in gc.search("GCVM_CONTEXT?_CNTL")}
    assert {"CP_MEC_DOORBELL_RANGE_LOWER"} <= {r.name for r in gc.search("mec_doorbell_range")}
    assert gc.search("no such thing") == []


@pytest.mark.parametrize(("ip", "version", "table"), [
    ("GC", (11, 0, 0), "gc_11_0_0"), ("gc", [11, 0, 0], "gc_11_0_0"), ("SDMA0", (6, 0, 0), "gc_11_0_0"),
    ("NBIF", (4, 3, 0), "nbio_4_3_0"), ("MP0", (13, 0, 0), "mp_13_0_0"), ("MP1", (13, 0, 0), "mp_13_0_0"),
    ("MMHUB", (3, 0, 0), "mmhub_3_0_0"), ("ATHUB", (3, 0, 0), "athub_3_0_0"), ("OSSSYS", (6, 0, 0), "osssys_6_0_0"),
    ("HDP", (6, 0, 0), "hdp_6_0_0"), ("SMUIO", (13, 0, 6), "smuio_13_0_6"), ("THM", (13, 0, 0), "thm_13_0_2")])
def test_table_for(ip: str, version: tuple[int, int, int], table: str) -> None:
    assert amdrv.regs.table_for(ip, version) is amdrv.regs.table(table)


def test_table_errors() -> None:
    with pytest.raises(UnknownIpError, match=r"for GC 12\.0\.0: the known versions of GC are 11\.0\.0"):
        amdrv.regs.table_for("GC", (12, 0, 0))
    with pytest.raises(UnknownIpError, match=r"no register table for DCN 3\.2\.0: the known IPs are ATHUB, GC"):
        amdrv.regs.table_for("DCN", (3, 2, 0))
    with pytest.raises(RegisterError, match="no register table 'gc_9_4_3'; there are athub_3_0_0, gc_11_0_0"):
        amdrv.regs.table("gc_9_4_3")
    with pytest.raises(RegisterError, match="gc_11_0_0 has no register 'CP_HQD_ACTIV'; close: CP_HQD_ACTIVE"):
        amdrv.regs.table("gc_11_0_0")["CP_HQD_ACTIV"]
    with pytest.raises(RegisterError, match=r"gc_11_0_0 has no register 'regCP_STAT'; close: CP_STAT$"):
        amdrv.regs.table("gc_11_0_0")["regCP_STAT"]
    with pytest.raises(RegisterError, match="has no register 'qqqq'; nothing has a name like it"):
        amdrv.regs.table("gc_11_0_0")["qqqq"]


REGISTERS = [register for name in ("gc_11_0_0", "mmhub_3_0_0", "osssys_6_0_0") for register in amdrv.regs.table(name)]


@given(st.sampled_from(REGISTERS), st.integers(0, 0xFFFFFFFF))
def test_packing_what_was_unpacked_gives_the_named_bits(register: Register, value: int) -> None:
    named = 0
    for field in register.fields:
        named |= field.mask
    assert register.pack(**register.unpack(value)) == value & named
    opposite = value ^ 0xFFFFFFFF
    assert register.replace(opposite, **register.unpack(value)) == value & named | opposite & ~named


def test_no_fields_of_a_register_overlap() -> None:
    for name in NAMES:
        for register in amdrv.regs.table(name):
            seen = 0
            for field in register.fields:
                assert 0 <= field.lsb <= field.msb <= 31
                assert not seen & field.mask, f"{register.name}.{field.name}"
                seen |= field.mask


@pytest.fixture(scope="module")
def linux() -> Path:
    tree = locate("linux")
    if tree is None:
        pytest.skip("no Linux source: `python -m tools.fetch_sources`, or AMDRV_LINUX_SOURCE")
    return tree


@pytest.mark.parametrize(("name", "header"), [
    ("athub_3_0_0", "athub/athub_3_0_0"), ("gc_11_0_0", "gc/gc_11_0_0"), ("hdp_6_0_0", "hdp/hdp_6_0_0"),
    ("mmhub_3_0_0", "mmhub/mmhub_3_0_0"), ("mp_13_0_0", "mp/mp_13_0_0"), ("nbio_4_3_0", "nbio/nbio_4_3_0"),
    ("osssys_6_0_0", "oss/osssys_6_0_0"), ("smuio_13_0_6", "smuio/smuio_13_0_6"), ("thm_13_0_2", "thm/thm_13_0_2")])
def test_whole_table_against_a_second_reader(linux: Path, name: str, header: str) -> None:
    """Words split on blanks into two dictionaries: no code of the generator, no regular expression of it."""
    macros: dict[str, int] = {}
    for kind in ("offset", "sh_mask", *["default"] * (name == "gc_11_0_0")):
        for line in (linux / ASIC_REG / f"{header}_{kind}.h").read_text().split("\n"):
            words = line.split()
            if len(words) == 3 and words[0] == "#define":
                macros[words[1]] = int(words[2].rstrip("UL"), 0)
    table = amdrv.regs.table(name)
    extras = {register.name for register in table if register.block == "extra"}
    assert {m for m in macros if m.startswith("reg") and not m.endswith(("_BASE_IDX", "_DEFAULT"))} == {
        "reg" + r.name for r in table if r.base_idx is not None and r.name not in extras}
    assert {m for m in macros if m.startswith("ix") and not m.endswith("_DEFAULT")} == {
        "ix" + r.name for r in table if r.base_idx is None}
    left_out = []
    listed: dict[str, int] = {}
    for macro, shift in macros.items():
        if macro.endswith("__SHIFT"):
            register, field = macro.removesuffix("__SHIFT").split("__")
            if register not in table:
                continue
            listed[register] = listed.get(register, 0) + 1
            mask = macros.get(f"{register}__{field}_MASK")
            if field.upper() not in {f.name.upper() for f in table[register].fields}:
                left_out.append(f"{register}__{field}")
                continue
            assert (table[register][field].lsb, table[register][field].mask) == (shift, mask), macro
    assert set(left_out) <= {"GL1C_UTCL0_CNTL1__FORCE_IN_ORDER", "SQ_CONFIG__DISABLE_SGPR_RD_KILL",
                             "SQ_CONFIG__WCLK_HYSTERESIS_CNT"}
    for entry in table:
        if entry.name in extras:
            continue
        number = macros[("ix" if entry.base_idx is None else "reg") + entry.name]
        assert entry.offset == number
        prefix = "ix" if entry.base_idx is None else "reg"
        assert entry.default == (macros.get(f"{prefix}{entry.name}_DEFAULT", 0) if name == "gc_11_0_0" else None)
        if entry.name != "GFX_IMU_FUSESTRAP":       # the one register whose index the header leaves out
            assert macros.get(f"reg{entry.name}_BASE_IDX") == entry.base_idx
        missing = sum(name.startswith(entry.name + "__") for name in left_out)
        assert len(entry.fields) == listed.get(entry.name, 0) - missing


def test_no_two_tables_claim_one_name() -> None:
    """So the order of a register file's tables does not matter."""
    seen: dict[str, str] = {}
    for name in NAMES:
        for register_name in amdrv.regs.table(name).names():
            assert re.fullmatch(r"[A-Za-z]\w*", register_name)
            assert seen.setdefault(register_name, name) == name
