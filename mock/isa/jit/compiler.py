"""LLVM IR -> machine code of this host, kept in memory and on disk.

An object file on disk is found by a digest of everything it depends on: the code bytes, the resume points, the wave
size and registers, this package's sources, LLVM's version, and the host's CPU and its features.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from mock.isa.jit import library
from mock.isa.jit.context import FIELDS, support_ir, symbol
from mock.isa.jit.translate import Translation

__all__ = ["Compiled", "cache_directory", "chunk_lanes", "compile_module", "digest", "hold_at_fork",
           "load_cached"]


def cache_directory() -> Path:
    """``AMDRV_CACHE``, or the user's cache folder (XDG_CACHE_HOME; ~/Library/Caches on macOS)."""
    if named := os.environ.get("AMDRV_CACHE"):
        return Path(named) / "isa"
    base = os.environ.get("XDG_CACHE_HOME")
    mac = Path.home() / "Library" / "Caches"
    return (Path(base) if base else mac if mac.is_dir() else Path.home() / ".cache") / "amdrv" / "isa"


_CHECK = 16             # bytes of the checksum at a file's end
_LIBRARY = ("memcpy", "memset", "memmove", "fma", "fmaf")
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
    atexit.register(_leave)
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
    """Machine code in this process. ``points``: resume point numbers; ``interpreted``: what it leaves to Python."""

    def __init__(self, engine: Any, lanes: int, points: dict[tuple[int, int], int], interpreted: list[str]) -> None:
        self._engine = engine       # owns the code
        self.points, self.interpreted = points, interpreted
        self.modes = {number: mode for (_, mode), number in points.items()}
        self._wave = engine.get_function_address("wave")
        self._run = _support(lanes)

    def run(self, context: int) -> int:
        """The scheduler, on the context at this address."""
        ctypes.c_uint64.from_address(context + FIELDS["function"]).value = self._wave
        return self._run(context)


class _Store:
    """LLVM's object cache, backed by one file."""

    def __init__(self, stored: bytes | None) -> None:
        self.stored, self.made = stored, b""

    def notify(self, _module: Any, content: bytes) -> None:
        self.made = content

    def get(self, _module: Any) -> bytes | None:
        return self.stored


def _engine(module: Any, store: _Store, level: int) -> Any:
    import llvmlite.binding as llvm
    engine = llvm.create_mcjit_compiler(module, _machine(level))
    engine.set_object_cache(store.notify, store.get)
    engine.finalize_object()
    return engine


def _machine(level: int) -> Any:
    """MCJIT takes its target machine over, so each engine has one of its own."""
    import llvmlite.binding as llvm
    _, cpu, features = _target()
    return llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=level, jit=True)


def _optimise(module: Any) -> None:
    import llvmlite.binding as llvm
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(_target()[0], options)
    builder.getModulePassManager().run(module, builder)


def _object(text: str, optimise: bool, level: int) -> tuple[Any, bytes]:
    """(engine, object file) of LLVM assembly."""
    import llvmlite.binding as llvm
    _target()
    module = llvm.parse_assembly(text)
    module.verify()
    if optimise:
        _optimise(module)
    store = _Store(None)
    return _engine(module, store, level), store.made


def _loaded(content: bytes, name: str) -> Any:
    """An engine that has an object file in memory; ``name``: one of its functions."""
    import llvmlite.binding as llvm
    _target()
    # The object cache answers for any module; this one only has the right names.
    return _engine(llvm.parse_assembly(f"declare void @{name}()\n"), _Store(content), 0)


_building = threading.RLock()
"""Held while this module has LLVM at work; see :func:`hold_at_fork`."""
@cache
def hold_at_fork() -> None:
    """A child process must not begin while LLVM's own lock is held by a thread that it has not."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_building.acquire, after_in_parent=_building.release,
                            after_in_child=_building.release)


_PATIENCE = 5.0         # seconds that the process's end waits for a compilation under way


def _leave() -> None:
    """At the process's end: LLVM must not be at work when the C library takes its library down, which aborts.

    Who takes longer than the patience is left at work: the process ends behind Python's own end, with its status, and
    nothing is taken down. Where the C library cannot do that (no on_exit: not glibc), it is waited for.
    """
    library = ctypes.CDLL(None)
    able = all(hasattr(library, name) for name in ("on_exit", "_exit", "__cxa_atexit", "fcloseall"))
    if _building.acquire(timeout=_PATIENCE if able else -1):
        _building.release()
        return
    library.on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)     # called second, with the status
    getattr(library, "__cxa_atexit")(ctypes.cast(library.fcloseall, ctypes.c_void_p), None, None)      # first


_engines: list[Any] = []    # of the support code and the library: for as long as the process


@cache
def _support(lanes: int) -> Callable[[int], int]:
    """The support code's ``run``; its functions are known to LLVM by name from now on."""
    import llvmlite.binding as llvm
    text, run = support_ir(lanes), symbol("run", lanes)
    with _building:
        name = digest(("support", lanes, text))
        found = _read(name)
        engine = _loaded(found[1], run) if found else None
        if engine is None:
            engine, content = _object(text, True, 2)
            _write(name, {}, content)
        for defined in re.findall(r"^define [^@]*@(\w+)", text, re.MULTILINE):
            llvm.add_symbol(defined, engine.get_function_address(defined))
        _engines.append(engine)
    return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint64)(engine.get_function_address(run))


_present: set[str] = set()      # functions of the library that LLVM knows by name


def _have(shared: Iterable[str]) -> bool:
    """Make functions of the library known. False if one is neither here nor on disk."""
    import llvmlite.binding as llvm
    for name in shared:
        if name in _present:
            continue
        key = digest(("library", name))
        found, text = _read(key), library.named(name)
        if found is not None:
            engine = _loaded(found[1], name)
        elif text is not None:
            engine, content = _object(text, True, 1)
            _write(key, {}, content)
        else:
            return False
        llvm.add_symbol(name, engine.get_function_address(name))
        _engines.append(engine)
        _present.add(name)
    return True


def compile_module(made: Translation, name: str, lanes: int, *, optimise: bool) -> Compiled:
    """Compile a kernel's module, and keep the object file."""
    with _building:
        _support(lanes)
        _have(made.shared)
        engine, content = _object(str(made.module), optimise, int(optimise))
        _write(name, {"points": [[*point, number] for point, number in made.points.items()],
                      "interpreted": made.interpreted, "shared": made.shared}, content)
        return Compiled(engine, lanes, made.points, made.interpreted)


def _write(name: str, table: dict[str, Any], content: bytes) -> None:
    """Keep an object file and its table, whole or not at all. A cache that cannot be written is no error."""
    head = json.dumps(table).encode()
    body = len(head).to_bytes(4, "little") + head + content
    body += hashlib.blake2b(body, digest_size=_CHECK).digest()
    directory = cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=directory)
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        os.replace(temporary, directory / name)
    except OSError:
        return


def _read(name: str) -> tuple[dict[str, Any], bytes] | None:
    """(table, object file) from disk; None where there is none, or a damaged one (which is removed)."""
    path = cache_directory() / name
    try:
        body = path.read_bytes()
    except OSError:
        return None
    if len(body) < 4 + _CHECK or hashlib.blake2b(body[:-_CHECK], digest_size=_CHECK).digest() != body[-_CHECK:]:
        path.unlink(missing_ok=True)
        return None
    size = int.from_bytes(body[:4], "little")
    return json.loads(body[4:4 + size]), body[4 + size:-_CHECK]


def load_cached(name: str, lanes: int, *, wait: bool) -> Compiled | None:
    """The kernel from disk, if it is there with what it calls; without ``wait``, None also while LLVM is at work."""
    found = _read(name)
    if found is None or not _building.acquire(blocking=wait):
        return None
    table, content = found
    try:
        _support(lanes)
        if not _have(table["shared"]):
            return None
        return Compiled(_loaded(content, "wave"), lanes, {(pc, mode): n for pc, mode, n in table["points"]},
                        table["interpreted"])
    finally:
        _building.release()
