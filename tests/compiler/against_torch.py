"""One expression on our tensors and on PyTorch's: values, shapes, and gradients of every input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from compiler import Tensor

RNG = np.random.RandomState(1)
ARRAYS = {      # by the letters that the tables use
    "v": RNG.uniform(-2, 2, 7),
    "m": RNG.uniform(-2, 2, (4, 5)),
    "t": RNG.uniform(-2, 2, (2, 3, 4)),
    "s": np.array(1.5),
    "e": np.zeros((0, 3)),
    "n": np.array([[1, np.nan, 3], [np.inf, 2, -np.inf], [np.nan, 0, -0.0]]),
    "d": np.array([3.0, 1, 3, 2, 1, 1, 2]),
    "p": RNG.uniform(0.05, 0.95, (4, 5)),
    "1": RNG.uniform(-1, 1, (2, 4, 9)),
    "2": RNG.uniform(-1, 1, (4, 6, 7)),
    "x": RNG.uniform(-1, 1, (4, 4)),
    "q": RNG.uniform(-1, 1, (2, 4, 6, 6)),
    "3": RNG.uniform(-1, 1, (1, 2, 4, 5, 4)),
}


class Functions:
    """``F.name(x, ...)``: our method, or PyTorch's function of that name. Tensors among the arguments are ours."""

    _OURS = {"unfold": "im2col", "fold": "col2im"}  # noqa: RUF012

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(x: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(x, Tensor):
                return getattr(x, self._OURS.get(name, name))(*(_like(a, x) for a in args),
                                                              **{k: _like(v, x) for k, v in kwargs.items()})
            import torch
            function = getattr(torch.nn.functional, name, None) or getattr(torch, name)
            return function(x, *(_foreign(a) for a in args), **{k: _foreign(v) for k, v in kwargs.items()})
        return call


F = Functions()


def _like(value: Any, x: Tensor) -> Any:
    return value.to(x.device) if isinstance(value, Tensor) and value.device != x.device else value


def _foreign(value: Any) -> Any:
    import torch
    return torch.tensor(value.numpy()) if isinstance(value, Tensor) else value


def T(*shape: int) -> Tensor:
    """Fixed numbers of a shape."""
    return Tensor(np.random.RandomState(sum(shape) + 1).uniform(-1, 1, shape).astype(np.float32), device="CPU")


def _flat(out: Any) -> list[Any]:
    return [p for o in out for p in _flat(o)] if isinstance(out, tuple | list) else [out]


def _values(x: Any) -> np.ndarray:
    return x.numpy() if isinstance(x, Tensor) else x.detach().numpy() if hasattr(x, "detach") else np.asarray(x)


def compare(function: Callable[[Any], Any], letter: str, device: str, *, dtype: Any = np.float32, rtol: float = 3e-5,
            atol: float = 3e-6, gradient: bool = True) -> None:
    """Run ``function`` on both sides; where PyTorch refuses, so must we."""
    torch = pytest.importorskip("torch")
    a = ARRAYS[letter].astype(dtype)
    floating = np.dtype(dtype).kind == "f" and gradient
    theirs = torch.tensor(a, requires_grad=floating)
    mine = Tensor(a, device=device, requires_grad=floating)
    try:
        want = _flat(function(theirs))
    except Exception:
        with pytest.raises(Exception):      # noqa: B017  (which one is another test's matter)
            for x in _flat(function(mine)):
                _values(x)
        return
    got = _flat(function(mine))
    assert len(got) == len(want)
    for x, y in zip(got, want, strict=True):
        p, q = _values(x), _values(y)
        assert p.shape == q.shape
        np.testing.assert_allclose(p, q, rtol=rtol, atol=atol)
    pairs = [(x, y) for x, y in zip(got, want, strict=True) if hasattr(y, "requires_grad") and y.requires_grad]
    if not floating or not pairs or not a.size:
        return
    weights = [np.arange(1, y.numel() + 1, dtype=np.float32).reshape(tuple(y.shape)) / max(y.numel(), 1)
               for _, y in pairs]
    sum((y * torch.tensor(w)).sum() for (_, y), w in zip(pairs, weights, strict=True)).backward()  # type: ignore[union-attr]
    total: Any = sum((x * Tensor(w, device=device)).sum() for (x, _), w in zip(pairs, weights, strict=True))
    total.backward()
    assert mine.grad is not None
    np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy(), rtol=1e-4, atol=1e-5)


Case = tuple[str, Callable[[Any], Any], Sequence[str]]


def cases(table: Sequence[tuple[Any, ...]], default: str) -> list[Any]:
    """(function, letter) for each entry (name, function[, letters]); all but the first letter and those of edge values
    are for the slow suite."""
    out = []
    for entry in table:
        letters = entry[2] if len(entry) > 2 else default
        for k, letter in enumerate(letters):
            slow = k and letter not in "en"
            out.append(pytest.param(entry[1], letter, id=f"{entry[0]}-{letter}",
                                    marks=pytest.mark.slow if slow else ()))
    return out
