"""Code objects: from ELF bytes to an image that can be placed at any GPU address.

    code = CodeObject(data)             # reads everything it needs; raises CodeObjectError for anything odd
    code.kernels                        # {name: KernelInfo}
    image = code.place(address)         # uint8 bytes for `address`, relocations applied

Two kinds of file are read. A linked code object (ET_DYN, from ``clang`` and ``ld.lld``) has program headers and,
at most, dynamic relocations. A relocatable one (ET_REL, from ``llvmlite``'s ``emit_object``) has sections that
are laid out here, and relocations against them. Both end as one contiguous image with symbols relative to it.

Layouts and numbers: the ELF specification (System V gABI), and LLVM's "User Guide for AMDGPU Backend", sections
"ELF Code Object" (e_flags, relocation records) and "Code Object Metadata" (NT_AMDGPU_METADATA).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from hcq.errors import CodeObjectError
from hcq.metadata import KernelInfo, read_kernels

__all__ = ["CodeObject", "PAGE", "mach_name"]

PAGE = 4096
"""Images are placed at multiples of this, so that segments keep their place within a page."""

_ET_REL, _ET_DYN = 1, 3
_EM_AMDGPU = 224
_ELFOSABI_AMDGPU_HSA = 64
_VERSIONS = {2: 4, 3: 5, 4: 6}      # EI_ABIVERSION -> code object version
_PT_LOAD, _PT_DYNAMIC, _PT_NOTE = 1, 2, 4
_SHT_PROGBITS, _SHT_SYMTAB, _SHT_RELA, _SHT_NOTE, _SHT_NOBITS, _SHT_REL, _SHT_DYNSYM = 1, 2, 4, 7, 8, 9, 11
_SHF_ALLOC = 2
_SHN_UNDEF, _SHN_ABS, _SHN_LORESERVE = 0, 0xfff1, 0xff00
_STT_SECTION = 3
_STB_WEAK = 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_STRSZ = 4, 5, 6, 7, 8, 10
_NT_AMDGPU_METADATA = 32
_MACH_MASK = 0xff                   # EF_AMDGPU_MACH
_LARGEST_IMAGE = 1 << 28            # no code object comes near; a damaged size field easily does
_PREFETCH_PAD = 1024                # the instruction prefetcher may read beyond the last instruction

# LLVM, "User Guide for AMDGPU Backend", table "AMDGPU e_flags mach values".
_MACH = {
    0x20: "gfx600", 0x21: "gfx601", 0x22: "gfx700", 0x23: "gfx701", 0x24: "gfx702", 0x25: "gfx703", 0x26: "gfx704",
    0x28: "gfx801", 0x29: "gfx802", 0x2a: "gfx803", 0x2b: "gfx810", 0x2c: "gfx900", 0x2d: "gfx902", 0x2e: "gfx904",
    0x2f: "gfx906", 0x30: "gfx908", 0x31: "gfx909", 0x32: "gfx90c", 0x33: "gfx1010", 0x34: "gfx1011",
    0x35: "gfx1012", 0x36: "gfx1030", 0x37: "gfx1031", 0x38: "gfx1032", 0x39: "gfx1033", 0x3a: "gfx602",
    0x3b: "gfx705", 0x3c: "gfx805", 0x3d: "gfx1035", 0x3e: "gfx1034", 0x3f: "gfx90a", 0x40: "gfx940",
    0x41: "gfx1100", 0x42: "gfx1013", 0x43: "gfx1150", 0x44: "gfx1103", 0x45: "gfx1036", 0x46: "gfx1101",
    0x47: "gfx1102", 0x48: "gfx1200", 0x4a: "gfx1151", 0x4b: "gfx941", 0x4c: "gfx942", 0x4e: "gfx1201",
    0x4f: "gfx950", 0x51: "gfx9-generic", 0x52: "gfx10-1-generic", 0x53: "gfx10-3-generic", 0x54: "gfx11-generic",
    0x55: "gfx1152", 0x58: "gfx1153", 0x59: "gfx12-generic", 0x5f: "gfx9-4-generic",
}
_GENERIC = {                        # same guide, table "AMDGPU Generic Processors"
    "gfx9-generic": {"gfx900", "gfx902", "gfx904", "gfx906", "gfx909", "gfx90c"},
    "gfx9-4-generic": {"gfx940", "gfx941", "gfx942", "gfx950"},
    "gfx10-1-generic": {"gfx1010", "gfx1011", "gfx1012", "gfx1013"},
    "gfx10-3-generic": {"gfx1030", "gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035", "gfx1036"},
    "gfx11-generic": {"gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"},
    "gfx12-generic": {"gfx1200", "gfx1201"},
}


def mach_name(flags: int) -> str:
    """The processor that ``e_flags`` names, e.g. "gfx1100"; "mach 0x.." where LLVM's table has none."""
    mach = flags & _MACH_MASK
    return _MACH.get(mach, f"mach {mach:#x}")


@dataclass(frozen=True)
class _Section:
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    info: int
    section: int
    value: int
    size: int

    @property
    def is_section(self) -> bool:
        return self.info & 0xf == _STT_SECTION


@dataclass(frozen=True)
class _Relocation:
    place: int                      # offset in the image
    type: int
    symbol: str                     # for messages
    target: int | None              # offset in the image; None: absolute
    value: int                      # absolute value where target is None
    addend: int


# LLVM, "User Guide for AMDGPU Backend", table "AMDGPU ELF Relocation Records": name and bytes of the field.
_RELOCATIONS = {
    0: ("R_AMDGPU_NONE", 0), 1: ("R_AMDGPU_ABS32_LO", 4), 2: ("R_AMDGPU_ABS32_HI", 4), 3: ("R_AMDGPU_ABS64", 8),
    4: ("R_AMDGPU_REL32", 4), 5: ("R_AMDGPU_REL64", 8), 6: ("R_AMDGPU_ABS32", 4), 7: ("R_AMDGPU_GOTPCREL", 4),
    8: ("R_AMDGPU_GOTPCREL32_LO", 4), 9: ("R_AMDGPU_GOTPCREL32_HI", 4), 10: ("R_AMDGPU_REL32_LO", 4),
    11: ("R_AMDGPU_REL32_HI", 4), 13: ("R_AMDGPU_RELATIVE64", 8), 14: ("R_AMDGPU_REL16", 2),
}
_GOT_TYPES = (7, 8, 9)


class CodeObject:
    """A parsed code object. Nothing of the input is trusted: every read is checked against its size.

    :param data: the whole file (bytes, bytearray, memoryview).
    :raises CodeObjectError: not an ELF, truncated, another machine or OS ABI, a version other than 4 to 6,
        metadata that cannot be read, a relocation that cannot be applied.
    """

    arch: str                       # "gfx1100"
    version: int                    # of the code object: 4, 5 or 6
    kernels: Mapping[str, KernelInfo]
    image_bytes: int

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise CodeObjectError(f"a code object is bytes, not {type(data).__name__}; read the file first")
        self._data = bytes(data)
        self.digest = blake2b(self._data, digest_size=32).digest()      # what makes two the same
        try:
            self._read_header()
            self._sections = self._read_sections()
            self._place_of: dict[int, int] = {}             # section index -> offset in the image (ET_REL)
            self._chunks: list[tuple[int, bytes]] = []      # (offset in the image, contents)
            self._relocations: list[_Relocation] = []
            self._got: dict[tuple[int | None, int], int] = {}   # (target, value) -> offset in the image
            if self._type == _ET_DYN:
                symbols, note = self._read_linked()
            else:
                symbols, note = self._read_relocatable()
            self.symbols: dict[str, int] = symbols          # offsets in the image
            base_image = self._image(0, final=False)
            self.kernels = read_kernels(note, self.symbols, base_image, self.version)
        except CodeObjectError:
            raise
        except (struct.error, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise CodeObjectError(f"damaged code object: {error}") from error
        del self._data, self._sections, self._place_of

    # --- the file

    def _bytes(self, offset: int, size: int, what: str) -> bytes:
        if offset < 0 or size < 0 or offset + size > len(self._data):
            raise CodeObjectError(f"truncated code object: {what} is at bytes {offset:#x} to {offset + size:#x}, "
                                  f"the file has {len(self._data):#x}")
        return self._data[offset:offset + size]

    def _read_header(self) -> None:
        data = self._data
        if data[:4] != b"\x7fELF":
            raise CodeObjectError(f"not an ELF file: it begins with {data[:4].hex(' ') or 'nothing'}, "
                                  "not 7f 45 4c 46; a code object is what `clang -target amdgcn-amd-amdhsa` writes")
        ident = self._bytes(0, 16, "the ELF header")
        if ident[4] != 2 or ident[5] != 1:
            raise CodeObjectError(f"not a 64-bit little-endian ELF (EI_CLASS {ident[4]}, EI_DATA {ident[5]})")
        (self._type, machine, _, _, self._phoff, self._shoff, flags, _, self._phentsize, self._phnum,
         self._shentsize, self._shnum, self._shstrndx) = struct.unpack("<HHIQQQIHHHHHH",
                                                                       self._bytes(16, 48, "the ELF header"))
        if machine != _EM_AMDGPU:
            raise CodeObjectError(f"an ELF for machine {machine}, not EM_AMDGPU ({_EM_AMDGPU}); "
                                  "compile with -target amdgcn-amd-amdhsa")
        if ident[7] != _ELFOSABI_AMDGPU_HSA:
            raise CodeObjectError(f"an AMDGPU ELF for OS ABI {ident[7]}, not HSA ({_ELFOSABI_AMDGPU_HSA}); "
                                  "compile with -target amdgcn-amd-amdhsa")
        if ident[8] not in _VERSIONS:
            raise CodeObjectError(f"code object with ABI version {ident[8]}; versions 4, 5 and 6 (ABI versions "
                                  "2, 3 and 4) can be loaded: compile with -mcode-object-version=5")
        if self._type not in (_ET_REL, _ET_DYN):
            raise CodeObjectError(f"an ELF of type {self._type}; a code object is a shared object (3) or a "
                                  "relocatable file (1)")
        self.version = _VERSIONS[ident[8]]
        self.flags = flags
        self.arch = mach_name(flags)

    def _read_sections(self) -> list[_Section]:
        if self._shnum == 0 or self._shoff == 0:
            return []
        if self._shentsize != 64:
            raise CodeObjectError(f"section headers of {self._shentsize} bytes, not 64")
        table = self._bytes(self._shoff, self._shnum * 64, "the section header table")
        raw = [struct.unpack_from("<IIQQQQIIQQ", table, i * 64) for i in range(self._shnum)]
        names = b""
        if self._shstrndx < len(raw) and raw[self._shstrndx][1] != _SHT_NOBITS:
            names = self._bytes(raw[self._shstrndx][4], raw[self._shstrndx][5], "the section names")
        return [_Section(_string(names, r[0]), r[1], r[2], r[3], r[4], r[5], r[6], r[7], max(r[8], 1), r[9])
                for r in raw]

    def _section_bytes(self, section: _Section) -> bytes:
        return self._bytes(section.offset, section.size, f"section {section.name!r}")

    def _symbols_of(self, table: _Section) -> list[_Symbol]:
        if table.link >= len(self._sections):
            raise CodeObjectError(f"symbol table {table.name!r} names section {table.link} for its strings, "
                                  f"of {len(self._sections)}")
        return _symbols(self._section_bytes(table), self._section_bytes(self._sections[table.link]))

    @staticmethod
    def _metadata_note(notes: bytes) -> bytes | None:
        """The NT_AMDGPU_METADATA record of a note segment or section."""
        position = 0
        while position + 12 <= len(notes):
            name_size, size, kind = struct.unpack_from("<III", notes, position)
            name = notes[position + 12:position + 12 + name_size]
            start = position + 12 + (name_size + 3 & ~3)
            if start + size > len(notes):
                raise CodeObjectError(f"truncated code object: a note of {size} bytes at {start:#x} of its "
                                      f"{len(notes):#x}-byte segment")
            if kind == _NT_AMDGPU_METADATA and name.rstrip(b"\0") == b"AMDGPU":
                return notes[start:start + size]
            position = start + (size + 3 & ~3)
        return None

    # --- ET_DYN

    def _read_linked(self) -> tuple[dict[str, int], bytes]:
        if self._phentsize != 56:
            raise CodeObjectError(f"program headers of {self._phentsize} bytes, not 56")
        table = self._bytes(self._phoff, self._phnum * 56, "the program header table")
        headers = [struct.unpack_from("<IIQQQQQQ", table, i * 56) for i in range(self._phnum)]
        loads = [h for h in headers if h[0] == _PT_LOAD]
        if not loads:
            raise CodeObjectError("a shared object without a PT_LOAD segment: there is nothing to load")
        end = 0
        for _, _, offset, address, _, file_size, memory_size, _ in loads:
            if file_size > memory_size:
                raise CodeObjectError(f"segment at {address:#x} has {file_size} bytes in the file, more than its "
                                      f"{memory_size} in memory")
            if address + memory_size > _LARGEST_IMAGE:
                raise CodeObjectError(f"segment at {address:#x} of {memory_size:#x} bytes: too large to be a "
                                      "code object")
            if (offset - address) % PAGE:
                raise CodeObjectError(f"segment at {address:#x} has file offset {offset:#x}: not the same place "
                                      "within a page")
            self._chunks.append((address, self._bytes(offset, file_size, f"the segment at {address:#x}")))
            end = max(end, address + memory_size)
        self.image_bytes = end + _PREFETCH_PAD
        note = None
        for kind, _, offset, _, _, file_size, _, _ in headers:
            if kind == _PT_NOTE and note is None:
                note = self._metadata_note(self._bytes(offset, file_size, "the note segment"))
        symbols = self._dynamic(headers)
        if note is None:
            raise CodeObjectError("no NT_AMDGPU_METADATA note: not an HSA code object, or stripped of its notes")
        named = {s.name: s.value for s in symbols if s.name and s.section != _SHN_UNDEF}
        return named, note

    def _dynamic(self, headers: list[tuple[int, ...]]) -> list[_Symbol]:
        """Dynamic symbols; dynamic relocations go to ``self._relocations``."""
        dynamic = next((h for h in headers if h[0] == _PT_DYNAMIC), None)
        if dynamic is None:
            raise CodeObjectError("a shared object without a dynamic segment: its symbols cannot be found")
        raw = self._bytes(dynamic[2], dynamic[5], "the dynamic segment")
        tags = {}
        for i in range(0, len(raw) - 15, 16):
            tag, value = struct.unpack_from("<QQ", raw, i)
            if tag == 0:
                break
            tags[tag] = value
        missing = [name for name, tag in (("DT_SYMTAB", _DT_SYMTAB), ("DT_STRTAB", _DT_STRTAB),
                                          ("DT_STRSZ", _DT_STRSZ)) if tag not in tags]
        if missing:
            raise CodeObjectError(f"the dynamic segment has no {', '.join(missing)}")
        image = self._image(0, final=False)

        def at(address: int, size: int, what: str) -> bytes:
            if address + size > len(image):
                raise CodeObjectError(f"truncated code object: {what} at {address:#x} of {size:#x} bytes is beyond "
                                      "the segments")
            return image[address:address + size].tobytes()

        table = next((s for s in self._sections if s.type == _SHT_DYNSYM), None)
        if table is not None:
            count = table.size // 24
        elif _DT_HASH in tags:
            count = struct.unpack("<II", at(tags[_DT_HASH], 8, "the symbol hash table"))[1]     # nchain
        else:
            raise CodeObjectError("neither section headers nor DT_HASH: the symbols cannot be counted")
        symbols = _symbols(at(tags[_DT_SYMTAB], count * 24, "the dynamic symbol table"),
                           at(tags[_DT_STRTAB], tags[_DT_STRSZ], "the dynamic strings"))
        if size := tags.get(_DT_RELASZ, 0):
            records = at(tags.get(_DT_RELA, 0), size, "the dynamic relocations")
            for i in range(0, size - 23, 24):
                place, info, addend = struct.unpack_from("<QQq", records, i)
                self._add_relocation(place, info & 0xffffffff, addend, symbols, info >> 32, linked=True)
        return symbols

    # --- ET_REL

    def _read_relocatable(self) -> tuple[dict[str, int], bytes]:
        end = 0
        note = None
        for index, section in enumerate(self._sections):
            if section.type == _SHT_NOTE and note is None:
                note = self._metadata_note(self._section_bytes(section))
            if not section.flags & _SHF_ALLOC or section.type not in (_SHT_PROGBITS, _SHT_NOBITS):
                continue
            if section.align & section.align - 1 or section.align > PAGE:
                raise CodeObjectError(f"section {section.name!r} wants alignment {section.align}; at most a page "
                                      f"({PAGE}) can be given")
            place = end + section.align - 1 & -section.align
            end = place + section.size
            if end > _LARGEST_IMAGE:
                raise CodeObjectError(f"section {section.name!r} has {section.size:#x} bytes: too large to be a "
                                      "code object")
            self._place_of[index] = place
            if section.type == _SHT_PROGBITS:
                self._chunks.append((place, self._section_bytes(section)))
        if note is None:
            raise CodeObjectError("no NT_AMDGPU_METADATA note: not an HSA code object, or stripped of its notes")
        table = next((s for s in self._sections if s.type == _SHT_SYMTAB), None)
        if table is None:
            raise CodeObjectError("a relocatable file without a symbol table")
        symbols = self._symbols_of(table)
        self.image_bytes = end
        for section in self._sections:
            if section.type == _SHT_REL and section.info in self._place_of:
                raise CodeObjectError(f"section {section.name!r} has relocations without addends; AMDGPU uses RELA")
            if section.type != _SHT_RELA or section.info not in self._place_of:
                continue
            base = self._place_of[section.info]
            size = self._sections[section.info].size
            records = self._section_bytes(section)
            for i in range(0, len(records) - 23, 24):
                offset, info, addend = struct.unpack_from("<QQq", records, i)
                if offset >= size:
                    raise CodeObjectError(f"relocation {i // 24} of {section.name!r} is at {offset:#x}, beyond its "
                                          f"section's {size:#x} bytes")
                self._add_relocation(base + offset, info & 0xffffffff, addend, symbols, info >> 32, linked=False)
        got = self.image_bytes + 7 & ~7
        for key in self._got:
            self._got[key] += got
        self.image_bytes = got + 8 * len(self._got) + _PREFETCH_PAD
        named = {s.name: self._place_of[s.section] + s.value for s in symbols
                 if s.name and s.section in self._place_of}
        return named, note

    # --- relocations and the image

    def _add_relocation(self, place: int, kind: int, addend: int, symbols: list[_Symbol], index: int, *,
                        linked: bool) -> None:
        if kind not in _RELOCATIONS:
            raise CodeObjectError(f"relocation of type {kind} at {place:#x}: LLVM's AMDGPU guide has no such type")
        name, size = _RELOCATIONS[kind]
        if size == 0:
            return
        if place + size > self.image_bytes:
            raise CodeObjectError(f"{name} at {place:#x} is beyond the image's {self.image_bytes:#x} bytes")
        if index >= len(symbols):
            raise CodeObjectError(f"{name} at {place:#x} names symbol {index} of {len(symbols)}")
        symbol = symbols[index]
        target: int | None
        value = 0
        if name == "R_AMDGPU_RELATIVE64":
            target, label = 0, "the image"
        elif symbol.section == _SHN_UNDEF:
            label = symbol.name
            if symbol.info >> 4 != _STB_WEAK:
                raise CodeObjectError(f"undefined symbol {label!r}: link the code object with what defines it")
            target = None
        elif symbol.section == _SHN_ABS:
            target, value, label = None, symbol.value, symbol.name
        elif linked:
            target, label = symbol.value, symbol.name
        elif symbol.section in self._place_of:
            target = self._place_of[symbol.section] + symbol.value
            label = self._sections[symbol.section].name if symbol.is_section else symbol.name
        else:
            where = f"section index {symbol.section:#x}" if symbol.section >= _SHN_LORESERVE else \
                f"section {symbol.section}, which is not loaded"
            raise CodeObjectError(f"{name} at {place:#x} refers to {symbol.name!r} in {where}; link the object with "
                                  "ld.lld first")
        if kind in _GOT_TYPES:
            if linked:
                raise CodeObjectError(f"{name} at {place:#x}: not a dynamic relocation")
            self._got.setdefault((target, value), 8 * len(self._got))
        self._relocations.append(_Relocation(place, kind, label, target, value, addend))

    def _image(self, base: int, *, final: bool = True) -> np.ndarray:
        image = np.zeros(self.image_bytes, np.uint8)
        for offset, contents in self._chunks:
            image[offset:offset + len(contents)] = np.frombuffer(contents, np.uint8)
        for (target, value), slot in self._got.items():
            entry = value if target is None else base + target
            image[slot:slot + 8] = np.frombuffer(struct.pack("<Q", entry & (1 << 64) - 1), np.uint8)
        for relocation in self._relocations:
            self._relocate(image, base, relocation, final)
        return image

    def _relocate(self, image: np.ndarray, base: int, relocation: _Relocation, final: bool) -> None:
        name, size = _RELOCATIONS[relocation.type]
        symbol = relocation.value if relocation.target is None else base + relocation.target
        place = base + relocation.place
        if relocation.type in _GOT_TYPES:
            symbol = base + self._got[relocation.target, relocation.value]
        result = symbol + relocation.addend
        if name.startswith(("R_AMDGPU_REL32", "R_AMDGPU_REL64", "R_AMDGPU_GOTPCREL")):
            result -= place
        if name == "R_AMDGPU_REL16":            # s_branch: words from the next instruction
            result = (result - place - 4) // 4
        if name.endswith("_HI"):
            result >>= 32
        fits = {"R_AMDGPU_REL16": -1 << 15 <= result < 1 << 15, "R_AMDGPU_REL32": -1 << 31 <= result < 1 << 31,
                "R_AMDGPU_GOTPCREL": -1 << 31 <= result < 1 << 31, "R_AMDGPU_ABS32": 0 <= result < 1 << 32}
        if final and not fits.get(name, True):
            raise CodeObjectError(f"{name} against {relocation.symbol!r} at {relocation.place:#x} does not fit: "
                                  f"{result:#x}")
        data = (result & (1 << 8 * size) - 1).to_bytes(size, "little")
        image[relocation.place:relocation.place + size] = np.frombuffer(data, np.uint8)

    # --- for the loader

    def runs_on(self, arch: str) -> bool:
        """Whether a card of this architecture executes the code: the same, or its generic family."""
        return self.arch == arch or arch in _GENERIC.get(self.arch, ())

    def kernel(self, name: str | None = None) -> KernelInfo:
        """The kernel of that name; without a name, the only one.

        :raises CodeObjectError: listing the kernels that there are.
        """
        names = ", ".join(sorted(self.kernels)) or "none"
        if name is None:
            if len(self.kernels) != 1:
                raise CodeObjectError(f"the code object has {len(self.kernels)} kernels; name one of: {names}")
            return next(iter(self.kernels.values()))
        if name not in self.kernels:
            raise CodeObjectError(f"no kernel {name!r} in the code object; it has: {names}")
        return self.kernels[name]

    def place(self, address: int) -> np.ndarray:
        """The image (uint8[image_bytes]) for loading at ``address``, a multiple of ``PAGE``."""
        if address % PAGE:
            raise CodeObjectError(f"an image must be placed at a multiple of {PAGE}, not at {address:#x}")
        return self._image(address)

    def __repr__(self) -> str:
        return f"CodeObject({self.arch}, v{self.version}, {self.image_bytes} bytes, kernels: {', '.join(self.kernels)})"


def _string(table: bytes, offset: int) -> str:
    if offset >= len(table):
        return ""
    end = table.find(b"\0", offset)
    return table[offset:end if end >= 0 else len(table)].decode("utf-8", "replace")


def _symbols(table: bytes, strings: bytes) -> list[_Symbol]:
    return [_Symbol(_string(strings, name), info, section, value, size)
            for name, info, _, section, value, size in struct.iter_unpack("<IBBHQQ", table[:len(table) // 24 * 24])]
