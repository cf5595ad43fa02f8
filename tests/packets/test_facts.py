"""The facts themselves: they are what the sources give, and a C compiler lays structures out as they say."""

from __future__ import annotations

import ast
import ctypes
import importlib
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from amdrv.facts import ih, navi31, pm4, psp, sdma6, signed, vm
from amdrv.facts.layout import Packet
from tools.autogen.__main__ import main
from tools.autogen.clang import evaluate, macros
from tools.autogen.packets import field_at, wide_values
from tools.fetch_sources import locate

REPOSITORY = Path(__file__).parents[2]
LINUX, MESA = locate("linux"), locate("mesa")
AMD = "drivers/gpu/drm/amd"
COMPILER = next((name for name in ("clang-19", "clang", "gcc", "cc") if shutil.which(name)), None)

needs_sources = pytest.mark.skipif(
    LINUX is None or MESA is None,
    reason="no sources: `python -m tools.fetch_sources`, or AMDRV_LINUX_SOURCE and AMDRV_MESA_SOURCE")


@needs_sources
@pytest.mark.parametrize("generator", ["sdma6", "pm4", "structures", "identifiers"])
def test_the_committed_files_are_what_the_sources_give(generator: str, capsys: pytest.CaptureFixture[str]) -> None:
    if generator == "structures":
        pytest.importorskip("ctypeslib", reason="ctypeslib2 reads the structures")
    assert main(["--linux", str(LINUX), "--mesa", str(MESA), "--check", "--only", generator]) == 0
    assert capsys.readouterr().out == "autogen: every file is as the sources give it\n"


HEADERS = {
    "mqd_v11": ["include/v11_structs.h"],
    "psp": ["amdgpu/psp_gfx_if.h"],
    "discovery": ["include/discovery.h"],
    "ucode": ["amdgpu/amdgpu_ucode.h"],
    "smu13": ["pm/swsmu/inc/pmfw_if/smu13_driver_if_v13_0_0.h"],
}


def structures(module: str) -> Iterator[tuple[str, type[ctypes.Structure]]]:
    for name, value in vars(importlib.import_module(f"amdrv.facts.{module}")).items():
        if isinstance(value, type) and issubclass(value, (ctypes.Structure, ctypes.Union)):
            yield name, value       # type: ignore[misc]


@pytest.mark.skipif(LINUX is None, reason="no Linux source: `python -m tools.fetch_sources`, or AMDRV_LINUX_SOURCE")
@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("module", list(HEADERS))
def test_a_c_compiler_lays_structures_out_as_we_do(module: str, tmp_path: Path) -> None:
    """A second reader: sizeof and offsetof by a compiler, against ctypes. Bit fields have no offset in C."""
    assert LINUX is not None
    lines, expected = [], []
    text = "".join((LINUX / AMD / header).read_text() for header in HEADERS[module])
    for name, record in structures(module):
        tag = next((tag for tag in (f"struct {name}", f"union {name}") if re.search(rf"\b{tag}\s*\{{", text)), name)
        if "__" in name or not re.search(rf"\b{name}\b", text):
            continue        # unnamed in C
        lines.append(f'printf("{name} %zu\\n", sizeof({tag}));')
        expected.append(f"{name} {ctypes.sizeof(record)}")
        for field, _, *bits in record._fields_:
            unnamed = field in getattr(record, "_anonymous_", ())
            if bits or unnamed:
                continue
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof({tag}, {field}));')
            expected.append(f"{name}.{field} {getattr(record, field).offset}")
    assert len(expected) > 20
    # The part of amdgpu_ucode.h that needs no other header of the kernel's.
    if module == "ucode":
        text = text[text.index("struct common_firmware_header"):text.index("/* header is fixed size */")]
        text = re.sub(r"struct gpu_info_firmware_v1_2 \{.*?\};", "", text, flags=re.S)
    source = tmp_path / "layout.c"
    source.write_text("#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n" + text
                      + "\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    program = tmp_path / "layout"
    subprocess.run([str(COMPILER), "-w", "-o", str(program), str(source)], check=True)
    assert subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines() == expected


def test_the_sizes_that_the_headers_state_in_comments() -> None:
    assert ctypes.sizeof(psp.psp_gfx_cmd_resp) == 1024 and ctypes.sizeof(psp.psp_gfx_rb_frame) == 64
    assert psp.psp_gfx_cmd_resp.cmd.offset == 28 and psp.psp_gfx_cmd_resp.resp.offset == 864
    assert ctypes.sizeof(signed.signed_header) == signed.HEADER_BYTES
    assert (signed.signed_header.magic.offset, signed.signed_header.total_bytes.offset,
            signed.signed_header.digest.offset) == (0x10, 0x6C, 0xD0)


# Words whose fields overlap on purpose: one name for each thing that the word can mean.
CHOICES = {("UNMAP_QUEUES", "CONTROL2"), ("UNMAP_QUEUES", "CONTROL3"), ("UNMAP_QUEUES", "CONTROL4"),
           ("UNMAP_QUEUES", "CONTROL5"), ("QUERY_STATUS", "CONTROL2")}


@pytest.mark.parametrize(("packets", "enums"), [(pm4.PACKETS, pm4.ENUMS), (sdma6.PACKETS, sdma6.ENUMS),
                                               (sdma6.AQL_PACKETS, sdma6.ENUMS)])
def test_packets_are_well_formed(packets: dict[str, Packet], enums: dict[str, dict[str, int]]) -> None:
    for name, packet in packets.items():
        names = [field for word in packet.words for field in word.fields]
        assert len(set(names)) == len(names), name
        for word in packet.words:
            taken = 0
            for bits in word.fields.values():
                assert 31 >= bits[0] >= bits[1] >= 0
                mask = ((2 << (bits[0] - bits[1])) - 1) << bits[1]
                assert not taken & mask or (name, word.name) in CHOICES, (name, word.name)
                taken |= mask
                if len(bits) == 3:
                    assert max(enums[bits[2]].values()) <= mask >> bits[1]
        for parts in packet.wide.values():
            assert all(later.lsb == earlier.msb + 1 for earlier, later in itertools.pairwise(parts)), name
            assert {part.field for part in parts} <= set(names)
        optional = [word.optional for word in packet.words]
        assert optional == sorted(optional), f"{name}: optional words stand at the end"


def test_an_opcode_is_one_packet() -> None:
    opcodes = [packet.opcode for packet in pm4.PACKETS.values()]
    assert len(set(opcodes)) == len(opcodes)
    assert all(pm4.OPCODES[name] == packet.opcode for name, packet in pm4.PACKETS.items())
    keys = [(packet.opcode, packet.sub_op, tuple(packet.when.items())) for packet in sdma6.PACKETS.values()]
    assert len(set(keys)) == len(keys)


def test_numbers_that_are_known_from_elsewhere() -> None:
    """A few by hand, from Linux's .c files, so that a generator that went astray is seen."""
    assert pm4.PACKETS["RELEASE_MEM"].words[1].fields["DATA_SEL"][:2] == (31, 29)
    assert pm4.ENUMS["VGT_EVENT_TYPE"]["CACHE_FLUSH_AND_INV_TS_EVENT"] == 0x14
    assert pm4.ENUMS["ATOMIC_OP"]["ATOMIC_SUB_RTN_32"] == 16 and pm4.ENUMS["ATOMIC_OP"]["ATOMIC_XOR_64"] == 119
    assert sdma6.PACKETS["COPY_LINEAR"].words[1].fields["COUNT"] == (29, 0)
    assert (vm.PTE_VALID, vm.PTE_SYSTEM, vm.PTE_SNOOPED, vm.PTE_EXECUTABLE, vm.PTE_READABLE, vm.PTE_WRITEABLE) \
        == (1, 2, 4, 16, 32, 64)
    assert (vm.FIELDS["FRAG"], vm.FIELDS["MTYPE"], vm.FIELDS["BFS"]) == ((11, 7), (50, 48), (63, 59))
    assert (ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT) == (0x14, 181)
    assert 4 * len(ih.IV_ENTRY) == ih.IV_ENTRY_BYTES
    assert {name: bases[0] for name, _, _, bases in navi31.IPS}["GC"] == 0x1260


def test_facts_hold_data_and_import_nothing_else() -> None:
    for path in (REPOSITORY / "amdrv/facts").glob("*.py"):
        tree = ast.parse(path.read_text())
        imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imports |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imports <= {"ctypes", "amdrv.facts.layout", "__future__", "collections.abc", "types", "typing"}, path
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)], path


def test_what_the_generators_refuse() -> None:
    with pytest.raises(ValueError, match="mask 0x5 at bit 0 is no field of a 32-bit word"):
        field_at(0, 5)
    with pytest.raises(ValueError, match="mask 0xff at bit 28"):
        field_at(28, 0xFF)
    assert evaluate("(1ULL << 3) | 0x4 /* why */", {}) == 12
    assert evaluate("SIZE * 2", {"SIZE": 21}) == 42
    assert evaluate("sizeof(int)", {}) is None and evaluate("f(x)", {}) is None
    assert macros("#define A 1\n#define B (A << 4)\n#define C(x) x\n#define D other\n", r"\w") == {"A": 1, "B": 16}
    assert wide_values([]) == {}
