"""LLVM IR -> machine code of this host, kept in memory and on disk.

An object file on disk is found by a digest of everything it depends on: the code bytes, the resume points, the wave
size and registers, this package's sources, LLVM's version, and the host's CPU and its features.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from mock.isa.jit.context import support_ir

__all__ = ["Compiled", "cache_directory", "chunk_lanes", "compile_module", "digest", "load_cached"]


def cache_directory() -> Path:
    """``AMDRV_CACHE``, or the user's cache folder (XDG_CACHE_HOME; ~/Library/Caches on macOS)."""
    if named := os.environ.get("AMDRV_CACHE"):
        return Path(named) / "isa"
    base = os.environ.get("XDG_CACHE_HOME")
    mac = Path.home() / "Library" / "Caches"
    return (Path(base) if base else mac if mac.is_dir() else Path.home() / ".cache") / "amdrv" / "isa"


_LIBRARY = ("memcpy", "memset", "memmove", "exp2", "log2", "fma", "fmaf", "sin", "cos")
"""What compiled code may call of the C library."""


def _give_symbols() -> None:
    """LLVM's own look-up does not see symbols of libraries that Python loaded privately."""
    import llvmlite.binding as llvm
    library = ctypes.CDLL(None)
    for name in _LIBRARY:
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


@cache
def _target() -> tuple[Any, str, str]:
    """(target machine, CPU, features) of this host."""
    import llvmlite.binding as llvm
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    _give_symbols()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=2, jit=True)
    return machine, cpu, features


@cache
def chunk_lanes() -> int:
    """32-bit elements of the host's vector registers."""
    features = _target()[2].split(",")
    return 16 if "+avx512f" in features else 8 if "+avx2" in features else 4


@cache
def _version() -> str:
    """A digest of the sources that decide what code comes out."""
    total = hashlib.blake2b(digest_size=16)
    package = Path(__file__).parent
    for path in sorted(path for folder in (package, package.parent, package.parent / "semantics")
                       for path in folder.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def digest(parts: Iterable[object]) -> str:
    """The name of a kernel's object file."""
    import llvmlite.binding as llvm
    _, cpu, features = _target()
    total = hashlib.blake2b(digest_size=20)
    for part in (_version(), llvm.llvm_version_info, cpu, features, *parts):
        total.update(repr(part).encode())
        total.update(b"\0")
    return total.hexdigest()


class Compiled:
    """Machine code in this process: ``run(context)`` is the scheduler's entry. ``points``: resume point numbers."""

    def __init__(self, engine: Any, points: dict[tuple[int, int], int], interpreted: list[str]) -> None:
        self._engine = engine
        self.points, self.interpreted = points, interpreted
        self.run: Callable[[int], int] = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint64)(
            engine.get_function_address("run"))


class _Store:
    """LLVM's object cache, backed by one file."""

    def __init__(self, stored: bytes | None) -> None:
        self.stored, self.made = stored, b""

    def notify(self, _module: Any, content: bytes) -> None:
        self.made = content

    def get(self, _module: Any) -> bytes | None:
        return self.stored


def _engine(module: Any, store: _Store) -> Any:
    import llvmlite.binding as llvm
    engine = llvm.create_mcjit_compiler(module, _fresh_machine())
    engine.set_object_cache(store.notify, store.get)
    engine.finalize_object()
    return engine


def _fresh_machine() -> Any:
    """MCJIT takes its target machine over, so each engine has one of its own."""
    import llvmlite.binding as llvm
    _, cpu, features = _target()
    return llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=1, jit=True)


@cache
def _support(lanes: int) -> bytes:
    import llvmlite.binding as llvm
    _target()
    module = llvm.parse_assembly(support_ir(lanes))
    return bytes(module.as_bitcode())


def compile_module(text: str, name: str, points: dict[tuple[int, int], int], interpreted: list[str],
                   lanes: int) -> Compiled:
    """Optimise and compile a kernel's module together with the support code, and keep the object file."""
    import llvmlite.binding as llvm
    machine = _target()[0]
    module = llvm.parse_assembly(text)
    module.link_in(llvm.parse_bitcode(_support(lanes)))
    for function in module.functions:
        if not function.is_declaration and function.name != "run":
            function.linkage = "internal"
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.run(module, builder)
    store = _Store(None)
    engine = _engine(module, store)
    _keep(name, store.made, points, interpreted)
    return Compiled(engine, points, interpreted)


def _keep(name: str, content: bytes, points: dict[tuple[int, int], int], interpreted: list[str]) -> None:
    """Write the object file and its table, whole or not at all. A cache that cannot be written is no error."""
    head = json.dumps({"points": [[*point, number] for point, number in points.items()],
                       "interpreted": interpreted}).encode()
    body = len(head).to_bytes(4, "little") + head + content
    body += hashlib.blake2b(body, digest_size=16).digest()
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=directory)
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        os.replace(temporary, directory / name)
    except OSError:
        return


def load_cached(name: str, lanes: int) -> Compiled | None:
    """The kernel from disk; None where there is none, or a damaged one (which is removed)."""
    path = cache_directory() / name
    try:
        body = path.read_bytes()
    except OSError:
        return None
    if len(body) < 20 or hashlib.blake2b(body[:-16], digest_size=16).digest() != body[-16:]:
        path.unlink(missing_ok=True)
        return None
    size = int.from_bytes(body[:4], "little")
    head = json.loads(body[4:4 + size])
    import llvmlite.binding as llvm
    _target()
    # The object cache answers for any module; this one only has the right names.
    module = llvm.parse_assembly("declare i32 @run(ptr)\n")
    engine = _engine(module, _Store(body[4 + size:-16]))
    return Compiled(engine, {(pc, mode): number for pc, mode, number in head["points"]}, head["interpreted"])
