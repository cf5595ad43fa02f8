"""Generates ``amdrv/facts/pm4.py``: the PM4 type-3 packets of gfx11's command processors.

No header describes them all. Opcodes come from Linux's nvd.h (and Mesa's sid.h for the few it lacks), the words that
Mesa describes from its pkt3.json and gfx11.json, and the rest is written down in :data:`LAYOUT` below. Every field
written there for which nvd.h, soc15d.h or sid.h has a shift macro is compared with it, so that a slip stops the
generator.
"""

from __future__ import annotations

import json
import re
from typing import Any

from amdrv.facts.layout import Field, Packet, Part, Word
from tools.autogen import Sources
from tools.autogen.identifiers import enum_values
from tools.autogen.packets import enums_source, packets_source, wide_values, words_source

__all__ = ["generate"]

NVD = "drivers/gpu/drm/amd/amdgpu/nvd.h"
SOC15D = "drivers/gpu/drm/amd/amdgpu/soc15d.h"
SID = "src/amd/common/sid.h"

# One packet: its name, then a word a line as `WORD: FIELD msb:lsb [ENUM], ...`; `WORD: msb:lsb` is one field of the
# word's name; `@TYPE` takes a type of Mesa's pkt3.json, `%TYPE` a register type of its gfx11.json. `*NAME` is the
# tail, `?` before a word makes it optional.
#
# Where the fields are from, if not from a macro or from Mesa's JSON:
#   ATOMIC_MEM, PRIME_UTCL2, ACQUIRE_MEM, EVENT_WRITE, DISPATCH_*: Mesa, ac_parse_ib.c, ac_parse_packet3
#   COND_EXEC, FRAME_CONTROL, SET_BASE, PREAMBLE_CNTL: Linux, gfx_v11_0.c (gfx_v11_0_ring_emit_init_cond_exec, ...)
#   RELEASE_MEM's second word, MAP/UNMAP_QUEUES, QUERY_STATUS, SET_RESOURCES: Linux, kfd_pm4_headers_ai.h, nvd.h
#   UNMAP_QUEUES' FENCE_*: Linux, gfx_v11_0.c, gfx11_kiq_unmap_queues (action PREEMPT_QUEUES_NO_UNMAP)
#   QUERY_STATUS' ENGINE_SEL: kfd_pm4_headers_ai.h; nvd.h has it at bit 25, inside the doorbell offset
#   WAIT_REG_MEM64, MEM_SEMAPHORE, REWIND: AMD's "PM4 packet" formats of the MEC, as ROCm's and umr's decoders have them
LAYOUT = """
NOP
    *DATA
SET_BASE
    BASE: BASE_INDEX 3:0 SET_BASE_INDEX
    ADDRESS_LO: 31:3
    ADDRESS_HI: 31:0
CLEAR_STATE
    COMMAND: 3:0
DISPATCH_DIRECT
    DIM_X: 31:0
    DIM_Y: 31:0
    DIM_Z: 31:0
    DISPATCH_INITIATOR: %COMPUTE_DISPATCH_INITIATOR
DISPATCH_INDIRECT
    ADDRESS_LO: 31:2
    ADDRESS_HI: 31:0
    DISPATCH_INITIATOR: %COMPUTE_DISPATCH_INITIATOR
ATOMIC_MEM
    CONTROL: ATOMIC 6:0 ATOMIC_OP, COMMAND 11:8 ATOMIC_COMMAND, CACHE_POLICY 26:25 CACHE_POLICY, ENGINE_SEL 31:30 ENGINE
    ADDRESS_LO: 31:2
    ADDRESS_HI: 31:0
    SRC_DATA_LO: 31:0
    SRC_DATA_HI: 31:0
    CMP_DATA_LO: 31:0
    CMP_DATA_HI: 31:0
    LOOP_INTERVAL: 12:0
COND_EXEC
    ADDRESS_LO: 31:2
    ADDRESS_HI: 31:0
    CONTROL: COMMAND 31:28
    EXEC_COUNT: 13:0
CONTEXT_CONTROL
    LOAD: LOAD_GLOBAL_CONFIG 0:0, LOAD_PER_CONTEXT_STATE 1:1, LOAD_GLOBAL_UCONFIG 15:15, LOAD_GFX_SH_REGS 16:16, \
LOAD_CS_SH_REGS 24:24, LOAD_CE_RAM 28:28, UPDATE_LOAD_ENABLES 31:31
    SHADOW: SHADOW_GLOBAL_CONFIG 0:0, SHADOW_PER_CONTEXT_STATE 1:1, SHADOW_GLOBAL_UCONFIG 15:15, \
SHADOW_GFX_SH_REGS 16:16, SHADOW_CS_SH_REGS 24:24, UPDATE_SHADOW_ENABLES 31:31
WRITE_DATA
    CONTROL: @CONTROL_cik, CACHE_POLICY 26:25 CACHE_POLICY
    DST_ADDR_LO: 31:0
    DST_ADDR_HI: 31:0
    *DATA
MEM_SEMAPHORE
    ADDRESS_LO: 31:3
    CONTROL: ADDRESS_HI 15:0, USE_MAILBOX 16:16, SIGNAL_TYPE 20:20 SEMAPHORE_SIGNAL, CLIENT_CODE 25:24, \
SEM_SEL 31:29 SEMAPHORE
WAIT_REG_MEM
    CONTROL: FUNCTION 2:0 COMPARE, MEM_SPACE 5:4 SPACE, OPERATION 7:6 WAIT_OPERATION, ENGINE_SEL 9:8 ENGINE, \
CACHE_POLICY 26:25 CACHE_POLICY
    ADDRESS_LO: 31:0
    ADDRESS_HI: 31:0
    REFERENCE: 31:0
    MASK: 31:0
    POLL: POLL_INTERVAL 15:0, OPTIMIZE_ACE_OFFLOAD_MODE 31:31
WAIT_REG_MEM64
    CONTROL: FUNCTION 2:0 COMPARE, MEM_SPACE 5:4 SPACE, OPERATION 7:6 WAIT_OPERATION, ENGINE_SEL 9:8 ENGINE, \
CACHE_POLICY 26:25 CACHE_POLICY
    ADDRESS_LO: 31:0
    ADDRESS_HI: 31:0
    REFERENCE_LO: 31:0
    REFERENCE_HI: 31:0
    MASK_LO: 31:0
    MASK_HI: 31:0
    POLL: POLL_INTERVAL 15:0, OPTIMIZE_ACE_OFFLOAD_MODE 31:31
INDIRECT_BUFFER
    IB_BASE_LO: 31:2
    IB_BASE_HI: 31:0
    CONTROL: @IB_CONTROL, VMID 27:24, CACHE_POLICY 29:28 IB_CACHE_POLICY, PRE_RESUME 30:30
COPY_DATA
    CONTROL: SRC_SEL 3:0 COPY_SRC, DST_SEL 11:8 COPY_DST, SRC_CACHE_POLICY 14:13 CACHE_POLICY, \
COUNT_SEL 16:16 COPY_COUNT, WR_CONFIRM 20:20, DST_CACHE_POLICY 26:25 CACHE_POLICY, PQ_EXE_STATUS 29:29, \
ENGINE_SEL 31:30 ENGINE
    SRC_ADDR_LO: 31:0
    SRC_ADDR_HI: 31:0
    DST_ADDR_LO: 31:0
    DST_ADDR_HI: 31:0
PFP_SYNC_ME
    DUMMY: 31:0
EVENT_WRITE
    EVENT: EVENT_TYPE 5:0 VGT_EVENT_TYPE, EVENT_INDEX 11:8 EVENT_INDEX, OFFLOAD_ENABLE 31:31
    ?ADDRESS_LO: 31:3
    ?ADDRESS_HI: 31:0
RELEASE_MEM
    OP: @RELEASE_MEM_OP_gfx11
    SELECT: DST_SEL 17:16 RELEASE_DST, MES_INTR_PIPE 21:20, MES_ACTION_ID 23:22, INT_SEL 26:24 RELEASE_INT, \
DATA_SEL 31:29 RELEASE_DATA
    ADDRESS_LO: 31:2
    ADDRESS_HI: 31:0
    DATA_LO: 31:0
    DATA_HI: 31:0
    INT_CTXID: 31:0
PREAMBLE_CNTL
    CONTROL: COMMAND 31:28 PREAMBLE_COMMAND
DMA_DATA
    CONTROL: @DMA_DATA_WORD0_gfx9
    SRC_ADDR_LO: 31:0
    SRC_ADDR_HI: 31:0
    DST_ADDR_LO: 31:0
    DST_ADDR_HI: 31:0
    COMMAND: @COMMAND_gfx9
ACQUIRE_MEM
    COHER_CNTL: @ACQUIRE_MEM_PWS_2, ENGINE_SEL 31:31 ACQUIRE_ENGINE
    COHER_SIZE_LO: 31:0
    COHER_SIZE_HI: 7:0
    COHER_BASE_LO: 31:0
    COHER_BASE_HI: 23:0
    POLL: POLL_INTERVAL 15:0, @ACQUIRE_MEM_PWS_7
    GCR_CNTL: @GCR_CNTL
REWIND
    CONTROL: OFFLOAD_ENABLE 24:24, VALID 31:31
PRIME_UTCL2
    CONTROL: CACHE_PERM 2:0, PRIME_MODE 3:3 PRIME_MODE, ENGINE_SEL 31:30 ENGINE
    ADDRESS_LO: 31:0
    ADDRESS_HI: 31:0
    REQUESTED_PAGES: 13:0
SET_CONFIG_REG
    REGISTER: REG_OFFSET 15:0
    *VALUE
SET_CONTEXT_REG
    REGISTER: REG_OFFSET 15:0, INDEX 31:28
    *VALUE
SET_SH_REG
    REGISTER: REG_OFFSET 15:0
    *VALUE
SET_UCONFIG_REG
    REGISTER: REG_OFFSET 15:0
    *VALUE
SET_UCONFIG_REG_INDEX
    REGISTER: REG_OFFSET 15:0, INDEX 31:28
    *VALUE
SET_SH_REG_INDEX
    REGISTER: REG_OFFSET 15:0, INDEX 31:28
    *VALUE
FRAME_CONTROL
    CONTROL: TMZ 0:0, COMMAND 31:28 FRAME_COMMAND
HDP_FLUSH
    DUMMY: 31:0
INVALIDATE_TLBS
    CONTROL: DST_SEL 3:0, ALL_HUB 4:4, PASID 20:5, FLUSH_TYPE 31:29
SET_RESOURCES
    CONTROL: VMID_MASK 15:0, UNMAP_LATENCY 23:16, QUEUE_TYPE 31:29 RESOURCES_QUEUE_TYPE
    QUEUE_MASK_LO: 31:0
    QUEUE_MASK_HI: 31:0
    GWS_MASK_LO: 31:0
    GWS_MASK_HI: 31:0
    OAC_MASK: 15:0
    GDS_HEAP: GDS_HEAP_BASE 5:0, GDS_HEAP_SIZE 16:11
MAP_QUEUES
    CONTROL: EXTENDED_ENGINE_SEL 3:2, QUEUE_SEL 5:4, VMID 11:8, GWS_CONTROL_QUEUE 12:12, QUEUE 15:13, PIPE 17:16, \
ME 20:18, QUEUE_TYPE 23:21 MAP_QUEUE_TYPE, ALLOC_FORMAT 25:24, ENGINE_SEL 28:26 QUEUE_ENGINE, NUM_QUEUES 31:29
    CONTROL2: CHECK_DISABLE 1:1, DOORBELL_OFFSET 27:2
    MQD_ADDR_LO: 31:0
    MQD_ADDR_HI: 31:0
    WPTR_ADDR_LO: 31:0
    WPTR_ADDR_HI: 31:0
UNMAP_QUEUES
    CONTROL: ACTION 1:0 UNMAP_ACTION, EXTENDED_ENGINE_SEL 3:2, QUEUE_SEL 5:4 UNMAP_QUEUE_SEL, \
ENGINE_SEL 28:26 QUEUE_ENGINE, NUM_QUEUES 31:29
    CONTROL2: DOORBELL_OFFSET0 27:2, PASID 15:0
    CONTROL3: DOORBELL_OFFSET1 27:2, RB_WPTR 19:0, FENCE_ADDR_LO 31:0
    CONTROL4: DOORBELL_OFFSET2 27:2, FENCE_ADDR_HI 31:0
    CONTROL5: DOORBELL_OFFSET3 27:2, FENCE_SEQUENCE 31:0
QUERY_STATUS
    CONTROL: CONTEXT_ID 27:0, INTERRUPT_SEL 29:28 QUERY_INTERRUPT, COMMAND 31:30 QUERY_COMMAND
    CONTROL2: DOORBELL_OFFSET 27:2, ENGINE_SEL 30:28 QUEUE_ENGINE, PASID 15:0
    ADDR_LO: 31:0
    ADDR_HI: 31:0
    DATA_LO: 31:0
    DATA_HI: 31:0
"""

# nvd.h's comments beside the macros; kfd_pm4_headers_ai.h's enums for queues and RELEASE_MEM; sid.h for COPY_DATA
# and the atomics' commands; gfx_v11_0.c, gfx11_kiq_map_queues for engines 4 and 5.
ENUMS = {
    "COMPARE": {"ALWAYS": 0, "LESS": 1, "LESS_EQUAL": 2, "EQUAL": 3, "NOT_EQUAL": 4, "GREATER_EQUAL": 5, "GREATER": 6},
    "SPACE": {"REGISTER": 0, "MEMORY": 1},
    "ENGINE": {"ME": 0, "PFP": 1, "CE": 2},
    "ACQUIRE_ENGINE": {"PFP": 0, "ME": 1},
    "CACHE_POLICY": {"LRU": 0, "STREAM": 1, "NOA": 2, "BYPASS": 3},
    "IB_CACHE_POLICY": {"LRU": 0, "STREAM": 1, "BYPASS": 2},
    "WAIT_OPERATION": {"WAIT_REG_MEM": 0, "WR_WAIT_WR_REG": 1},
    "SET_BASE_INDEX": {"DISPLAY_LIST_PATCH": 0, "INDIRECT_BASE": 1, "CE_PARTITION": 3},
    "ATOMIC_COMMAND": {"SEND_RTN": 0, "LOOP": 1, "WR_CONFIRM": 2, "SEND_NO_RTN": 3},
    "SEMAPHORE_SIGNAL": {"INCREMENT": 0, "WRITE_ONE": 1},
    "SEMAPHORE": {"SIGNAL": 6, "WAIT": 7},
    "COPY_SRC": {"REG": 0, "SRC_MEM": 1, "TC_L2": 2, "GDS": 3, "PERF": 4, "IMM": 5, "TIMESTAMP": 9},
    "COPY_DST": {"REG": 0, "MEM_GRBM": 1, "TC_L2": 2, "GDS": 3, "PERF": 4, "MEM": 5},
    "COPY_COUNT": {"DWORD": 0, "QWORD": 1},
    "EVENT_INDEX": {"OTHER": 0, "ZPASS_DONE": 1, "SAMPLE_PIPELINESTAT": 2, "SAMPLE_STREAMOUTSTATS": 3,
                    "PARTIAL_FLUSH": 4, "END_OF_PIPE": 5, "SHADER_DONE": 6},
    "RELEASE_DST": {"MEMORY_CONTROLLER": 0, "TC_L2": 1, "QUEUE_WPTR_REGISTER": 2, "QUEUE_WPTR_POLL_MASK": 3},
    "RELEASE_INT": {"NONE": 0, "INTERRUPT_ONLY": 1, "INTERRUPT_AFTER_WRITE": 2, "DATA_AFTER_WRITE": 3,
                    "CTXID": 4, "CTXID_IF_32": 5, "CTXID_IF_64": 6},
    "RELEASE_DATA": {"NONE": 0, "LOW_32": 1, "DATA_64": 2, "GPU_CLOCK": 3, "SYSTEM_CLOCK": 4, "GDS": 5},
    "PREAMBLE_COMMAND": {"BEGIN_CLEAR_STATE": 2, "END_CLEAR_STATE": 3},
    "PRIME_MODE": {"DONT_WAIT_FOR_XACK": 0, "WAIT_FOR_XACK": 1},
    "FRAME_COMMAND": {"BEGIN": 0, "END": 1},
    "RESOURCES_QUEUE_TYPE": {"KIQ": 0, "HIQ": 1, "DIQ": 4},
    "MAP_QUEUE_TYPE": {"NORMAL": 0, "DEBUG_INTERFACE": 1, "NORMAL_LATENCY_STATIC": 2, "LOW_LATENCY_STATIC": 3},
    "QUEUE_ENGINE": {"COMPUTE": 0, "SDMA0": 2, "SDMA1": 3, "GFX": 4, "MES": 5},
    "UNMAP_ACTION": {"PREEMPT_QUEUES": 0, "RESET_QUEUES": 1, "DISABLE_PROCESS_QUEUES": 2, "PREEMPT_QUEUES_NO_UNMAP": 3},
    "UNMAP_QUEUE_SEL": {"SPECIFIED": 0, "PASID": 1, "ALL": 2, "ALL_NON_STATIC": 3},
    "QUERY_INTERRUPT": {"COMPLETION_STATUS": 0, "PROCESS_STATUS": 1, "QUEUE_STATUS": 2},
    "QUERY_COMMAND": {"INTERRUPT_ONLY": 0, "FENCE_IMMEDIATE": 1, "FENCE_AFTER_WRITE_ACK": 2,
                      "FENCE_AND_INTERRUPT_AFTER_WRITE_ACK": 3},
}
# Enums that Mesa leaves out where nvd.h has the values.
FIELD_ENUMS = {("RELEASE_MEM", "EVENT_TYPE"): "VGT_EVENT_TYPE", ("RELEASE_MEM", "EVENT_INDEX"): "EVENT_INDEX",
               ("RELEASE_MEM", "CACHE_POLICY"): "CACHE_POLICY", ("DMA_DATA", "SRC_CACHE_POLICY"): "CACHE_POLICY",
               ("DMA_DATA", "DST_CACHE_POLICY"): "CACHE_POLICY"}

# Byte ranges of Mesa's sid.h (nvd.h's end of the UCONFIG space leaves the performance counters out).
SPACES = {"SET_CONFIG_REG": "SI_CONFIG_REG", "SET_CONTEXT_REG": "SI_CONTEXT_REG", "SET_SH_REG": "SI_SH_REG",
          "SET_UCONFIG_REG": "CIK_UCONFIG_REG"}

# The header's bits: nvd.h, PACKET3; sid.h, PKT3_SHADER_TYPE_S, PKT3_PREDICATE, PKT3_RESET_FILTER_CAM_S.
HEADER = Word("HEADER", {"PREDICATE": (0, 0), "SHADER_TYPE": (1, 1), "RESET_FILTER_CAM": (2, 2), "OPCODE": (15, 8),
                         "COUNT": (29, 16), "TYPE": (31, 30)})

DOC = '''"""PM4 type-3 packets of gfx11. Generated by tools/autogen; do not edit.

Opcodes are those of Linux's nvd.h and Mesa's sid.h; the layouts of Mesa's pkt3.json and gfx11.json, of nvd.h and of
kfd_pm4_headers_ai.h. The notation is that of :mod:`amdrv.facts.layout`.

Every packet starts with ``HEADER``: TYPE is 3, COUNT is the number of words after the header less one, SHADER_TYPE is
1 in packets for compute that touch SH registers (SET_SH_REG, DISPATCH_*). ``words`` are the words after the header;
what COUNT announces beyond them is the tail, where the packet has one. NOP with COUNT 0x3fff is a header alone.
A type-2 header (``PACKET2_NOP``) is a word of padding.

``REGISTER_SPACES``: where REG_OFFSET counts from, and the end, for the packets that set registers; in dwords of the
register BAR, that is base address of the IP's segment + offset of the register. In WAIT_REG_MEM, WRITE_DATA and
COPY_DATA a register is named by that dword address in place of the memory address. COHER_SIZE and COHER_BASE of
ACQUIRE_MEM count 256 bytes.
"""

from amdrv.facts.layout import Packet, Part, Word

'''


class Reader:
    """Turns :data:`LAYOUT` into packets, with types from Mesa and checks against the headers' macros."""

    def __init__(self, sources: Sources) -> None:
        self.nvd = sources.linux_file(NVD).read_text()
        self.sid = sources.mesa_file(SID).read_text()
        registers = sources.mesa_file("src/amd/registers/gfx11.json")
        self.pkt3: dict[str, Any] = json.loads(sources.mesa_file("src/amd/registers/pkt3.json").read_text())
        self.gfx11: dict[str, Any] = json.loads(registers.read_text())
        self.enums: dict[str, dict[str, int]] = {name: dict(values) for name, values in ENUMS.items()}
        soc21 = sources.linux_file("drivers/gpu/drm/amd/include/soc21_enum.h").read_text()
        self.enums["VGT_EVENT_TYPE"] = enum_values(soc21, "VGT_EVENT_TYPE")
        self.enums["ATOMIC_OP"] = {name.removeprefix("GL2_OP_"): value
                                   for name, value in enum_values(soc21, "GL2_OP").items() if "ATOMIC" in name}
        self.shifts = self._shifts(self.nvd + sources.linux_file(SOC15D).read_text().replace("PACKET3_INVALIDATE_TLBS_",
                                                                                            "INVALIDATE_TLBS_"))
        self.opcodes = self._opcodes()

    def _shifts(self, text: str) -> dict[str, int]:
        shifts = {name: int(lsb) for name, lsb in re.findall(
            r"define\s+(\w+)\(x\)\s+\(\(x\) << (\d+)\)", text + self.sid)}
        for name, lsb in re.findall(r"define\s+(\w+)\(x\)\s+\(\(\(unsigned\)\(x\)\s*&\s*0x\w+\) << (\d+)\)", self.sid):
            shifts.setdefault(name, int(lsb))
        for name, lsb in re.findall(r"define\s+(\w+)\s+\(1 << (\d+)\)", text):
            shifts.setdefault(name, int(lsb))
        return shifts

    def _opcodes(self) -> dict[str, int]:
        opcodes = {name: int(value, 16) for name, value in re.findall(
            r"^#define\s+PACKET3_(\w+)\s+0x([0-9A-F]{2})\s*$", self.nvd, re.M)}
        taken = set(opcodes.values())
        for name, value, comment in re.findall(r"^#define PKT3_(\w+)\s+0x([0-9A-F]{2})\b(.*)$", self.sid, re.M):
            if int(value, 16) not in taken and not re.search(r"GFX6 only|GFX6-8|GFX12\+", comment):
                opcodes[name] = int(value, 16)
        return dict(sorted(opcodes.items(), key=lambda item: item[1]))

    def _mesa(self, base: dict[str, Any], name: str) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        for field in base["register_types"][name]["fields"]:
            lsb, msb = field["bits"]
            if reference := field.get("enum_ref"):
                shown = reference.replace("_gfx11", "").replace("_gfx9", "").replace("_cik", "")
                self.enums.setdefault(shown, {e["name"]: e["value"] for e in base["enums"][reference]["entries"]})
                fields[field["name"]] = (msb, lsb, shown)
            else:
                fields[field["name"]] = (msb, lsb)
        return fields

    def _word(self, packet: str, line: str) -> Word:
        optional = line.startswith("?")
        name, _, body = line.lstrip("?").partition(": ")
        fields: dict[str, Field] = {}
        for item in body.split(", "):
            if item.startswith("@"):
                fields |= self._mesa(self.pkt3, item[1:])
            elif item.startswith("%"):
                fields |= self._mesa(self.gfx11, item[1:])
            else:
                match = re.fullmatch(r"(?:(\w+) )?(\d+):(\d+)(?: (\w+))?", item.strip())
                if match is None:
                    raise ValueError(f"{packet}: {item!r} is no field")
                bits = int(match[2]), int(match[3])
                fields[match[1] or name] = (*bits, match[4]) if match[4] else bits
        for field in fields:
            if enum := FIELD_ENUMS.get((packet, field)):
                fields[field] = (fields[field][0], fields[field][1], enum)
            self._check(packet, field, fields[field])
        return Word(name, fields, optional)

    def _check(self, packet: str, field: str, bits: Field) -> None:
        for macro in (f"PACKET3_{packet}_{field}", f"{packet}_{field}", f"PACKET3_{packet}_GCR_{field}",
                      f"PACKET3_{packet}_GCR_CNTL_{field}", f"PACKET3_{packet}_CMD_{field}", f"CC0_{field}",
                      f"CC1_{field}"):
            if macro in self.shifts and self.shifts[macro] != bits[1]:
                raise ValueError(f"{packet}.{field} starts at bit {bits[1]} here, at {self.shifts[macro]} in {macro}")
        if len(bits) == 3 and bits[2] not in self.enums:
            raise ValueError(f"{packet}.{field}: no enum {bits[2]}")

    def packets(self) -> dict[str, Packet]:
        packets: dict[str, Packet] = {}
        for block in re.split(r"\n(?=\w)", LAYOUT.strip()):
            name, *lines = (line.strip() for line in block.splitlines())
            tail = None
            words: list[Word] = []
            for line in lines:
                if line.startswith("*"):
                    tail = line[1:]
                else:
                    words.append(self._word(name, line))
            names = [field for word in words for field in word.fields]
            if len(set(names)) != len(names):
                raise ValueError(f"{name}: a field name stands twice")
            packets[name] = Packet(self.opcodes[name], tuple(words), wide_values(_halves(words)), tail)
        return packets


def _halves(words: list[Word]) -> list[tuple[str, Part]]:
    parts = []
    for word in words:
        for field, bits in word.fields.items():
            for suffix, base in (("_LO", 0), ("_HI", 32)):
                if field.endswith(suffix):
                    low = base + (bits[1] if base == 0 else 0)
                    parts.append((field.removesuffix(suffix), Part(field, low + bits[0] - bits[1], low)))
    return parts


def generate(sources: Sources) -> dict[str, bytes]:
    reader = Reader(sources)
    packets = reader.packets()
    used = {bits[2] for packet in packets.values() for word in packet.words
            for bits in word.fields.values() if len(bits) == 3}
    enums = {name: values for name, values in reader.enums.items() if name in used}
    lines = ["REGISTER_SPACES: dict[str, tuple[int, int]] = {"]
    for name, macro in SPACES.items():
        bounds = [re.search(rf"define {macro}_{end}\s+(0x\w+)", reader.sid) for end in ("OFFSET", "END")]
        start = re.search(rf"PACKET3_{name}_START\s+(0x\w+)", reader.nvd)
        if bounds[0] is None or bounds[1] is None or start is None or int(start[1], 16) != int(bounds[0][1], 16) // 4:
            raise ValueError(f"{NVD} and {SID} do not agree on where {name} starts")
        shown = f"({int(bounds[0][1], 16) // 4:#x}, {int(bounds[1][1], 16) // 4:#x})"
        lines += [f'    "{packet}": {shown},' for packet in (name, f"{name}_INDEX") if packet in packets]
    opcodes = ["OPCODES: dict[str, int] = {"]
    opcodes += [f'    "{name}": {code:#04x},' for name, code in reader.opcodes.items()]
    opcodes += ["}"]
    source = (DOC + "TYPE3, TYPE2 = 3, 2\nPACKET2_NOP = 0x80000000\nHEADER_ONLY_COUNT = 0x3fff\n\n"
              + words_source("_HEADER", (HEADER,)) + "HEADER = _HEADER[0]\n\n" + "\n".join([*lines, "}"]) + "\n\n"
              + enums_source("ENUMS", enums) + "\n" + packets_source("PACKETS", packets)
              + "\n# Every opcode by name, those without a layout above too.\n" + "\n".join(opcodes) + "\n")
    return {"amdrv/facts/pm4.py": source.encode()}
