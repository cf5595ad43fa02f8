"""Where a computed tensor lies: in one memory, or (``shard``) in one a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from compiler import graph, sharding
from compiler.buffer import Buffer
from compiler.tensor import Tensor
from compiler.uop import UOp
from compiler.variable import bound, unbound

__all__ = ["Layout", "layout_of"]


class Layout(NamedTuple):
    """The memories of a tensor and the shape of what lies in each; of one that is spread, the devices and the axis."""

    buffers: tuple[Buffer, ...]
    shapes: tuple[tuple[int, ...], ...]
    devices: tuple[str, ...] = ()
    axis: int | None = None

    def node(self, buffers: Sequence[Buffer], values: Mapping[str, int]) -> UOp:
        """The value in other memories that are laid out likewise, with these sizes."""
        parts = []
        for buffer, shape in zip(buffers, self.shapes, strict=True):
            sizes = bound(shape, dict(values)) if values else shape
            parts.append(graph.reshape(buffer.uop(math.prod(sizes)), sizes))
        return sharding.multi(parts, self.axis, self.devices) if self.devices else parts[0]


def layout_of(tensor: Tensor) -> Layout:
    """It is computed, if it is not yet."""
    if sharding.JOIN not in tensor.device:
        return Layout((tensor._buffer(),), (unbound(tensor.shape),))
    parts = tensor._parts()
    return Layout(tuple(p._buffer() for p in parts), tuple(p.shape for p in parts),
                  sharding.devices_of(tensor.device), sharding.axis_of(tensor.uop))
