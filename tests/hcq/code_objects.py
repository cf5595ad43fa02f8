"""Code objects made by hand (a second writer of what ``hcq.elf`` reads), and by whatever clang there is."""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

TEXT, RODATA = 0x1000, 0x2000


def kernel_metadata(name: str, args: Sequence[dict[str, Any]] = (), /, **changes: Any) -> dict[str, Any]:
    end = max((arg[".offset"] + arg[".size"] for arg in args), default=0)
    return {".name": name, ".symbol": f"{name}.kd", ".args": list(args), ".kernarg_segment_size": end,
            ".kernarg_segment_align": 8, ".group_segment_fixed_size": 0, ".private_segment_fixed_size": 0,
            ".wavefront_size": 32, ".sgpr_count": 8, ".vgpr_count": 4, ".max_flat_workgroup_size": 256} | changes


def pointer(offset: int, /, **changes: Any) -> dict[str, Any]:
    return {".offset": offset, ".size": 8, ".value_kind": "global_buffer", ".address_space": "global"} | changes


def value(offset: int, size: int, type_name: str = "", /, **changes: Any) -> dict[str, Any]:
    named = {".type_name": type_name} if type_name else {}
    return {".offset": offset, ".size": size, ".value_kind": "by_value"} | named | changes


def hidden(offset: int, size: int, kind: str) -> dict[str, Any]:
    return {".offset": offset, ".size": size, ".value_kind": f"hidden_{kind}"}


def build(*kernels: dict[str, Any], numbers: Sequence[int] = (), properties: int = 1 << 3 | 1 << 10, mach: int = 0x41,
          abi_version: int = 3, machine: int = 224, os_abi: int = 64, note: bytes | None = None) -> bytes:
    """A linked code object: headers and dynamic tables in the first page, code at 0x1000, descriptors at 0x2000.

    :param numbers: the "machine code" of each kernel, one word; by default 1, 2, ...
    """
    numbers = numbers or range(1, len(kernels) + 1)
    text, rodata = b"", b""
    for number, kernel in zip(numbers, kernels, strict=True):
        descriptor = RODATA + len(rodata)
        entry = TEXT + len(text)
        rodata += struct.pack("<IIIIq20xIIIHHI", kernel[".group_segment_fixed_size"],
                              kernel[".private_segment_fixed_size"], kernel[".kernarg_segment_size"], 0,
                              entry - descriptor, 0, 0x60af0080, 0x9e, properties, 0, 0)
        text += struct.pack("<I", number).ljust(256, b"\0")
    metadata = note if note is not None else msgpack.packb(
        {"amdhsa.version": [1, 2], "amdhsa.target": "amdgcn-amd-amdhsa--gfx1100", "amdhsa.kernels": list(kernels)})
    notes = struct.pack("<III", 7, len(metadata), 32) + b"AMDGPU\0\0" + metadata + b"\0" * (-len(metadata) % 4)

    strings = b"\0"
    symbols = bytes(24)
    for index, kernel in enumerate(kernels):
        symbols += struct.pack("<IBBHQQ", len(strings), 0x11, 3, 1, RODATA + 64 * index, 64)
        strings += kernel[".symbol"].encode() + b"\0"
    count = len(symbols) // 24
    hashes = struct.pack("<II", 1, count) + bytes(4 + 4 * count)

    headers = 64 + 56 * 5
    place: dict[str, int] = {}
    page = bytearray(headers)
    for name, data in (("symbols", symbols), ("strings", strings), ("hash", hashes)):
        place[name] = len(page)
        page += data + bytes(-len(data) % 8)
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in (
        (6, place["symbols"]), (5, place["strings"]), (10, len(strings)), (4, place["hash"]), (0, 0)))
    place["dynamic"] = len(page)
    page += dynamic
    assert len(page) <= TEXT
    page += bytes(TEXT - len(page))
    blob = bytes(page) + text + bytes(RODATA - TEXT - len(text)) + rodata + notes

    def header(kind: int, offset: int, size: int, flags: int = 4) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, size, size, 0x1000)

    ident = b"\x7fELF\x02\x01\x01" + bytes([os_abi, abi_version]) + bytes(7)
    elf = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, mach, 64, 56, 5, 64, 0, 0)
    elf += (header(1, 0, TEXT) + header(1, TEXT, len(text), 5) + header(1, RODATA, len(rodata))
            + header(2, place["dynamic"], len(dynamic)) + header(4, RODATA + len(rodata), len(notes)))
    return elf + blob[headers:]


@functools.cache
def clang() -> str | None:
    """A clang that knows AMDGPU; Apple's does not."""
    for name in ("clang-19", "clang", *(f"clang-{version}" for version in range(22, 16, -1))):
        path = shutil.which(name)
        if path and "amdgcn" in subprocess.run([path, "-print-targets"], capture_output=True, text=True).stdout:
            return path
    return None


@functools.cache
def compile_opencl(source: str, *options: str, linked: bool = True, arch: str = "gfx1100") -> bytes:
    """A code object from OpenCL C by Debian's clang; skips the test where there is none."""
    compiler = clang()
    if compiler is None:
        pytest.skip("no clang with the amdgcn target on this machine")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "k.cl").write_text(source)
        command = [compiler, "-x", "cl", "-cl-std=CL2.0", "-Xclang", "-finclude-default-header", "-target",
                   "amdgcn-amd-amdhsa", f"-mcpu={arch}", "-O2", "-nogpulib", *options, *([] if linked else ["-c"]),
                   str(path / "k.cl"), "-o", str(path / "k.co")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and ("lld" in done.stderr or "unknown target" in done.stderr):
            pytest.skip(f"this clang cannot build for AMDGPU: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stderr
        return (path / "k.co").read_bytes()
