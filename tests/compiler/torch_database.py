"""PyTorch's database of operations (``torch.testing``), asked for samples: the same call on both sides, compared.

Nothing of it is copied here. A sample is (input, args, kwargs) for PyTorch's function; ours is the tensor's method, or
the function of :mod:`compiler.nn.functional`, of that name. Run as a program it takes all samples of the operations
named (or of all), and prints where they differ:

    python tests/compiler/torch_database.py [--samples N] [name ...]
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from compiler import Tensor
from compiler.nn import functional

SPEECHLESS = ("device", "layout", "pin_memory")        # keywords of PyTorch's memory, which say nothing of values


@dataclass(frozen=True)
class Difference:
    """Why an operation is not compared whole. ``without`` says of a sample whether it is left out."""

    why: str
    values: bool = True
    gradient: bool = True
    first_only: bool = False        # of several results, the first alone
    without: Callable[[Any], bool] = lambda sample: False


WHOLE = Difference("")


@cache
def database() -> dict[str, Any]:
    """Name, with the variant behind a stroke, to PyTorch's description of the operation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return {op.name + (f"/{op.variant_test_name}" if op.variant_test_name else ""): op for op in op_db}


def ours(name: str) -> Callable[..., Any] | None:
    """Our function for PyTorch's operation of this name, taking arguments in the database's order."""
    space, _, last = name.partition("/")[0].rpartition(".")
    if space in ("masked", "sparse", "torch", "torch.ops.aten", "fft"):
        return None
    if last == "einsum":
        return lambda tensors, equation: Tensor.einsum(equation, *tensors)
    if last in ("embedding", "embedding_bag"):
        return lambda weight, index, **how: getattr(functional, last)(index, weight, **how)
    if space == "nn.functional":
        return getattr(functional, last, None)
    found = getattr(Tensor, last, None)
    if isinstance(found, property):
        return lambda x: getattr(x, last)
    return found


def translated(value: Any, made: dict[int, Tensor]) -> Any:
    """PyTorch's arguments as ours; ``made``: our tensors by the identity of theirs."""
    import torch
    if isinstance(value, torch.Tensor):
        if id(value) not in made:
            made[id(value)] = Tensor(value.detach().numpy(), device="CPU", requires_grad=value.requires_grad)
        return made[id(value)]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, dict):
        return {k: translated(v, made) for k, v in value.items() if k not in SPEECHLESS}
    if isinstance(value, list | tuple):
        parts = [translated(v, made) for v in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def tensors(value: Any) -> Iterator[Any]:
    """PyTorch's tensors among arguments."""
    import torch
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def flat(out: Any) -> list[Any]:
    return [p for o in out for p in flat(o)] if isinstance(out, tuple | list) else [out]


def values(x: Any) -> np.ndarray:
    if isinstance(x, Tensor) or not hasattr(x, "detach"):
        return np.asarray(x)
    return (x.detach().float() if x.itemsize == 2 and x.is_floating_point() else x.detach()).numpy()  # type: ignore[no-any-return]


def samples(op: Any, dtype: Any, most: int) -> list[Any]:
    """At most so many, spread over all that there are."""
    import torch
    torch.manual_seed(0)
    every = list(op.sample_inputs("cpu", dtype, requires_grad=dtype.is_floating_point and op.supports_autograd))
    if len(every) <= most:
        return every
    return [every[i * (len(every) - 1) // max(most - 1, 1)] for i in range(most)]


def compare(name: str, sample: Any, difference: Difference = WHOLE) -> bool:
    """One sample on both sides. False: PyTorch itself refuses it, or it is of a kind that is not compared."""
    import torch
    arguments = (sample.input, *sample.args)
    if any(t.is_complex() or t.layout is not torch.strided for t in tensors([arguments, sample.kwargs])):
        return False
    torch.manual_seed(0)
    try:
        want = flat(database()[name](*arguments, **sample.kwargs))
    except Exception:
        return False
    made: dict[int, Tensor] = {}
    function = ours(name)
    assert function is not None
    got = flat(function(*translated(arguments, made), **translated(sample.kwargs, made)))
    assert len(got) == len(want), f"{len(got)} results for {len(want)}"
    if difference.first_only:
        got, want = got[:1], want[:1]
    for x, y in zip(got, want, strict=True):
        p, q = values(x), values(y)
        assert p.shape == q.shape, f"shape {p.shape} for {q.shape}"
        assert {"u": "i"}.get(p.dtype.kind, p.dtype.kind) == {"u": "i"}.get(q.dtype.kind, q.dtype.kind), \
            f"{p.dtype} for {q.dtype}"
        if difference.values:
            np.testing.assert_allclose(p, q, rtol=3e-4, atol=3e-5)
    if difference.values and difference.gradient:
        _same_gradients(got, want, [t for t in tensors([arguments, sample.kwargs]) if t.requires_grad], made)
    return True


def _same_gradients(got: list[Any], want: list[Any], leaves: list[Any], made: dict[int, Tensor]) -> None:
    import torch
    pairs = [(x, y) for x, y in zip(got, want, strict=True) if getattr(y, "requires_grad", False) and y.numel()]
    if not leaves or not pairs:
        return
    weights = [np.linspace(0.5, 1.5, y.numel(), dtype=np.float32).reshape(tuple(y.shape)) for _, y in pairs]
    total = sum((y * torch.tensor(w)).sum() for (_, y), w in zip(pairs, weights, strict=True))
    theirs = torch.autograd.grad(total, leaves, allow_unused=True)  # type: ignore[arg-type]
    assert all(x.requires_grad for x, _ in pairs) or not any(g is not None and g.any() for g in theirs), "no gradient"
    mine: Any = sum((x * Tensor(w, device="CPU")).sum() for (x, _), w in zip(pairs, weights, strict=True))
    if not mine.requires_grad:
        return
    mine.backward()
    for leaf, g in zip(leaves, theirs, strict=True):
        if g is None:
            continue
        grad = made[id(leaf)].grad
        value = np.zeros(tuple(leaf.shape), np.float32) if grad is None else grad.numpy()
        np.testing.assert_allclose(value, g.clone().numpy(force=True), rtol=1e-3, atol=1e-4, err_msg="gradient")


def described(sample: Any) -> str:
    def one(value: Any) -> str:
        if hasattr(value, "shape"):
            return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
        return f"[{', '.join(map(one, value))}]" if isinstance(value, list | tuple) else repr(value)
    parts = [one(sample.input), *map(one, sample.args), *(f"{k}={one(v)}" for k, v in sample.kwargs.items())]
    return ", ".join(parts)


def main(arguments: list[str]) -> None:
    import torch
    from test_compiler_torch_database import DIFFERENCES, OPERATIONS
    most = 1 << 30
    if arguments[:1] == ["--samples"]:
        most, arguments = int(arguments[1]), arguments[2:]
    for name in arguments or OPERATIONS:
        difference = DIFFERENCES.get(name, WHOLE)
        for dtype in (torch.float32, torch.int64, torch.bool):
            if not database()[name].supports_dtype(dtype, "cpu"):
                continue
            good = 0
            for sample in samples(database()[name], dtype, most):
                try:
                    good += not difference.without(sample) and compare(name, sample, difference)
                except Exception as error:
                    text = " ".join(str(error).split())[:300]
                    print(f"{name} {dtype} ({described(sample)}): {type(error).__name__}: {text}", flush=True)
            print(f"{name} {dtype}: {good} equal", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
