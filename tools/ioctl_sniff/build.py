"""The recorder, compiled at first use: a shared library for LD_PRELOAD, kept in the user's cache by its sources."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.ioctl_sniff.capture import BLOB, HEADER_BYTES, RECORD

__all__ = ["BuildError", "recorder"]

HERE = Path(__file__).parent
SOURCES = ("recorder.c", "recorder.h", "doorbells.h", "submits.h")


class BuildError(Exception):
    """There is no recorder for this machine."""


def recorder() -> Path:
    """The library's path. :raises BuildError: not on Linux, no C compiler, or it fails."""
    if not sys.platform.startswith("linux"):
        raise BuildError(f"the recorder preloads into Linux programs; this is {sys.platform}")
    text = b"".join((HERE / name).read_bytes() for name in SOURCES)
    key = hashlib.sha256(text + platform.machine().encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = Path(os.environ.get("AMDRV_CACHE") or cache / "amdrv") / "ioctl-sniff" / f"recorder-{key}.so"
    if not target.is_file():
        _compile(target)
    return target


def _compile(target: Path) -> None:
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang", "clang-19"))), None)
    if compiler is None:
        raise BuildError("no C compiler (cc, gcc, clang): install one (Debian: gcc libc6-dev), or use --ptrace")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / "recorder.so"
            done = subprocess.run([*compiler.split(), "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o", str(made),
                                   str(HERE / "recorder.c"), "-ldl", "-lpthread"], capture_output=True, text=True,
                                  check=False)
            if done.returncode:
                raise BuildError(f"{compiler} does not compile the recorder: "
                                 f"{(done.stderr.strip().splitlines() or ['no message'])[0]}")
            _check(made)
            os.replace(made, target)            # another process may have made it meanwhile: the same
    except OSError as error:
        raise BuildError(f"the recorder cannot be built in {target.parent}: {error.strerror or error}") from error


def _check(library: Path) -> None:
    """The compiler's records are those that we read: by the library itself, and by the header."""
    try:
        import cffi
    except ImportError:                         # the tool was copied somewhere by itself
        return
    ffi = cffi.FFI()
    ffi.cdef(re.sub(r"/\*.*?\*/", "", (HERE / "recorder.h").read_text(), flags=re.DOTALL)
             + "uint64_t sniff_layout(void);")
    ours = HEADER_BYTES << 32 | RECORD.size << 16 | BLOB.size
    header = ffi.sizeof("sniff_header") << 32 | ffi.sizeof("sniff_record") << 16 | ffi.sizeof("sniff_blob")
    built = ffi.dlopen(str(library)).sniff_layout()
    if not ours == header == built:
        raise BuildError(f"records are laid out as {built:#x} by the compiler and {ours:#x} by the readers")
