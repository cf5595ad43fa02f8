"""Code objects: against clang's, llvmlite's and hand-made ones, LLVM's own reader, and thousands of damaged ones."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import msgpack
import numpy as np
import pytest
from code_objects import build, clang, compile_opencl, hidden, kernel_metadata, pointer, value

from hcq.elf import CodeObject, mach_name
from hcq.errors import CodeObjectError

SOURCE = """
__constant int table[4] = {10, 20, 30, 40};
__kernel void vadd(__global float* a, __global const float* b, float s, int n) {
    int i = __builtin_amdgcn_workgroup_id_x() * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x();
    if (i < n) a[i] = b[i] * s;
}
__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void local_sum(__global int* a, __local int* dynamic) {
    __local int fixed[64];
    int i = __builtin_amdgcn_workitem_id_x();
    fixed[i] = a[i]; dynamic[i] = i;
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup"); __builtin_amdgcn_s_barrier();
    a[i] = fixed[63 - i] + dynamic[63 - i];
}
__kernel void scratch(__global int* a, int k) {
    volatile int x[64];
    for (int i = 0; i < 64; i++) x[i] = i * k;
    a[0] = x[a[0] & 63] + table[a[1] & 3];
}
__kernel void packet(__global uint* a) { a[0] = ((__constant uint*)__builtin_amdgcn_dispatch_ptr())[3]; }
"""


def test_a_code_object_of_clang() -> None:
    code = CodeObject(compile_opencl(SOURCE))
    assert code.arch == "gfx1100" and code.version in (4, 5)
    assert set(code.kernels) == {"vadd", "local_sum", "scratch", "packet"}
    vadd = code.kernel("vadd")
    assert vadd.signature == "vadd(float*, float*, float, int)"
    assert [(a.kind, a.offset, a.size) for a in vadd.arguments] == [
        ("global_buffer", 0, 8), ("global_buffer", 8, 8), ("by_value", 16, 4), ("by_value", 20, 4)]
    assert vadd.wave_size == 32 and vadd.vgprs > 0 and vadd.vgpr_spills == 0 and vadd.kernarg_bytes > 24
    assert {"hidden_block_count_x", "hidden_group_size_x"} <= {a.kind for a in vadd.hidden}
    assert "ENABLE_SGPR_KERNARG_SEGMENT_PTR" in vadd.descriptor.enabled
    local = code.kernel("local_sum")
    assert local.group_bytes == 256 and local.required_workgroup == (64, 1, 1)
    assert local.arguments[1].kind == "dynamic_shared_pointer" and local.arguments[1].pointee_align == 4
    assert code.kernel("scratch").private_bytes >= 256
    assert "ENABLE_SGPR_DISPATCH_PTR" in code.kernel("packet").descriptor.enabled
    for kernel in code.kernels.values():
        assert kernel.descriptor.kernarg_bytes == kernel.kernarg_bytes and kernel.entry % 256 == 0
    assert code.runs_on("gfx1100") and not code.runs_on("gfx1101")


@pytest.mark.parametrize("version", [4, 5, 6])
def test_versions(version: int) -> None:
    code = CodeObject(compile_opencl(SOURCE, f"-mcode-object-version={version}"))
    assert code.version == version and "vadd" in code.kernels


@pytest.mark.parametrize("version", [2, 3])
def test_versions_too_old(version: int) -> None:
    data = bytearray(build(kernel_metadata("k")))
    data[8] = version - 2                       # EI_ABIVERSION of v2 and v3 is 0 and 1
    with pytest.raises(CodeObjectError, match=f"ABI version {version - 2}; versions 4, 5 and 6 .* can be loaded"):
        CodeObject(bytes(data))


def test_the_code_is_what_llvm_reads_there(tmp_path: Path) -> None:
    """llvm-objcopy's .text, at the address that llvm-nm says, equals the image there, relocated or linked."""
    objcopy, nm = (next((p for n in (f"{tool}-19", tool) if (p := shutil.which(n))), None)
                   for tool in ("llvm-objcopy", "llvm-nm"))
    if objcopy is None or nm is None:
        pytest.skip("no llvm-objcopy and llvm-nm on this machine")
    data = compile_opencl(SOURCE)
    (tmp_path / "k.co").write_bytes(data)
    subprocess.run([objcopy, "--dump-section", f".text={tmp_path / 'text'}", tmp_path / "k.co"], check=True)
    listed = [line.split() for line in subprocess.check_output([nm, tmp_path / "k.co"], text=True).splitlines()]
    symbols = {line[2]: line[0] for line in listed if len(line) == 3}
    text = np.frombuffer((tmp_path / "text").read_bytes(), np.uint8)
    code = CodeObject(data)
    first = min(kernel.entry for kernel in code.kernels.values())
    for name, kernel in code.kernels.items():
        assert kernel.entry == int(symbols[name], 16)
        assert kernel.descriptor_offset == int(symbols[f"{name}.kd"], 16)
    assert np.array_equal(code.place(0x10000)[first:first + len(text)], text)


def test_relocatable_and_linked_agree() -> None:
    """The same source through ld.lld, and as the compiler's object relocated here: the same kernels, the same code."""
    linked, loose = CodeObject(compile_opencl(SOURCE)), CodeObject(compile_opencl(SOURCE, linked=False))
    assert set(linked.kernels) == set(loose.kernels)
    base = 0x7_0000_0000
    images = linked.place(base), loose.place(base)
    assert linked.image_bytes == len(images[0]) and loose.image_bytes == len(images[1])
    for name, kernel in linked.kernels.items():
        other = loose.kernel(name)
        assert other.arguments == kernel.arguments and other.hidden == kernel.hidden
        for field in ("rsrc1", "rsrc2", "rsrc3", "properties", "private_bytes", "group_bytes", "kernarg_bytes"):
            assert getattr(other.descriptor, field) == getattr(kernel.descriptor, field)
        if name != "scratch":                   # its code holds the table's address, placed elsewhere
            assert np.array_equal(images[0][kernel.entry:kernel.entry + 64], images[1][other.entry:other.entry + 64])
        # The relocated descriptor leads to the code: by the image's own bytes, at the final address.
        offset = images[1][other.descriptor_offset + 16:other.descriptor_offset + 24].view(np.int64)[0]
        assert other.descriptor_offset + offset == other.entry


def test_the_relocated_table_is_where_the_code_looks() -> None:
    """s_getpc + REL32_LO/HI of `table`: follow the literals, as the hardware would."""
    code = CodeObject(compile_opencl(SOURCE, linked=False))
    image = code.place(0x3_0000_0000)
    kernel = code.kernel("scratch")
    place = code.symbols["table"]
    table = np.array([10, 20, 30, 40], np.int32).view(np.uint8)
    assert np.array_equal(image[place:place + 16], table)
    words = image[kernel.entry:kernel.entry + 4096].view(np.uint32)
    getpc = np.flatnonzero((words & 0xff80ffff) == 0xbe804700)      # S_GETPC_B64 of gfx11, any destination
    assert len(getpc)
    looked_at = {kernel.entry + 4 * (int(at) + 1) + int(words[low + 1:low + 2].view(np.int32)[0])
                 for at in getpc for low in range(int(at) + 1, int(at) + 6)}     # s_add_u32 s, s, literal is near
    assert place in looked_at


LLVM_IR = """
target triple = "amdgcn-amd-amdhsa"
@data = addrspace(1) constant [2 x i32] [i32 5, i32 6]
@pointer = addrspace(1) global ptr addrspace(1) @data
define amdgpu_kernel void @store(ptr addrspace(1) %out, i32 %v) {
  %p = load ptr addrspace(1), ptr addrspace(1) @pointer
  %x = load i32, ptr addrspace(1) %p
  %y = add i32 %x, %v
  store i32 %y, ptr addrspace(1) %out
  ret void
}
"""


def test_an_object_of_llvmlite() -> None:
    llvm = pytest.importorskip("llvmlite.binding")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    module = llvm.parse_assembly(LLVM_IR)
    code = CodeObject(machine.emit_object(module))
    kernel = code.kernel()
    assert kernel.name == "store" and [a.size for a in kernel.arguments] == [8, 4] and code.version >= 5
    base = 0x5_0000_0000
    image = code.place(base)
    pointer_at = code.symbols["pointer"]        # R_AMDGPU_ABS64
    assert image[pointer_at:pointer_at + 8].view(np.uint64)[0] == base + code.symbols["data"]


def test_every_processor_of_llvm(tmp_path: Path) -> None:
    """Our table of e_flags against what llvm-mc writes for each processor that it knows."""
    assembler = next((p for n in ("llvm-mc-19", "llvm-mc") if (p := shutil.which(n))), None)
    if assembler is None:
        pytest.skip("no llvm-mc on this machine")
    helped = subprocess.run([assembler, "-triple=amdgcn-amd-amdhsa", "-mcpu=help"], input="", capture_output=True,
                            text=True, check=False)
    names = sorted(set(re.findall(r"^\s*(gfx[0-9a-z-]+)\s+- Select", helped.stdout + helped.stderr, re.M)))
    names = [name for name in names if not re.fullmatch(r"gfx\d\d?", name)]      # features, not processors
    assert "gfx1100" in names
    for name in names:
        done = subprocess.run([assembler, "-triple=amdgcn-amd-amdhsa", f"-mcpu={name}", "-filetype=obj"],
                              input=b"", capture_output=True, check=True)
        assert mach_name(struct.unpack_from("<I", done.stdout, 48)[0]) == name


# --- made by hand


def test_a_hand_made_one() -> None:
    code = CodeObject(build(kernel_metadata("one", [pointer(0), value(8, 4, "int", **{".name": "n"})]),
                            kernel_metadata("two", [], **{".kernarg_segment_size": 8})))
    assert repr(code) == f"CodeObject(gfx1100, v5, {code.image_bytes} bytes, kernels: one, two)"
    assert code.kernel("one").signature == "one(buffer, n (int))"
    assert code.place(0)[code.kernel("two").entry] == 2
    with pytest.raises(CodeObjectError, match="multiple of 4096, not at 0x10"):
        code.place(0x10)
    with pytest.raises(CodeObjectError, match="2 kernels; name one of: one, two"):
        code.kernel()


def _changed(offset: int, new: bytes) -> bytes:
    data = bytearray(build(kernel_metadata("k")))
    data[offset:offset + len(new)] = new
    return bytes(data)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "not an ELF file: it begins with nothing"),
    (b"#!/bin/sh", "not an ELF file: it begins with 23 21 2f 62"),
    (b"\x7fELF", "truncated code object: the ELF header is at bytes 0x0 to 0x10, the file has 0x4"),
    (_changed(4, b"\x01"), "not a 64-bit little-endian ELF"),
    (_changed(18, b"\x3e\x00"), "an ELF for machine 62, not EM_AMDGPU"),
    (_changed(7, b"\x00"), "for OS ABI 0, not HSA"),
    (_changed(16, b"\x02\x00"), "an ELF of type 2"),
    (_changed(54, b"\x20\x00"), "program headers of 32 bytes"),
    (_changed(56, b"\x00\x00"), "without a PT_LOAD"),
    (_changed(56, b"\xff\x00"), "segment|truncated"),
    (build(kernel_metadata("k"))[:0x1800], "truncated code object: the segment at 0x2000"),
    (build(kernel_metadata("k"), note=b"\xc1\xc1"), "metadata is not msgpack"),
    (build(kernel_metadata("k"), note=msgpack.packb([1])), "metadata is a list, expected a map"),
    (build(kernel_metadata("k", **{".symbol": "other.kd"}), note=msgpack.packb(
        {"amdhsa.kernels": [kernel_metadata("k")]})), "its descriptor 'k.kd' is not among the symbols"),
    (build(kernel_metadata("k", **{".wavefront_size": 64})), "wavefront_size is 64, its descriptor says 32"),
    (build(kernel_metadata("k", [value(0, 4, **{".value_kind": "image"})])), "'image'; kernels may take"),
    (build(kernel_metadata("k", [value(0, 4, **{".value_kind": "novel"})])), "unknown kind 'novel'"),
    (build(kernel_metadata("k", [pointer(0), pointer(4)])), "arguments overlap at byte 4"),
    (build(kernel_metadata("k", [pointer(0, **{".size": 4})])), "global_buffer argument of 4 bytes, expected 8"),
    (build(kernel_metadata("k", [hidden(0, 4, "none"), value(4, 4)])), "hidden argument lies before"),
    (build(kernel_metadata("k", [value(0, 8)], **{".kernarg_segment_size": 4})), "beyond its kernarg segment of 4"),
    (build(kernel_metadata("k", [value(-1, 4)], **{".kernarg_segment_size": 4})), r".offset is -1, expected 0 to"),
    (build(kernel_metadata("k", **{".sgpr_count": "many"})), ".sgpr_count is 'many', expected int"),
    (build(kernel_metadata("k", **{".reqd_workgroup_size": [64]})), "expected three sizes"),
])
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(CodeObjectError, match=message):
        CodeObject(data)


def test_not_bytes() -> None:
    with pytest.raises(CodeObjectError, match="a code object is bytes, not str; read the file first"):
        CodeObject("kernel.co")  # type: ignore[arg-type]


def test_an_undefined_symbol_is_named() -> None:
    source = "int missing(int); __kernel void k(__global int* a) { a[0] = missing(a[1]); }"
    with pytest.raises(CodeObjectError, match="undefined symbol 'missing'"):
        CodeObject(compile_opencl(source, linked=False))


def _damaged(data: bytes, random_source: random.Random) -> bytes:
    damaged = bytearray(data)
    kind = random_source.randrange(4)
    if kind == 0:
        return bytes(damaged[:random_source.randrange(len(damaged))])
    for _ in range(random_source.choice((1, 1, 2, 8, 64))):
        # Most of an object is code, which may be anything: aim at the structures around it.
        limit = random_source.choice((64, 0x400, len(damaged)))
        at = random_source.randrange(min(limit, len(damaged)))
        if random_source.random() < .3:
            at = len(damaged) - 1 - random_source.randrange(min(0x800, len(damaged)))
        damaged[at] = random_source.choice((0, 0xff, 0x7f, 0x80, damaged[at] ^ 1 << random_source.randrange(8)))
    return bytes(damaged)


@pytest.mark.parametrize("which", ["hand-made", "linked", "loose"])
def test_damage_is_always_one_clear_error(which: str) -> None:
    """Whatever is flipped or cut: an object that can be placed, or CodeObjectError; nothing else, and no long wait."""
    if which != "hand-made" and clang() is None:
        pytest.skip("no clang on this machine")
    data = build(kernel_metadata("k", [pointer(0), value(8, 4)])) if which == "hand-made" else \
        compile_opencl(SOURCE, linked=which == "linked")
    source = random.Random(6)
    refused = 0
    for _ in range(1500):
        damaged = _damaged(data, source)
        try:
            CodeObject(damaged).place(0x1000)
        except CodeObjectError as error:
            refused += 1
            assert str(error)
    assert refused > 200
