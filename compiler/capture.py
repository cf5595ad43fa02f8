"""``jit``: run a step once, remember its kernels, and afterwards only run those: on a GPU as one submitted graph.

The first call of a wrapped function runs it as usual (what is made once, such as an optimizer's state, is made
then); the second is recorded; later ones replay. A replay swaps the input tensors' memory for that of the new ones,
gives outputs fresh memory, and draws new random numbers. Inputs are told apart by device, type and shape: another
signature is recorded anew. Python in the function runs in the first two calls only. What the function assigns to is
computed with its results, returned or not.

Symbolic sizes (:mod:`compiler.variable`) among the arguments or in their shapes are inputs, too: one recording serves
all their values, unless a value itself decided something while it was recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from compiler import graph, sharding, watch
from compiler.buffer import Buffer
from compiler.engine import Recording, Step, ran, recording, run_step, watched_step
from compiler.layout import Layout, layout_of
from compiler.methods.random import random_state
from compiler.runtime import Replay, runtime
from compiler.tensor import Tensor, pending, realize_all, shares
from compiler.uop import Ops, UOp
from compiler.variable import Size, bindings, in_use, unbound, watched

__all__ = ["Captured", "JitError", "jit"]


class JitError(RuntimeError):
    """What was asked cannot be captured."""


def _tensors(value: Any, found: list[Tensor]) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, tuple | list):
        for v in value:
            _tensors(v, found)
    elif isinstance(value, dict):
        for v in value.values():
            _tensors(v, found)
    return found


def _rebuild(value: Any, new: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return new.pop(0)
    if isinstance(value, tuple | list):
        return type(value)(_rebuild(v, new) for v in value)
    if isinstance(value, dict):
        return {k: _rebuild(v, new) for k, v in value.items()}
    return value


def _scalars(value: Any) -> Any:
    """What of the arguments is baked into the recording, as something to compare."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, tuple | list):
        return tuple(_scalars(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _scalars(v)) for k, v in value.items())
    if isinstance(value, Size):
        return unbound(value)
    if isinstance(value, int | float | str | bool) or value is None:
        return value
    return id(value)


def _given(value: Any) -> Any:
    """The symbolic sizes in nested arguments, as nested tuples."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple | list):
        return tuple(_given(v) for v in value)
    if isinstance(value, dict):
        return tuple(_given(v) for v in value.values())
    return value if isinstance(value, Size) else ()


class Captured:
    """One recorded step: launches and copies, and which of their buffers change from call to call."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor]
    ) -> None:
        given_layouts = [layout_of(t) for t in inputs]
        buffers = [b for layout in given_layouts for b in layout.buffers]
        held = _spread_state()
        if len(set(buffers)) != len(buffers):
            raise JitError("the same tensor is given to a jitted function twice; clone one")
        self.draws: list[tuple[Buffer, int]] = []
        given = bindings(_given((args, kwargs)))
        record = Recording()
        recording.append(record)
        random_state.listeners.append(self._drew)
        versions = {b: b.version for b in buffers}
        try:
            with watched() as self.decided:     # variables of which the value of now went into the recording
                self.result = function(*args, **kwargs)
                outputs = _tensors(self.result, [])
                realize_all([*outputs, *pending()])
        finally:
            recording.pop()
            random_state.listeners.remove(self._drew)
        self.outputs = [layout_of(t) for t in outputs]
        returned = {b for layout in self.outputs for b in layout.buffers}
        self.steps: list[Step] = record.steps
        if strange := sorted({name for step in self.steps for name in step.values} - set(given)):
            raise JitError(f"variable {strange[0]} is used but not given: pass the bound size to the jitted function")
        written: dict[Buffer, None] = {}
        first_read: set[Buffer] = set()
        for step in self.steps:
            for position, b in enumerate(step.buffers):
                if position not in step.writes and b not in written:
                    first_read.add(b)
            for position in step.writes:
                written[step.buffers[position]] = None
        self.inputs = buffers
        self.changed_inputs = [n for n, b in enumerate(buffers) if b.version != versions[b]]
        fresh = {b for b in returned if b in written and b not in buffers and b.version == 0}
        self.spread = self._brought_back(held, written, set(buffers))
        self.fresh = list(fresh)
        # what the step overwrites in place and others may hold values of: parameters, optimizer state
        self.overwritten = [b for b in written if b.version > 0 and b not in buffers]
        self.overwritten += [b for _, layout in self.spread for b in layout.buffers]
        self.changing = [*buffers, *self.fresh]
        self.replay: Replay | None = None
        if (device := self._one_device()) is not None:      # one graph of the device, copies included
            self.replay = runtime(device).record([(s.launch, [b.handle for b in s.buffers]) for s in self.steps],
                                                 [b.handle for b in self.changing], given)
        # the tensors that stand for those
        self.state = [(t, b) for t in list(Tensor._live) for b in self.overwritten if shares(t) is b]

    def _brought_back(self, held: list[tuple[Tensor, Layout]], written: dict[Buffer, None],
                      inputs: set[Buffer]) -> list[tuple[Tensor, Layout]]:
        """Spread tensors that the step gave a new value: it is brought to where the old one lay, in each step, too.

        :raises JitError: if one of them is an argument.
        """
        out = []
        for tensor, old in held:
            new = layout_of(tensor)
            if new.buffers == old.buffers or not any(b in written for b in new.buffers):
                continue
            if not inputs.isdisjoint(old.buffers):
                raise JitError(f"an argument over {tensor.device} is assigned to inside the jitted function; return "
                               "its new value instead")
            for target, source in zip(old.buffers, new.buffers, strict=True):
                step = Step(None, [target, source], frozenset((0,)), {})
                run_step(None, step.buffers)
                target.version += 1
                self.steps.append(step)
            _stand_spread(tensor, old)
            out.append((tensor, old))
        return out

    def _one_device(self) -> str | None:
        """The device whose graph all the work goes into, if there is one: of the host there are copies from and to it
        at the ends only, and what the other devices are is the same kind."""
        devices = {b.device for step in self.steps for b in step.buffers} - {"CPU"} or {"CPU"}
        device = min(devices, key=lambda d: (len(d), d))
        if len({d.partition(":")[0] for d in devices}) > 1:
            return None
        arrived: set[Buffer] = set()        # on the host, in this step
        for step in self.steps:
            if step.launch is None:
                dst, src = step.buffers
                if src in arrived:
                    return None
                arrived.update({dst} if dst.device == "CPU" else ())
            elif device != "CPU" and any(b.device == "CPU" for b in step.buffers):
                return None
        return device

    def _watched(self, table: dict[Buffer, Buffer], values: dict[str, int]) -> None:
        """The same before the eyes of :mod:`compiler.watch`: on a GPU still as one submission."""
        steps = [replace(s, buffers=[table.get(b, b) for b in s.buffers], values=values) for s in self.steps]
        device = self._one_device()
        if self.replay is None or device is None or device == "CPU":
            for s in steps:
                watched_step(s)
            return
        replay = self.replay
        whole = watch.Ran("replay", device, 0, 0, None, parts=[ran(s) for s in steps])
        watch.launch(lambda: replay([table[b].handle for b in self.changing], values), whole)

    def _drew(self, buffer: Buffer, count: int) -> None:
        self.draws.append((buffer, count))

    def __call__(self, inputs: list[Tensor], values: dict[str, int]) -> Any:
        here = [layout_of(t) for t in inputs]
        table: dict[Buffer, Buffer] = dict(zip(self.inputs, (b for x in here for b in x.buffers), strict=True))
        for b in self.fresh:
            table[b] = Buffer(b.device, b.dtype, b.size)
        changing = set(self.overwritten) | {table[self.inputs[n]] for n in self.changed_inputs}
        owners = [t for t, layout in zip(inputs, here, strict=True) for _ in layout.buffers]
        standing = {id(t) for t, _ in [*self.state, *self.spread]} | {id(owners[n]) for n in self.changed_inputs}
        _save_readers(changing, standing)
        for buffer, count in self.draws:
            random_state.fill(buffer, count)
        if watch.watchers:
            self._watched(table, values)
        elif self.replay is not None:
            self.replay([table[b].handle for b in self.changing], values)
        else:
            for step in self.steps:
                run_step(step.launch, [table.get(b, b) for b in step.buffers], values)
        for b in changing:
            b.version += 1
        for tensor, b in self.state:
            _stand_for(tensor, b)
        for tensor, layout in self.spread:
            _stand_spread(tensor, layout)
        for n in self.changed_inputs:
            _stand_for(owners[n], table[self.inputs[n]])
        outputs = []
        for layout in self.outputs:
            node = layout.node([table.get(b, b) for b in layout.buffers], values)
            outputs.append(Tensor(node, device=node.device))
        return _rebuild(self.result, outputs)


def _save_readers(buffers: set[Buffer], standing: set[int]) -> None:
    """Compute what other tensors would still want of memory that is about to be overwritten."""
    from compiler.tensor import reads
    todo = []
    for t in list(Tensor._live):
        if id(t) in standing or not t.numel():
            continue
        if shares(t) in buffers:
            leaf = graph.leaf_of(t.uop)
            assert leaf is not None
            if leaf.op is Ops.BUFFER and leaf.arg[0].version != leaf.arg[1]:
                continue
            t.uop = UOp(Ops.CONTIGUOUS, leaf.dtype, (leaf,))
            todo.append(t)
        elif not graph.is_stored(t.uop) and reads(t.uop, buffers):
            todo.append(t)
    realize_all(todo)


def _spread_state() -> list[tuple[Tensor, Layout]]:
    """Tensors over several devices, of before a step, and where they lie."""
    if not sharding.in_use():
        return []
    return [(t, layout_of(t)) for t in list(Tensor._live)
            if sharding.JOIN in t.device and sharding.stored(t.uop) is not None]


def _stand_spread(tensor: Tensor, layout: Layout) -> None:
    tensor.uop = layout.node(layout.buffers, {})
    if tensor._names:
        tensor._names = [tensor.uop]
    if tensor._store is not None and not tensor._steps:
        tensor._store.refresh(tensor.uop, tensor.requires_grad)


def _stand_for(tensor: Tensor, buffer: Buffer) -> None:
    tensor.uop = graph.reshape(buffer.uop(), tensor.shape)
    if tensor._names:
        tensor._names = [buffer.uop()]
    if tensor._store is not None and not tensor._steps:
        tensor._store.refresh(tensor.uop, tensor.requires_grad)


def _axis_of(tensor: Tensor) -> int | None:
    return sharding.axis_of(tensor.uop) if sharding.JOIN in tensor.device and tensor.numel() else None


def jit(function: Callable[..., Any]) -> Any:
    """Wrap a function of tensors (in any nesting of arguments) that does the same work on every call.

    Numbers and other arguments are part of the signature. Results are tensors, or nested tuples, lists and dicts of
    them. ``wrapped.captured`` is the table of recordings.
    """
    captured: dict[Any, Captured | None] = {}
    decided: dict[Any, frozenset[str]] = {}       # by signature: variables of which every value is recorded by itself

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        inputs = _tensors((args, kwargs), [])
        realize_all(inputs)
        signature: Any = (tuple((t.device, _axis_of(t), t.dtype, unbound(t.shape)) for t in inputs),
                          _scalars((args, kwargs)))
        values = bindings(_given((args, kwargs))) if in_use() else {}
        base, names = signature, decided.get(signature, frozenset())
        if names:
            signature = (base, tuple(sorted((n, values.get(n)) for n in names)))
        if recording:       # inside another capture: part of it
            return function(*args, **kwargs)
        if signature not in captured:
            captured[signature] = None
            result = function(*args, **kwargs)
            realize_all([*_tensors(result, []), *pending()])
            return result
        entry = captured[signature]
        if entry is None:
            realize_all(pending())      # of before: none of the step's work
            entry = Captured(function, args, kwargs, inputs)
            if not entry.decided.keys() <= names:
                del captured[signature]
                decided[base] = names | entry.decided.keys()
                signature = (base, tuple(sorted((n, values.get(n)) for n in decided[base])))
            captured[signature] = entry
            if not entry.steps:
                del captured[signature]
                raise JitError(
                    f"{getattr(function, '__name__', 'the function')} ran no kernel: return what it computes"
                )
            return entry.result
        return entry(inputs, values)

    wrapped.captured = captured     # type: ignore[attr-defined]
    return wrapped
