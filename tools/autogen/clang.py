"""C declarations as Python source: structures become ctypes classes, enums and macros become constants.

ctypeslib2 reads the structures: it makes live ctypes classes of them, which know packing, padding and bit fields. What
a generator names is then written compactly, without the padding that ctypeslib2 spells out; what was written is built
again and compared with ctypeslib2's class: its size, and every field's offset and width. Enums come from libclang
itself, since ctypeslib2 keeps one name a value.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import glob
import logging
import operator
import re
import warnings
from collections.abc import Iterable, Mapping
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
    if not cindex.Config.loaded:            # else somebody in this process has chosen already
        cindex.Config.set_compatibility_check(False)
        if found:
            cindex.Config.set_library_file(found[0])
    try:
        cindex.Index.create()
    except cindex.LibclangError as error:
        raise RuntimeError(f"libclang is needed to read C structures and was not found: {error}; "
                           "install libclang (Debian: libclang-19-dev or clang-19)") from error
    return cindex


def _classes(text: str) -> dict[str, Any]:
    """ctypeslib2's namespace for a piece of C: ``struct_NAME``, ``union_NAME``, typedefs, constants."""
    _cindex()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)     # that libclang is older than the package `clang`: it works
        import ctypeslib
        from ctypeslib.codegen import config
        configuration = config.CodegenConfig()
        configuration.clang_opts = ["-std=gnu11", "-target", "x86_64-linux-gnu"]
        logging.getLogger("cursorhandler").setLevel(logging.CRITICAL)       # it calls flexible arrays errors
        return dict(ctypeslib.translate(PREAMBLE + text, cfg=configuration))


class Declarations:
    """The structures and enums of one piece of C, and the ctypes source of those that were asked for.

    The text must be C that stands alone: no includes, no types that it does not declare (``uint32_t`` and its like
    are given).
    """

    def __init__(self, text: str) -> None:
        cindex = _cindex()
        unit = cindex.Index.create().parse("facts.h", ["-xc", "-std=gnu11", "-target", "x86_64-linux-gnu"],
                                           [("facts.h", PREAMBLE + text)])
        self._kinds = cindex.CursorKind
        self._names: dict[str, None] = {}       # of records, in the order of the source
        self._enums: dict[str, dict[str, int]] = {}
        self._collect(unit.cursor)
        self._namespace = _classes(text)
        self._written: dict[type, str] = {}
        self._lines: list[str] = []

    def _collect(self, parent: Any) -> None:
        for cursor in parent.get_children():
            if cursor.kind in (self._kinds.STRUCT_DECL, self._kinds.UNION_DECL) and cursor.is_definition():
                self._names.setdefault(cursor.spelling)
                self._collect(cursor)
            elif cursor.kind == self._kinds.ENUM_DECL and cursor.is_definition():
                self._enums.setdefault(cursor.spelling, self._enumerators(cursor))
            elif cursor.kind == self._kinds.TYPEDEF_DECL:
                declared = cursor.underlying_typedef_type.get_declaration()
                if declared.kind in (self._kinds.STRUCT_DECL, self._kinds.UNION_DECL):
                    self._names.setdefault(cursor.spelling)
                elif declared.kind == self._kinds.ENUM_DECL:
                    self._enums.setdefault(cursor.spelling, self._enumerators(declared))

    def _enumerators(self, cursor: Any) -> dict[str, int]:
        return {child.spelling: child.enum_value for child in cursor.get_children()
                if child.kind == self._kinds.ENUM_CONSTANT_DECL}

    def enum(self, name: str) -> dict[str, int]:
        return self._enums[name]

    def enums(self) -> list[dict[str, int]]:
        return list(self._enums.values())

    def record_names(self, pattern: str) -> list[str]:
        """Names of the records that match, in the order of the source."""
        return [name for name in self._names if re.fullmatch(pattern, name)]

    def size(self, name: str) -> int:
        """Bytes of a structure."""
        return ctypes.sizeof(self._namespace[f"struct_{name}"])

    def source(self, names: Iterable[str]) -> str:
        """The classes of these records and of what they hold, each before its first use."""
        self._lines = []
        for name in names:
            found = next((self._namespace[key] for key in (f"struct_{name}", f"union_{name}", name)
                          if key in self._namespace), None)
            if found is None:
                raise ValueError(f"no structure {name} in the source")
            self._record(found, name)
        return "\n".join(self._lines) + "\n"

    def _record(self, record: type[ctypes.Structure] | type[ctypes.Union], name: str) -> str:
        """Write a record unless it is written already; returns its name."""
        if record in self._written:
            return self._written[record]
        self._written[record] = name
        anonymous = {field: f"u{index}" for index, field in enumerate(getattr(record, "_anonymous_", ()))}
        fields: list[tuple[Any, ...]] = []
        for field, kind, *bits in record._fields_:
            if not field.startswith("PADDING_"):
                fields.append((field, kind, *bits))
        shown = [f'("{anonymous.get(field, field)}", {self._ctype(kind, f"{name}__{anonymous.get(field, field)}")}'
                 + "".join(f", {width}" for width in bits) + ")" for field, kind, *bits in fields]
        pack = _packing(record, fields)
        base = "Union" if issubclass(record, ctypes.Union) else "Structure"
        self._lines += ["", "", f"class {name}(ctypes.{base}):  # {ctypes.sizeof(record)} bytes"]
        if pack:
            self._lines.append(f'    _pack_, _layout_ = {pack}, "ms"')
        if anonymous:
            self._lines.append("    _anonymous_ = (" + ", ".join(f'"{member}"' for member in anonymous.values()) + ",)")
        self._lines += _wrapped("    _fields_ = [", shown, "]", " " * 8)
        return name

    def _ctype(self, kind: Any, unnamed: str) -> str:
        if issubclass(kind, ctypes.Array):
            return f"{self._ctype(kind._type_, unnamed)} * {kind._length_}"
        if issubclass(kind, (ctypes.Structure, ctypes.Union)):
            own = kind.__name__.removeprefix("struct_").removeprefix("union_")
            return self._record(kind, own if own in self._names else unnamed)
        if kind is ctypes.c_float:
            return "ctypes.c_float"
        size = 8 * ctypes.sizeof(kind)
        if kind in (ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64, ctypes.c_char):
            return f"i{size}"
        if kind in (ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_bool):
            return f"u{size}"
        raise ValueError(f"{unnamed}: {kind.__name__} is not written")


def _packing(record: type[ctypes.Structure] | type[ctypes.Union], fields: list[tuple[Any, ...]]) -> int:
    """The ``_pack_`` (0: none) with which these fields lie where ctypeslib2 says that they lie."""
    base: Any = ctypes.Union if issubclass(record, ctypes.Union) else ctypes.Structure
    for pack in (0, 1, 2, 4):
        body: dict[str, Any] = {"_fields_": [(name, _natural(kind), *bits) for name, kind, *bits in fields]}
        if pack:
            body |= {"_pack_": pack, "_layout_": "ms"}
        ours = type("ours", (base,), body)
        if ctypes.sizeof(ours) == ctypes.sizeof(record) and all(
                (getattr(ours, name).offset, getattr(ours, name).size) == (getattr(record, name).offset,
                                                                           getattr(record, name).size)
                for name, *_ in fields):
            return pack
    raise ValueError(f"{record.__name__}: no packing gives the layout that C gives it")


@functools.cache
def _natural(kind: Any) -> Any:
    """The type as it will be written: ctypeslib2 packs every record and spells out padding, which hides alignment."""
    if issubclass(kind, ctypes.Array):
        return _natural(kind._type_) * kind._length_
    if not issubclass(kind, (ctypes.Structure, ctypes.Union)):
        return kind
    fields = [field for field in kind._fields_ if not field[0].startswith("PADDING_")]
    body: dict[str, Any] = {"_fields_": [(name, _natural(inner), *bits) for name, inner, *bits in fields]}
    if pack := _packing(kind, fields):
        body |= {"_pack_": pack, "_layout_": "ms"}
    return type(kind.__name__, (ctypes.Union if issubclass(kind, ctypes.Union) else ctypes.Structure,), body)


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
