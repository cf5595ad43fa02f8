"""C declarations as Python source: structures become ctypes classes, enums and macros become constants.

Declarations are read with libclang (the ``clang`` package that ctypeslib2 stands on), which knows packing, padding and
bit fields; only what a generator names is written. Kernel headers need little to be understood: the integer types are
declared up front, and what else is unknown in them does not matter to the structures that we name.
"""

from __future__ import annotations

import ast
import functools
import glob
import operator
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Declarations", "constants_source", "evaluate", "macros", "names_source"]

WIDTH = 120
PREAMBLE = """
typedef unsigned char uint8_t, u8; typedef unsigned short uint16_t, u16; typedef unsigned int uint32_t, u32;
typedef unsigned long long uint64_t, u64; typedef signed char int8_t; typedef short int16_t; typedef int int32_t;
typedef long long int64_t; typedef _Bool bool;
"""
LIBRARIES = ("/usr/lib/llvm-*/lib/libclang*.so*", "/usr/lib/*/libclang-*.so*", "/usr/lib64/libclang*.so*",
             "/opt/homebrew/opt/llvm/lib/libclang.dylib", "/usr/local/opt/llvm/lib/libclang.dylib",
             "/Library/Developer/CommandLineTools/usr/lib/libclang.dylib")


@functools.cache
def _cindex() -> Any:
    """The libclang binding, with a library found for it. :raises RuntimeError: where there is none."""
    from clang import cindex
    found = [path for pattern in LIBRARIES for path in sorted(glob.glob(pattern), reverse=True) if "-cpp" not in path]
    cindex.Config.set_compatibility_check(False)
    if found:
        cindex.Config.set_library_file(found[0])
    try:
        cindex.Index.create()
    except cindex.LibclangError as error:
        raise RuntimeError(f"libclang is needed to read C structures and was not found: {error}; "
                           "install libclang (Debian: libclang-19-dev or clang-19)") from error
    return cindex


class Declarations:
    """The structures and enums of one piece of C, and the ctypes source of those that were asked for."""

    def __init__(self, text: str, include: Iterable[Path] = ()) -> None:
        cindex = _cindex()
        arguments = ["-xc", "-std=gnu11", "-target", "x86_64-linux-gnu", *(f"-I{path}" for path in include)]
        self._unit = cindex.Index.create().parse("facts.h", arguments, [("facts.h", PREAMBLE + text)])
        self._kinds, self._types = cindex.CursorKind, cindex.TypeKind
        self._records: dict[str, Any] = {}
        self._enums: dict[str, dict[str, int]] = {}
        self._written: dict[str, str] = {}      # USR of a record -> its class
        self._lines: list[str] = []
        self._collect(self._unit.cursor)

    def _collect(self, parent: Any) -> None:
        for cursor in parent.get_children():
            if cursor.kind in (self._kinds.STRUCT_DECL, self._kinds.UNION_DECL) and cursor.is_definition():
                self._records.setdefault(cursor.spelling, cursor)
                self._collect(cursor)
            elif cursor.kind == self._kinds.ENUM_DECL and cursor.is_definition():
                self._enums.setdefault(cursor.spelling, {c.spelling: c.enum_value for c in cursor.get_children()
                                                         if c.kind == self._kinds.ENUM_CONSTANT_DECL})
            elif cursor.kind == self._kinds.TYPEDEF_DECL:
                declared = cursor.underlying_typedef_type.get_declaration()
                if declared.kind in (self._kinds.STRUCT_DECL, self._kinds.UNION_DECL):
                    self._records.setdefault(cursor.spelling, declared)
                elif declared.kind == self._kinds.ENUM_DECL and cursor.spelling not in self._enums:
                    self._enums[cursor.spelling] = {c.spelling: c.enum_value for c in declared.get_children()
                                                    if c.kind == self._kinds.ENUM_CONSTANT_DECL}

    def enum(self, name: str) -> dict[str, int]:
        return self._enums[name]

    def enums(self) -> list[dict[str, int]]:
        return list(self._enums.values())

    def record_names(self, pattern: str) -> list[str]:
        """Names of the records that match, in the order of the source."""
        return [name for name in self._records if re.fullmatch(pattern, name)]

    def source(self, names: Iterable[str]) -> str:
        """The classes of these records and of what they hold, each before its first use."""
        self._lines = []
        for name in names:
            if name not in self._records:
                raise ValueError(f"no structure {name} in the source")
            self._record(self._records[name], name)
        return "\n".join(self._lines) + "\n"

    def _record(self, cursor: Any, name: str) -> str:
        key = cursor.get_usr() or f"{cursor.location.offset}"
        if key in self._written:
            return self._written[key]
        self._written[key] = name
        fields: list[str] = []
        anonymous: list[str] = []
        widest = 1
        for child in cursor.get_children():
            if child.kind == self._kinds.FIELD_DECL:
                kind = self._ctype(child.type, f"{name}__{child.spelling}")
                widest = max(widest, child.type.get_align())
                bits = f", {child.get_bitfield_width()}" if child.is_bitfield() else ""
                fields.append(f'("{child.spelling}", {kind}{bits})')
            elif child.kind in (self._kinds.STRUCT_DECL, self._kinds.UNION_DECL) and child.is_anonymous():
                if not self._is_member(cursor, child):
                    continue
                member = f"u{len(anonymous)}"
                anonymous.append(member)
                widest = max(widest, child.type.get_align())
                fields.append(f'("{member}", {self._record(child, f"{name}__{member}")})')
        base = "Union" if cursor.kind == self._kinds.UNION_DECL else "Structure"
        self._lines += ["", "", f"class {name}(ctypes.{base}):  # {cursor.type.get_size()} bytes"]
        if cursor.type.get_align() < widest:
            self._lines.append(f"    _pack_, _layout_ = {cursor.type.get_align()}, \"ms\"")
        if anonymous:
            self._lines.append("    _anonymous_ = (" + ", ".join(f'"{member}"' for member in anonymous) + ",)")
        self._lines += _wrapped("    _fields_ = [", fields, "]", " " * 8)
        return name

    def _is_member(self, parent: Any, record: Any) -> bool:
        """Whether an unnamed record is a C11 anonymous member, not the type of the named field after it."""
        return not any(child.kind == self._kinds.FIELD_DECL
                       and self._element(child.type).get_declaration() == record for child in parent.get_children())

    def _element(self, kind: Any) -> Any:
        kind = kind.get_canonical()
        while kind.kind in (self._types.CONSTANTARRAY, self._types.INCOMPLETEARRAY):
            kind = kind.element_type.get_canonical()
        return kind

    def _ctype(self, kind: Any, unnamed: str) -> str:
        kind = kind.get_canonical()
        if kind.kind == self._types.CONSTANTARRAY:
            return f"{self._ctype(kind.element_type, unnamed)} * {kind.element_count}"
        if kind.kind == self._types.INCOMPLETEARRAY:
            return f"{self._ctype(kind.element_type, unnamed)} * 0"
        if kind.kind == self._types.RECORD:
            cursor = kind.get_declaration()
            named = cursor.spelling and not cursor.is_anonymous() and re.fullmatch(r"\w+", cursor.spelling)
            return self._record(cursor, cursor.spelling if named else unnamed)
        if kind.kind == self._types.FLOAT:
            return "ctypes.c_float"
        signed = {self._types.CHAR_S, self._types.SCHAR, self._types.SHORT, self._types.INT, self._types.LONG,
                  self._types.LONGLONG}
        unsigned = {self._types.UCHAR, self._types.USHORT, self._types.UINT, self._types.ULONG, self._types.ULONGLONG,
                    self._types.ENUM, self._types.BOOL}
        if kind.kind in signed | unsigned:
            return f"{'i' if kind.kind in signed else 'u'}{8 * kind.get_size()}"
        raise ValueError(f"{unnamed}: no ctypes type for {kind.spelling}")


STRUCT_IMPORTS = '''import ctypes

u8, u16, u32, u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
i8, i16, i32, i64 = ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64
'''


def _wrapped(head: str, items: list[str], tail: str, pad: str) -> list[str]:
    one = head + ", ".join(items) + tail
    if len(one) <= WIDTH:
        return [one]
    lines, line = [head], pad
    for item in items:
        if len(line + item) + 1 > WIDTH:
            lines.append(line.rstrip())
            line = pad
        line += item + ", "
    return [*lines, line.rstrip(), "    " + tail]


_OPERATORS: dict[type, Any] = {ast.LShift: operator.lshift, ast.BitOr: operator.or_, ast.Add: operator.add,
                               ast.Sub: operator.sub, ast.Mult: operator.mul, ast.BitAnd: operator.and_}


def evaluate(expression: str, names: Mapping[str, int]) -> int | None:
    """The value of a C constant expression of integers, known names and simple operators; None if it is none."""
    text = re.sub(r"/\*.*?\*/|//.*", " ", expression)
    text = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", text).strip()
    text = re.sub(r"\((?:u?int\d+_t|unsigned|int)\)", " ", text)

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return names[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return int(_OPERATORS[type(node.op)](value(node.left), value(node.right)))
        raise KeyError
    try:
        return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, KeyError, ValueError):
        return None


def macros(text: str, pattern: str) -> dict[str, int]:
    """{name: value} of the object-like macros whose names match and whose values are integers."""
    known: dict[str, int] = {}
    for name, expression in re.findall(r"^\s*#\s*define[ \t]+(\w+)[ \t]+([^\n]+)$", text, re.M):
        number = evaluate(expression, known)
        if number is not None:
            known[name] = number
    return {name: number for name, number in known.items() if re.fullmatch(pattern, name)}


def constants_source(values: Mapping[str, int]) -> str:
    return "".join(f"{name} = {value:#x}\n" if value > 9 else f"{name} = {value}\n" for name, value in values.items())


def names_source(enums: Mapping[str, Mapping[str, int]]) -> str:
    """``ENUMS``: the same constants by enum, for printing and for choosing by name."""
    lines = ["ENUMS: dict[str, dict[str, int]] = {"]
    for enum, values in enums.items():
        items = [f'"{name}": {value:#x}' if value > 9 else f'"{name}": {value}' for name, value in values.items()]
        lines += _wrapped(f'    "{enum}": {{', items, "},", " " * 8)
    return "\n".join([*lines, "}"]) + "\n"
