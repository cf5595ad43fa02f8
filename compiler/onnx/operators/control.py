"""Branches, loops and sequences. Conditions are read back: which nodes run depends on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.onnx.registry import Node, operator
from compiler.onnx.values import to_host
from compiler.tensor import Tensor

__all__: list[str] = []


def _true(value: Any) -> bool:
    return bool(to_host(value).reshape(-1)[0])


@operator("If")
def branch(node: Node, condition: Any) -> tuple[Any, ...]:
    return tuple(node.scope.graph(node("then_branch" if _true(condition) else "else_branch"), []))


@operator("Loop")
def loop(node: Node, most: Any = None, condition: Any = None, *carried: Any) -> tuple[Any, ...]:
    body, values = node("body"), list(carried)
    limit = None if most is None else node.ints(most)[0]
    going = condition is None or _true(condition)
    scans: list[list[Any]] = [[] for _ in range(len(body.output) - 1 - len(values))]
    turn = 0
    while going and (limit is None or turn < limit):
        found = node.scope.graph(body, [np.array(turn, np.int64), np.array(True), *values])
        going = _true(found[0])
        values = found[1:1 + len(values)]
        for scan, value in zip(scans, found[1 + len(values):], strict=True):
            scan.append(value)
        turn += 1
    return (*values, *[_stacked(node, scan, 0) for scan in scans])


def _stacked(node: Node, values: list[Any], axis: int) -> Any:
    if not values:
        return Tensor.zeros(0, device=node.device)
    return Tensor.stack([node.tensor(value) for value in values], dim=axis)


@operator("Scan")
def scan(node: Node, *inputs: Any) -> tuple[Any, ...]:
    body, count = node("body"), int(node("num_scan_inputs"))
    given = list(inputs)
    batched = node.opset < 9                    # opset 8: sequence lengths first, and a batch axis
    if batched:
        given = given[1:]
    states, sources = given[:len(given) - count], [node.tensor(value) for value in given[len(given) - count:]]
    batches = int(sources[0].shape[0]) if batched else 1
    runs = []
    for i in range(batches):
        runs.append(_scan(node, body, [node.tensor(s)[i] if batched else s for s in states],
                          [s[i] if batched else s for s in sources]))
    if not batched:
        return tuple(runs[0])
    return tuple(Tensor.stack([node.tensor(run[k]) for run in runs], dim=0) for k in range(len(runs[0])))


def _scan(node: Node, body: Any, states: list[Any], sources: list[Tensor]) -> list[Any]:
    backwards = node("scan_input_directions") or node("directions") or [0] * len(sources)
    axes = node("scan_input_axes") or [0] * len(sources)
    results = len(body.output) - len(states)
    seen: list[list[Any]] = [[] for _ in range(results)]
    axes = [axis % source.ndim for axis, source in zip(axes, sources, strict=True)]
    steps = int(sources[0].shape[axes[0]])
    for t in range(steps):
        pieces = []
        for source, axis, back in zip(sources, axes, backwards, strict=True):
            pieces.append(source[(slice(None),) * axis + (steps - 1 - t if back else t,)])
        found = node.scope.graph(body, [*states, *pieces])
        states = found[:len(states)]
        for one, value in zip(seen, found[len(states):], strict=True):
            one.append(value)
    out_axes = node("scan_output_axes") or [0] * results
    out_back = node("scan_output_directions") or [0] * results
    return [*states, *[_stacked(node, list(reversed(one)) if back else one, axis)
                       for one, axis, back in zip(seen, out_axes, out_back, strict=True)]]


# ---- sequences: Python's lists

@operator("SequenceEmpty")
def sequence_empty(node: Node) -> list[Any]:
    return []


@operator("SequenceConstruct")
def sequence_construct(node: Node, *values: Any) -> list[Any]:
    return list(values)


@operator("SequenceLength")
def sequence_length(node: Node, values: list[Any]) -> Any:
    return np.array(len(values), np.int64)


def _place(node: Node, position: Any, count: int) -> int:
    at = node.ints(position)[0]
    if not -count <= at < max(count, 1):
        raise node.error(f"position {at} of a sequence of {count}")
    return at


@operator("SequenceAt")
def sequence_at(node: Node, values: list[Any], position: Any) -> Any:
    return values[_place(node, position, len(values))]


@operator("SequenceInsert")
def sequence_insert(node: Node, values: list[Any], value: Any, position: Any = None) -> list[Any]:
    out = list(values)
    out.insert(len(out) if position is None else node.ints(position)[0], value)
    return out


@operator("SequenceErase")
def sequence_erase(node: Node, values: list[Any], position: Any = None) -> list[Any]:
    at = len(values) - 1 if position is None else _place(node, position, len(values)) % len(values)
    return values[:at] + values[at + 1:]


@operator("ConcatFromSequence")
def concat_from_sequence(node: Node, values: list[Any]) -> Any:
    tensors = [node.tensor(value) for value in values]
    axis = int(node("axis"))
    return Tensor.stack(tensors, dim=axis) if node("new_axis", 0) else Tensor.cat(*tensors, dim=axis)


@operator("SplitToSequence")
def split_to_sequence(node: Node, value: Any, split: Any = None) -> list[Any]:
    x = node.tensor(value)
    axis = node.axis(0, x.ndim)
    n = int(x.shape[axis])
    sizes = [1] * n if split is None else node.ints(split)
    if split is not None and to_host(split).ndim == 0:
        sizes = [min(sizes[0], n - i) for i in range(0, n, sizes[0])]
    parts = list(x.split(sizes, axis))
    return [part.squeeze([axis]) for part in parts] if split is None and not node("keepdims", 1) else parts
