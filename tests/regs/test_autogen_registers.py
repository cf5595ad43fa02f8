"""The generator: byte for byte what is committed, and clear about headers that it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from amdrv.regs import Table
from tools.autogen import SourceError, Sources, registers
from tools.autogen.__main__ import main
from tools.fetch_sources import locate

ROOT = Path(__file__).resolve().parents[2]

OFFSETS = """
// addressBlock: one_dec
// base address: 0x0
#define regA 0x0001
#define regA_BASE_IDX 0
#define regB__ODD 0x0002
#define regB__ODD_BASE_IDX 0
#define regNO_INDEX 0x0003

// addressBlock: two_dec
#define regC 0x10
#define regC_BASE_IDX 3
#define ixWAVE 0x0101
#define cfgVENDOR 0x0
"""
MASKS = """
//A
#define A__LOW__SHIFT 0x0
#define A__HIGH__SHIFT 0x1f
#define A__LOW_MASK 0x0000000FL
#define A__HIGH_MASK 0x80000000UL
#define C__LONG_FIELD_NAME__SHIFT 0x4
#define C__LONG_FIELD_NAME_MASK 0x00000FF0L
#define C__CROOKED__SHIFT 0x1
#define C__CROOKED_MASK 0x00000006L
#define C__BROKEN__SHIFT 0x8
#define C__BROKEN_MASK 0x00000010L
#define NO_INDEX__LOW__SHIFT 0x0
#define NO_INDEX__HIGH__SHIFT 0x1f
#define NO_INDEX__LOW_MASK 0x0000000FL
#define NO_INDEX__HIGH_MASK 0x80000000L
#define UNPLACED__X__SHIFT 0x0
#define UNPLACED__X_MASK 0x1L
"""


def built(tmp_path: Path, offsets: str = OFFSETS, masks: str = MASKS) -> str:
    (tmp_path / "x_offset.h").write_text(offsets)
    (tmp_path / "x_sh_mask.h").write_text(masks)
    return registers.build_table("x", tmp_path / "x_offset.h", tmp_path / "x_sh_mask.h").decode()


def test_a_small_table_in_full(tmp_path: Path) -> None:
    lines = built(tmp_path).splitlines()
    assert lines[3] == "# x: 4 registers, 1 indexed, 0 extra; 6 fields in 2 layouts"
    assert lines[4] == ("# left out: 1 registers that have fields but no offset; "
                        "fields whose shift and mask do not agree: C__BROKEN")
    assert lines[5] == "# defaults: not published"
    assert lines[7:] == ["## one_dec", "A 0 1 LOW:3:0 HIGH:31", "B__ODD 0 2", "NO_INDEX 0 3 =A",
                         "## two_dec", "C 3 10 CROOKED:2:1 LONG_FIELD_NAME:11:4", "WAVE i 101"]


def test_the_table_reads_back(tmp_path: Path) -> None:
    table = Table("x", built(tmp_path))
    assert [(r.name, r.base_idx, r.offset, r.block) for r in table] == [
        ("A", 0, 1, "one_dec"), ("B__ODD", 0, 2, "one_dec"), ("NO_INDEX", 0, 3, "one_dec"),
        ("C", 3, 16, "two_dec"), ("WAVE", None, 0x101, "two_dec")]
    assert table["NO_INDEX"].unpack(0x80000005) == {"LOW": 5, "HIGH": 1}


def test_values_after_reset(tmp_path: Path) -> None:
    (tmp_path / "x_default.h").write_text("#define regA_DEFAULT 0x0000002a\n#define regC_DEFAULT 0x00000000\n"
                                          "#define ixWAVE_DEFAULT 0x1\n#define regGONE_DEFAULT 0x7\n")
    built(tmp_path)
    text = registers.build_table("x", *(tmp_path / f"x_{kind}.h" for kind in ("offset", "sh_mask", "default"))).decode()
    assert "\n# defaults: 2 registers are not zero after reset\n" in text and "\nA 0 1~2a LOW:3:0 HIGH:31\n" in text
    assert [(r.name, r.default) for r in Table("x", text)] == [("A", 0x2A), ("B__ODD", 0), ("NO_INDEX", 0), ("C", 0),
                                                               ("WAVE", 1)]


def test_an_index_that_cannot_be_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"regNO_INDEX has no _BASE_IDX and its block one_dec has \[0, 1\]"):
        built(tmp_path, OFFSETS.replace("regB__ODD_BASE_IDX 0", "regB__ODD_BASE_IDX 1"))


def test_a_macro_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="regA is defined twice"):
        built(tmp_path, OFFSETS + "#define regA 0x7\n")


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x_offset\.h defines no registers"):
        built(tmp_path, "int main(void) { return 0; }\n")


def test_extras_are_cited_and_do_not_stand_in_the_headers() -> None:
    for name, extras in registers.EXTRAS.items():
        text = (ROOT / registers.TABLES / f"{name}.txt").read_text()
        for extra in extras:
            assert extra.source.startswith("Linux ")
            assert text.count(f"\n{extra.name} ") == 1
            assert f"# {extra.source}\n{extra.name} {extra.base_idx} {extra.offset:x}" in text


def test_missing_sources_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match=r"athub_3_0_0_offset\.h is needed from a Linux source tree; .* --linux DIR"):
        Sources().linux_file(f"{registers.INCLUDE}/athub/athub_3_0_0_offset.h")
    assert main(["--linux", str(tmp_path), "--only", "registers", "--check"]) == 2
    assert "gc_11_0_0_offset.h: it is not a Linux source tree, or one that is too old" in capsys.readouterr().err


def test_the_committed_tables_come_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = locate("linux")
    if tree is None:
        pytest.skip("no Linux source: `python -m tools.fetch_sources`, or AMDRV_LINUX_SOURCE")
    linux = str(tree)
    assert main(["--linux", linux, "--only", "registers", "--check"]) == 0
    assert main(["--linux", linux, "--only", "registers"], root=tmp_path) == 0
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")}
    assert written == {f"{registers.TABLES}/{name}.txt" for name in registers.HEADERS}
    damaged = tmp_path / registers.TABLES / "hdp_6_0_0.txt"
    damaged.write_text(damaged.read_text().replace("HDP_NONSURFACE_BASE 0 40", "HDP_NONSURFACE_BASE 0 41"))
    capsys.readouterr()
    assert main(["--linux", linux, "--only", "registers", "--check"], root=tmp_path) == 1
    seen = capsys.readouterr()
    assert "hdp_6_0_0.txt differs from what the sources give" in seen.err
    assert "-HDP_NONSURFACE_BASE 0 41" in seen.err and seen.out.endswith("autogen: 1 files differ\n")
