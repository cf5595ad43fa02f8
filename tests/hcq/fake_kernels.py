"""Kernels of the fake device: Python functions, and a code object by hand whose machine code is their numbers."""

from __future__ import annotations

import numpy as np
from code_objects import build, hidden, kernel_metadata, pointer, value
from fake_backend import FakeBackend, unpack


def add(backend: FakeBackend, kernarg: bytes, grid: list[int], block: list[int], lds: int) -> None:
    """out[i] = a[i] + k, one int32 a work-item."""
    out, a, k = unpack("QQi", kernarg)
    n = grid[0] * block[0]
    backend.at(out, 4 * n).view(np.int32)[:] = backend.at(a, 4 * n).view(np.int32) + k


def shape(backend: FakeBackend, kernarg: bytes, grid: list[int], block: list[int], lds: int) -> None:
    """Copies its own kernarg segment to where its first argument points."""
    out, = unpack("Q", kernarg)
    backend.at(out, len(kernarg))[:] = np.frombuffer(kernarg, np.uint8)


def fails(backend: FakeBackend, kernarg: bytes, grid: list[int], block: list[int], lds: int) -> None:
    raise ValueError("page not mapped at 0xdead000")


HIDDEN = [hidden(32, 4, "block_count_x"), hidden(36, 4, "block_count_y"), hidden(40, 4, "block_count_z"),
          hidden(44, 2, "group_size_x"), hidden(46, 2, "group_size_y"), hidden(48, 2, "group_size_z"),
          hidden(50, 2, "remainder_x"), hidden(52, 2, "remainder_y"), hidden(54, 2, "remainder_z"),
          hidden(72, 8, "global_offset_x"), hidden(80, 8, "global_offset_y"), hidden(88, 8, "global_offset_z"),
          hidden(96, 2, "grid_dims"), hidden(104, 8, "hostcall_buffer"), hidden(152, 4, "dynamic_lds_size"),
          hidden(224, 4, "private_base"), hidden(228, 4, "shared_base"), hidden(232, 8, "queue_ptr")]

LOCAL = "dynamic_shared_pointer"

CODE = build(
    kernel_metadata("add", [pointer(0), pointer(8), value(16, 4, "int")]),
    kernel_metadata("shape", [pointer(0), value(8, 4, "float"), value(16, 8), *HIDDEN],
                    **{".kernarg_segment_size": 288, ".group_segment_fixed_size": 100}),
    kernel_metadata("locals", [pointer(0), value(8, 4, **{".value_kind": LOCAL, ".pointee_align": 16}),
                               value(12, 4, **{".value_kind": LOCAL, ".pointee_align": 4})],
                    **{".kernarg_segment_size": 256, ".group_segment_fixed_size": 100}),
    kernel_metadata("strict", [], **{".reqd_workgroup_size": [64, 2, 1], ".max_flat_workgroup_size": 128}),
    kernel_metadata("fails"),
    kernel_metadata("scratchy", **{".private_segment_fixed_size": 512}),
    numbers=(1, 2, 2, 3, 4, 3))

FUNCTIONS = {1: add, 2: shape, 3: lambda *_: None, 4: fails}
