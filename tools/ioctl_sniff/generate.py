"""``ioctl-sniff gen HEADER.h``: a decoder from a C header.

libclang, which ctypeslib2 brings and stands on, lays out the records, evaluates the macros (``_IOWR('K', 2, struct
args)`` and all), and tells which record such a macro names. ctypeslib2's own classes of the same records are the second
opinion, in the tests: not every header goes through it. The result is one JSON object, described in
:mod:`tools.ioctl_sniff.abi`; what a header cannot say (what a pointer points at, which constants a field takes) comes
from ``hints.toml``.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["GenerateError", "Source", "generate", "write"]

LIBRARIES = ("/usr/lib/llvm-*/lib/libclang*.so*", "/usr/lib/*/libclang-*.so*", "/usr/lib64/libclang*.so*",
             "/opt/homebrew/opt/llvm/lib/libclang.dylib", "/usr/local/opt/llvm/lib/libclang.dylib",
             "/Library/Developer/CommandLineTools/usr/lib/libclang.dylib")
TARGET = "x86_64-linux-gnu"
_IOC = re.compile(r"\b_IO(?:C|R|W|WR)?\b")


class GenerateError(Exception):
    """The header cannot be read, or has nothing in it."""


class Source:
    """What to generate: headers, where their includes are, and for which devices.

    :param keep: of the headers found by including these, a macro or enum is taken when its file's name matches.
    """

    def __init__(self, name: str, headers: Sequence[str], *, include: Sequence[Path | str] = (),
                 devices: Sequence[str] = (), prelude: str = "", keep: str = "", origin: str = "") -> None:
        self.name, self.headers, self.include, self.devices = name, list(headers), list(include), list(devices)
        self.prelude, self.origin = prelude, origin or ", ".join(headers)
        self.keep = re.compile(keep or "|".join(re.escape(os.path.basename(header)) + "$" for header in headers))

    @property
    def text(self) -> str:
        return self.prelude + "\n" + "".join(f'#include "{header}"\n' for header in self.headers)

    @property
    def options(self) -> list[str]:
        return ["-std=gnu11", "-target", TARGET, "-w", *(f"-I{folder}" for folder in self.include)]


@functools.cache
def _cindex() -> Any:
    try:
        from clang import cindex
    except ImportError as error:
        raise GenerateError(f"decoders are made with ctypeslib2, which is not installed ({error}): "
                            "pip install ctypeslib2") from error
    found = [path for pattern in LIBRARIES for path in sorted(glob.glob(pattern), reverse=True) if "-cpp" not in path]
    if not cindex.Config.loaded:            # else somebody in this process has chosen already
        cindex.Config.set_compatibility_check(False)
        if found:
            cindex.Config.set_library_file(found[0])
    try:
        cindex.Index.create()
    except cindex.LibclangError as error:
        raise GenerateError(f"libclang was not found: {error}; "
                            "install it (Debian: libclang-19-dev or clang-19)") from error
    return cindex


def generate(source: Source) -> dict[str, Any]:
    """The decoder as an object for JSON. :raises GenerateError: the header does not compile, or declares no ioctl."""
    unit = _parse(source, source.text, detailed=True)
    macros, own = _macros(unit, source)
    values = _evaluate(source, own)
    ioctls: list[list[Any]] = []
    for name in own:
        if _is_ioctl(name, macros) and values.get(name) is not None:
            ioctls.append([name, values[name] & 0xFFFF_FFFF, _record_of(name, macros)])
    constants = {name: value for name, value in values.items() if name not in {ioctl[0] for ioctl in ioctls}}
    constants |= _enumerators(unit, source)
    records = _records(unit, source, {ioctl[2] for ioctl in ioctls if ioctl[2]})
    for ioctl in ioctls:
        if ioctl[2] and ioctl[2] not in records:
            ioctl[2] = _scalar_name(ioctl[2])
    if not ioctls and not records:
        raise GenerateError(f"{source.origin}: declares neither an ioctl (_IO, _IOR, _IOW, _IOWR) nor a record")
    return {"name": source.name, "source": source.origin, "devices": source.devices,
            "ioctls": sorted(ioctls, key=lambda item: (item[1] >> 8 & 0xFF, item[1] & 0xFF, item[1])),
            "records": records, "constants": constants}


def write(decoder: dict[str, Any], path: Path) -> None:
    """A line an ioctl, record and constant, so that a change can be read.

    :raises GenerateError: the file cannot be written.
    """
    lines = ["{"]
    for key in ("name", "source", "devices"):
        lines.append(f" {json.dumps(key)}: {json.dumps(decoder[key])},")
    lines.append(' "ioctls": [')
    lines.append(",\n".join(f"  {json.dumps(ioctl)}" for ioctl in decoder["ioctls"]))
    lines.append(' ],\n "records": {')
    lines.append(",\n".join(f"  {json.dumps(name)}: {json.dumps(record, separators=(',', ':'))}"
                            for name, record in decoder["records"].items()))
    lines.append(' },\n "constants": {')
    lines.append(",\n".join(f"  {json.dumps(name)}: {value}" for name, value in decoder["constants"].items()))
    if "hints" in decoder:
        lines.append(f' }},\n "hints": {json.dumps(decoder["hints"], indent=1)}\n}}\n')
    else:
        lines.append(" }\n}\n")
    try:
        path.write_text("\n".join(lines), encoding="ascii")
    except OSError as error:
        raise GenerateError(f"{path}: cannot be written: {error.strerror or error}") from error


def _parse(source: Source, text: str, *, detailed: bool = False) -> Any:
    cindex = _cindex()
    unit = cindex.Index.create().parse("sniff.h", ["-xc", *source.options], [("sniff.h", text)],
                                       cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD if detailed else 0)
    fatal = [each for each in unit.diagnostics if each.severity >= cindex.Diagnostic.Error]
    if fatal and detailed:
        raise GenerateError(f"{source.origin}: does not compile: {fatal[0].location.file}:{fatal[0].location.line}: "
                            f"{fatal[0].spelling}")
    return unit


def _wanted(cursor: Any, source: Source) -> bool:
    return cursor.location.file is not None and source.keep.search(cursor.location.file.name) is not None


def _macros(unit: Any, source: Source) -> tuple[dict[str, list[str]], list[str]]:
    """All macros with what they stand for, function-like ones under ``NAME()``; and those of the headers kept."""
    kind = _cindex().CursorKind.MACRO_DEFINITION
    found: dict[str, list[str]] = {}
    own: list[str] = []
    for cursor in unit.cursor.get_children():
        if cursor.kind != kind or cursor.location.file is None:
            continue
        tokens = list(cursor.get_tokens())
        if len(tokens) < 2:
            continue
        called = tokens[1].spelling == "(" and tokens[1].extent.start.offset == tokens[0].extent.end.offset
        found[cursor.spelling + ("()" if called else "")] = [token.spelling for token in tokens[1:]]
        if not called and _wanted(cursor, source):
            own.append(cursor.spelling)
    return found, own


def _evaluate(source: Source, names: Iterable[str]) -> dict[str, int]:
    """The values of those macros that are integer constants: one enum each, so that the rest does no harm."""
    text = source.text + "".join(f"enum {{ sniff_{name} = (long long)({name}) }};\n" for name in names)
    cindex = _cindex()
    unit = cindex.Index.create().parse("sniff.h", ["-xc", "-ferror-limit=0", *source.options], [("sniff.h", text)])
    bad = {each.location.line for each in unit.diagnostics
           if each.severity >= cindex.Diagnostic.Error and each.location.file
           and each.location.file.name == "sniff.h"}
    values: dict[str, int] = {}
    for cursor in unit.cursor.get_children():
        if cursor.kind == cindex.CursorKind.ENUM_DECL and cursor.location.line not in bad:
            for child in cursor.get_children():
                if child.spelling.startswith("sniff_"):
                    values[child.spelling.removeprefix("sniff_")] = child.enum_value
    return values


def _enumerators(unit: Any, source: Source) -> dict[str, int]:
    cindex = _cindex()
    found: dict[str, int] = {}

    def walk(parent: Any) -> None:
        for cursor in parent.get_children():
            if cursor.kind == cindex.CursorKind.ENUM_CONSTANT_DECL:
                found[cursor.spelling] = cursor.enum_value
            elif cursor.kind in (cindex.CursorKind.ENUM_DECL, cindex.CursorKind.STRUCT_DECL,
                                 cindex.CursorKind.UNION_DECL, cindex.CursorKind.FIELD_DECL):
                walk(cursor)
    for cursor in unit.cursor.get_children():
        if cursor.kind.is_declaration() and _wanted(cursor, source):
            if cursor.kind == cindex.CursorKind.TYPEDEF_DECL:
                walk(cursor.underlying_typedef_type.get_declaration())
            elif cursor.kind == cindex.CursorKind.ENUM_DECL:
                for child in cursor.get_children():
                    found[child.spelling] = child.enum_value
            else:
                walk(cursor)
    return {name: value for name, value in found.items() if name}


def _is_ioctl(name: str, macros: dict[str, list[str]], depth: int = 0) -> bool:
    if name.endswith("()") or depth > 8:
        return False
    return _reaches_ioc(macros[name], macros, depth)


def _reaches_ioc(tokens: Sequence[str], macros: dict[str, list[str]], depth: int) -> bool:
    for token in tokens:
        if _IOC.fullmatch(token):
            return True
        inner = macros.get(token + "()") or macros.get(token)
        if inner is not None and depth < 8 and _reaches_ioc(inner, macros, depth + 1):
            return True
    return False


def _record_of(name: str, macros: dict[str, list[str]]) -> str:
    """The type that an ioctl's macro names, as the last argument of its outermost call; "" for none."""
    tokens = macros[name]
    while len(tokens) == 1 and tokens[0] in macros:
        tokens = macros[tokens[0]]
    if "(" not in tokens:
        return ""
    argument: list[str] = []
    depth = 0
    for token in tokens[tokens.index("("):]:
        depth += (token == "(") - (token == ")")
        if token == "," and depth == 1:
            argument = []
        elif depth >= 1 and not (token == "(" and depth == 1):
            argument.append(token)
        elif depth == 0:
            break
    words = [word for word in argument if word not in ("struct", "union", "const")]
    calls = " ".join(tokens)
    if not words or not all(re.fullmatch(r"[A-Za-z_]\w*|\*", word) for word in words) or " _IO (" in f" {calls}":
        return ""
    return " ".join(words)


_SCALAR_TYPES = {"int": "s32", "unsigned int": "u32", "__u32": "u32", "__s32": "s32", "__u64": "u64", "__s64": "s64",
                 "__u16": "u16", "__u8": "u8", "long": "s64", "unsigned long": "u64", "unsigned": "u32", "char": "s8",
                 "size_t": "u64", "unsigned char": "u8", "unsigned short": "u16", "uint32_t": "u32", "uint64_t": "u64"}


def _scalar_name(name: str) -> str:
    return _SCALAR_TYPES.get(name, "")


def _records(unit: Any, source: Source, named: set[str]) -> dict[str, Any]:
    """Every record that the kept headers declare, those that ioctls name, and what all of these hold.

    ``{name: [size, [[field, offset, type, count or "width:bit"], ...]]}``; see :mod:`tools.ioctl_sniff.abi`.
    """
    cindex = _cindex()
    kinds = (cindex.CursorKind.STRUCT_DECL, cindex.CursorKind.UNION_DECL)
    reader = _RecordReader(cindex)
    for cursor in unit.cursor.get_children():
        name = cursor.spelling
        if cursor.kind in kinds and cursor.is_definition() and not cursor.is_anonymous() and "(" not in name:
            kind = cursor.type
        elif cursor.kind == cindex.CursorKind.TYPEDEF_DECL \
                and cursor.underlying_typedef_type.get_canonical().get_declaration().kind in kinds:
            kind = cursor.underlying_typedef_type.get_canonical()
        else:
            continue
        if name and (name in named or _wanted(cursor, source)):
            reader.record(kind, name)
    return dict(sorted(reader.found.items()))


class _RecordReader:
    def __init__(self, cindex: Any) -> None:
        self.kinds = cindex.TypeKind
        self.found: dict[str, Any] = {}

    def record(self, kind: Any, name: str) -> None:
        size = kind.get_size()
        if name in self.found or size < 0:
            return
        fields: list[list[Any]] = []
        self.found[name] = [size, fields]
        for index, cursor in enumerate(kind.get_fields()):
            bit = cursor.get_field_offsetof()
            if bit < 0:
                bit = kind.get_offset(cursor.spelling)
            if cursor.is_bitfield():
                fields.append([cursor.spelling, bit // 8, self.scalar(cursor.type),
                               f"{cursor.get_bitfield_width()}:{bit % 8}"])
                continue
            element, count = cursor.type.get_canonical(), None
            while element.kind in (self.kinds.CONSTANTARRAY, self.kinds.INCOMPLETEARRAY):
                length = element.element_count if element.kind == self.kinds.CONSTANTARRAY else 0
                count = length * (1 if count is None else count)
                element = element.element_type.get_canonical()
            anonymous = cursor.is_anonymous() or not cursor.spelling
            text = self.type(element, f"{name}::{cursor.spelling or index}" if not anonymous else f"{name}::{index}")
            field = ["" if anonymous else cursor.spelling, bit // 8, text]
            fields.append(field if count is None else [*field, count])

    def type(self, kind: Any, unnamed: str) -> str:
        if kind.kind == self.kinds.RECORD:
            declared = kind.get_declaration()
            name = unnamed if declared.is_anonymous() or "(" in declared.spelling or not declared.spelling \
                else declared.spelling
            self.record(kind, name)
            return name
        return self.scalar(kind)

    def scalar(self, kind: Any) -> str:
        """``u32``, ``s8``, ``f64``; a pointer is ``p64``."""
        kind = kind.get_canonical()
        bits = 8 * kind.get_size()
        if kind.kind == self.kinds.POINTER:
            return f"p{bits}"
        if kind.kind in (self.kinds.FLOAT, self.kinds.DOUBLE):
            return f"f{bits}"
        if kind.kind == self.kinds.ENUM:
            return self.scalar(kind.get_declaration().enum_type)
        signed = (self.kinds.SCHAR, self.kinds.CHAR_S, self.kinds.SHORT, self.kinds.INT, self.kinds.LONG,
                  self.kinds.LONGLONG)
        return ("s" if kind.kind in signed else "u") + str(bits)
