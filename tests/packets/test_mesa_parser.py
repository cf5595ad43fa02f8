"""Every PM4 packet that we build, read by Mesa's parser: a reader that others wrote, for drivers in daily use.

Needs Mesa's source (``AMDRV_MESA_SOURCE``, or what ``python -m tools.fetch_sources`` fetched) and a C compiler. Two of
Mesa's files are compiled with a shim that feeds them packets; the program is kept in the cache directory.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from amdrv import pm4, sdma
from amdrv.facts import pm4 as facts
from amdrv.facts.layout import Packet
from tools.fetch_sources import locate

HERE = Path(__file__).parent
MESA = locate("mesa")
COMPILER = next((name for name in ("clang-19", "clang", "gcc", "cc") if shutil.which(name)), None)

pytestmark = [
    pytest.mark.skipif(MESA is None, reason="no Mesa source: `python -m tools.fetch_sources`, or AMDRV_MESA_SOURCE"),
    pytest.mark.skipif(COMPILER is None, reason="no C compiler to build Mesa's parser with"),
    pytest.mark.skipif(sys.platform != "linux", reason="Mesa's parser uses glibc's open_memstream and strchrnul"),
]

# Opcodes that Mesa, which sends no queue-management packets, does not name; it still reads their length.
UNNAMED = {"PREAMBLE_CNTL", "WAIT_REG_MEM64", "FRAME_CONTROL", "INVALIDATE_TLBS", "SET_RESOURCES", "MAP_QUEUES",
           "UNMAP_QUEUES", "QUERY_STATUS"}
# Packets that Mesa names and whose body it does not look into.
UNREAD = {"COPY_DATA", "MEM_SEMAPHORE", "REWIND", "HDP_FLUSH", "CONTEXT_CONTROL"}
# Mesa's parser takes COND_EXEC's first word for the count, where Linux writes the address first (gfx_v11_0.c,
# gfx_v11_0_ring_emit_init_cond_exec), so only name and length are compared.
MISREAD = {"COND_EXEC"}
# What Mesa prints -> our field, or the word of that number.
NAMES: dict[str, dict[str, str | int]] = {
    "RELEASE_MEM": {"CTXID": "INT_CTXID"},
    "WAIT_REG_MEM": {"OP": 1, "ADDRESS_LO": 2, "ADDRESS_HI": 3, "REF": "REFERENCE", "POLL_INTERVAL": 6},
    "ACQUIRE_MEM": {"GCR_SIZE": 2, "GCR_SIZE_HI": 3, "GCR_BASE_LO": 4, "GCR_BASE_HI": 5},
    "WRITE_DATA": {"DST_ADDR": "DST_ADDR"},
    "ATOMIC_MEM": {"ADDR": "ADDRESS"}, "EVENT_WRITE": {"ADDR": "ADDRESS"}, "SET_BASE": {"ADDR": "ADDRESS"},
    "PRIME_UTCL2": {"ADDR": "ADDRESS", "CACHE_PERM[rwx]": "CACHE_PERM"}, "DISPATCH_INDIRECT": {"ADDR": "ADDRESS"},
    "DISPATCH_DIRECT": {"COMPUTE_DIM_X": "DIM_X", "COMPUTE_DIM_Y": "DIM_Y", "COMPUTE_DIM_Z": "DIM_Z"},
    "INDIRECT_BUFFER": {"IB_BASE_LO": 1, "IB_BASE_HI": 2},
}


@pytest.fixture(scope="session")
def parser() -> Path:
    """Mesa's parser as a program; built once for these sources."""
    assert MESA is not None and COMPILER is not None
    amd = MESA / "src/amd"
    shim = HERE / "mesa_shim.c"
    parts = [shim, amd / "common/ac_parse_ib.c", amd / "common/ac_debug.c", amd / "common/sid.h",
             *sorted((amd / "registers").glob("*.json"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amdrv" / "build" / f"mesa-{digest}"
    program = cache / "parser"
    if program.is_file():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    # As src/amd/common/meson.build makes them.
    json = sorted(str(path) for path in (amd / "registers").glob("*.json"))
    for name, command in (("sid_tables.h", [str(amd / "common/sid_tables.py"), str(amd / "common/sid.h"), *json]),
                          ("amdgfxregs.h", [str(amd / "registers/makeregheader.py"), *json, "--sort", "address",
                                            "--guard", "AMDGFXREGS_H"])):
        with (cache / name).open("w") as header:
            subprocess.run([sys.executable, *command], stdout=header, check=True)
    include = [f"-I{path}" for path in (cache, MESA / "include", MESA / "src", amd / "common", amd)]
    building = cache / f"parser.{os.getpid()}"
    subprocess.run([COMPILER, "-O1", "-w", "-D_GNU_SOURCE", "-DHAVE_PTHREAD", "-DHAVE_SECURE_GETENV",
                    "-DHAVE_STRUCT_TIMESPEC", "-DHAVE_ENDIAN_H", *include, str(shim),
                    str(amd / "common/ac_parse_ib.c"), str(amd / "common/ac_debug.c"), "-lm", "-o", str(building)],
                   check=True)
    building.rename(program)
    return program


def mesa(parser: Path, packets: list[list[int]], *, is_sdma: bool = False) -> list[list[str]]:
    """Each packet's lines as Mesa prints them."""
    data = b"".join(struct.pack(f"<{len(words) + 2}I", is_sdma, len(words), *words) for words in packets)
    done = subprocess.run([parser], input=data, capture_output=True, check=True)
    texts = done.stdout.decode().split("=== end\n")[:-1]
    assert len(texts) == len(packets)
    return [text.splitlines() for text in texts]


def value(text: str) -> int | str:
    """``5``, ``10 (0x0000000a)``, ``1.0f (0x3f800000)``, ``0x123`` or an enum's name."""
    if match := re.search(r"\((0x[0-9a-f]+)\)$", text):
        return int(match[1], 16)
    text = text.split()[0]
    return int(text, 0) if re.fullmatch(r"\d+|0x[0-9a-f]+", text) else text


def random_fields(packet: Packet, numbers: random.Random) -> dict[str, int]:
    """Any value in every field, one meaning a word."""
    parts = {part.field for group in packet.wide.values() for part in group}
    fields: dict[str, int] = {}
    for word in packet.words:
        taken = 0
        for name, bits in word.fields.items():
            mask = ((2 << (bits[0] - bits[1])) - 1) << bits[1]
            if not taken & mask and name not in parts:
                taken |= mask
                fields[name] = numbers.choice([0, mask >> bits[1], numbers.randrange((mask >> bits[1]) + 1)])
    for name, group in packet.wide.items():
        if all(len(word.fields) == 1 for word in packet.words for part in group if part.field in word.fields) \
                or name == "ADDRESS":
            said = sum(((2 << (part.msb - part.lsb)) - 1) << part.lsb for part in group)
            fields[name] = numbers.getrandbits(64) & said
    return fields


@pytest.mark.parametrize("name", list(facts.PACKETS))
def test_mesa_reads_what_we_build(parser: Path, name: str) -> None:
    packet = facts.PACKETS[name]
    numbers = random.Random(name)
    built = []
    for _ in range(20):
        fields = random_fields(packet, numbers)
        if name == "ACQUIRE_MEM":
            fields["PWS_ENA"] = 0       # with it the packet is another, whose second word Mesa reads otherwise
        if name.startswith("SET_"):
            start, end = facts.REGISTER_SPACES.get(name, (0, 0))
            fields["REG_OFFSET"] = numbers.randrange(0, max(end - start - 4, 1))
            if name in ("SET_RESOURCES", "SET_BASE"):
                del fields["REG_OFFSET"]
        tail = {packet.tail: [numbers.getrandbits(32) for _ in range(numbers.randrange(1, 4))]} if packet.tail else {}
        built.append(pm4.build(name, **fields, **tail))
    for words, lines in zip(built, mesa(parser, built), strict=True):
        compare(name, words, lines)


def compare(name: str, words: list[int], lines: list[str]) -> None:
    ours = pm4.decode(words)[0]
    assert ours.problem is None
    # A line that starts with a word is that word; all words are there, and none too many.
    seen = [int(match[1], 16) for line in lines if (match := re.match(r"([0-9a-f]{8}) ", line))]
    assert seen == words
    assert not any("!!!!!" in line for line in lines)
    title = lines[0].split()[1].rstrip(":")
    if name in UNNAMED:
        assert title == f"UNKNOWN(0x{facts.PACKETS[name].opcode:02X}):".rstrip(":")
        return
    assert title.split("(")[0] == name
    if name in UNREAD | MISREAD | {"NOP", "PFP_SYNC_ME", "CLEAR_STATE"}:
        return
    compared = 0
    for line in lines[1:]:
        match = re.fullmatch(r".*?([A-Z][\w\[\]]*) (?:<-|=) (.*?)\s*", line)
        if match is None:
            continue
        compared += check(name, words, ours, match[1], value(match[2]))
    if name in facts.REGISTER_SPACES:
        compared += check_registers(name, words, ours, lines)
    else:       # no word of ours that Mesa reads went by unnoticed; a 64-bit value is one name for two words
        assert compared >= len(facts.PACKETS[name].words) - len(facts.PACKETS[name].wide)
    assert compared


def check(name: str, words: list[int], ours: pm4.Decoded, label: str, theirs: int | str) -> int:
    """1 if Mesa's value of this name is one that our decoder has too; they must be equal."""
    known = NAMES.get(name, {}).get(label, label)
    if isinstance(known, int):
        assert words[known] == theirs, (name, label)
        return 1
    if known not in ours.fields:
        for whole, parts in facts.PACKETS[name].wide.items():
            for part in parts:
                if part.field == known:
                    assert (ours.fields[whole] >> part.lsb << (part.lsb % 32)) & 0xFFFFFFFF == theirs, (name, label)
                    return 1
        return 0
    mine = ours.fields[known]
    if isinstance(theirs, str):
        if "UNKNOWN" in theirs:         # SET_BASE: Mesa names one base only
            return 1
        enum = next(bits[2] for word in facts.PACKETS[name].words for field, bits in word.fields.items()
                    if field == known and len(bits) == 3)
        assert facts.ENUMS[enum].get(theirs) == mine, (name, label, theirs)
    else:
        assert mine == theirs, (name, label)
    return 1


def check_registers(name: str, words: list[int], ours: pm4.Decoded, lines: list[str]) -> int:
    """Where both know a register by one name at this address, its fields are equal too."""
    compared = 1
    first = facts.REGISTER_SPACES[name][0] + ours.fields["REG_OFFSET"]
    register = ""
    fields: dict[str, dict[str, int | str]] = {}
    for line in lines[1:]:
        if match := re.fullmatch(r".*?(\w+) <- (.*?)\s*", line):
            register = match[1]
            fields[register] = {"": value(match[2])}
        elif match := re.fullmatch(r"\s+(\w+) = (.*?)\s*", line):
            fields[register][match[1]] = value(match[2])
    for address, number in enumerate(ours.tail, first):
        for found in pm4._reference_registers(address):
            theirs = fields.get(found.name)
            if theirs is None:
                continue
            assert theirs[""] == number
            for field, said in theirs.items():
                if field and field in found and isinstance(said, int):
                    assert found[field].get(number) == said, (found.name, field)
                    compared += 1
    return compared


def test_mesa_knows_the_registers_that_a_launch_sets(parser: Path) -> None:
    """Names and fields of COMPUTE_PGM_RSRC1 and its like: Mesa's data against AMD's headers."""
    words = pm4.set_registers(0x2E12, [0xFFFFFFFF, 0x12345678]) + pm4.set_registers(0x2E0C, [1, 2])
    text = "\n".join(mesa(parser, [words])[0])
    for name in ("COMPUTE_PGM_RSRC1", "COMPUTE_PGM_RSRC2", "COMPUTE_PGM_LO", "COMPUTE_PGM_HI"):
        assert f"{name} <- " in text and f"{name} = " in pm4.dump(words)


def test_mesa_reads_our_sdma_packets(parser: Path) -> None:
    """Its SDMA parser knows four: their length, and the counts that are stored less one."""
    packets = [sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=0x1234_5678_9000, DST_ADDR=0x2000),
               sdma.build("WRITE_UNTILED", DST_ADDR=0xABCD_0000_1000, DATA=[1, 2, 3]),
               sdma.build("CONSTANT_FILL", FILLSIZE="DWORD", DST_ADDR=0x1000, SRC_DATA_31_0=0x55, COUNT=255),
               sdma.build("NOP", DATA=[1, 2])]
    copy, write, fill, nop = mesa(parser, packets, is_sdma=True)
    assert "COPY LINEAR" in copy[0] and any("copy bytes: 4096" in line for line in copy)
    assert "WRITE" in write[0] and any("written dword count = 3" in line for line in write)
    assert any("va lo = 00001000" in line for line in write) and any("va hi = 0000abcd" in line for line in write)
    assert "CONSTANT_FILL" in fill[0] and any("fill byte count = 256" in line for line in fill)
    assert any("fill value = 85" in line for line in fill)
    assert "NOP" in nop[0] and [line[:8] for line in nop if re.match(r"[0-9a-f]{8} ?", line)] == [
        f"{word:08x}" for word in packets[3]]
