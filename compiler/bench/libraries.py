"""One face for three libraries: ours, PyTorch, tinygrad. A model's file is run for another library by giving it that
library's ``nn`` and ``Tensor`` in place of ``compiler``'s: :func:`load`.

Each class here has: ``nn``, ``tensor(array)``, ``zeros(shape)``, ``repeated(function)`` (a step, made ready to be
repeated), ``parameters(model, weights)`` (fills them in), ``train_step``, ``numpy`` and ``counts``.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["LIBRARIES", "load", "open_library"]

LIBRARIES = ("ours", "torch", "tinygrad")


def load(name: str, library: Any) -> Any:
    """The module ``compiler.models.name``; for another library the same source with that one's ``nn``."""
    if library.name == "ours":
        return importlib.import_module(f"compiler.models.{name}")
    spec = importlib.util.find_spec(f"compiler.models.{name}")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    made = ModuleType(f"compiler.models.{name} for {library.name}")
    sys.modules[made.__name__] = made           # dataclasses look for their module there
    face = SimpleNamespace(nn=library.nn, Tensor=library.tensor)

    def import_(what: str, *args: Any, **kwargs: Any) -> Any:
        return face if what == "compiler" else builtins.__import__(what, *args, **kwargs)
    made.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
    exec(compile(source, spec.origin, "exec"), made.__dict__)
    return made


def open_library(name: str, device: str) -> Any:
    """:raises ImportError: it is not installed."""
    return {"ours": Ours, "torch": Torch, "tinygrad": Tinygrad}[name](device)


class Ours:
    name = "ours"

    def __init__(self, device: str) -> None:
        import compiler
        from compiler import engine
        from compiler.runtime import canonical
        self.compiler: Any = compiler
        self.nn, self.device = self.compiler.nn, canonical(device)
        self.spent = {"schedule": 0.0, "compile": 0.0}
        self.built = 0
        self._time(engine, "schedule", "schedule")
        self._time(engine, "build_program", "compile")

    def _time(self, module: Any, name: str, phase: str) -> None:
        """Add up the seconds that a function of the engine takes."""
        import time
        function = getattr(module, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[phase] += time.perf_counter() - begun
                self.built += phase == "compile"
        setattr(module, name, timed)

    def tensor(self, array: np.ndarray) -> Any:
        return self.compiler.Tensor(array, device=self.device)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self.compiler.Tensor.zeros(*shape, device=self.device).contiguous().realize()

    def parameters(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        model.load_state_dict(weights)      # before it moves: nothing of the random beginning is computed
        model.to(self.device)

    def shapes(self, model: Any) -> dict[str, tuple[int, ...]]:
        return {k: tuple(v.shape) for k, v in model.state_dict().items()}

    def repeated(self, function: Callable[..., Any]) -> Any:
        """Derivatives are not wanted. The recordings are kept, for their kernels to be counted."""
        compiler = self.compiler

        def plain(*args: Any) -> Any:
            with compiler.no_grad():
                return function(*args)
        self.recorded = compiler.jit(plain)
        return self.recorded

    def train_step(self, model: Any) -> Any:
        optimizer = self.compiler.optim.SGD(model.parameters(), 0.01, momentum=0.9)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = model(x).cross_entropy(y)
            loss.backward()
            optimizer.step()
            return loss
        self.recorded = self.compiler.jit(step)
        return self.recorded

    def position(self, most: int) -> Callable[[int], Any]:
        return self.compiler.Variable("start", 1, most - 1).bind     # type: ignore[no-any-return]

    def numpy(self, x: Any) -> np.ndarray:
        return x.numpy()        # type: ignore[no-any-return]

    def counts(self) -> dict[str, Any]:
        from compiler.buffer import pool
        steps = [s for c in self.recorded.captured.values() if c is not None for s in c.steps if s.launch is not None]
        return {"kernels": len(steps), "programs": self.built, "memory": pool(self.device).peak}


class Torch:
    name = "torch"

    def __init__(self, device: str) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.nn = self.torch.nn
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def tensor(self, array: np.ndarray) -> Any:
        x = self.torch.from_numpy(np.array(array))
        return x.long() if x.dtype in (self.torch.int32,) else x

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self.torch.zeros(shape)

    def parameters(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        model.load_state_dict({k: self.torch.from_numpy(np.array(v)) for k, v in weights.items()})

    def shapes(self, model: Any) -> dict[str, tuple[int, ...]]:
        return {k: tuple(v.shape) for k, v in model.state_dict().items()}

    def repeated(self, function: Callable[..., Any]) -> Any:
        return self.torch.inference_mode()(function)

    def train_step(self, model: Any) -> Any:
        optimizer = self.torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = self.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()
        return step

    def position(self, most: int) -> Callable[[int], Any]:
        return int

    def numpy(self, x: Any) -> np.ndarray:
        return x.numpy()        # type: ignore[no-any-return]

    def counts(self) -> dict[str, Any]:
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"memory": (now - self.before) * (1 if sys.platform == "darwin" else 1024)}


class Tinygrad:
    name = "tinygrad"

    def __init__(self, device: str) -> None:
        from compiler import nn as own
        self.tg: Any = importlib.import_module("tinygrad")
        self.nn = _tinygrad_nn(self.tg, own)

    def tensor(self, array: np.ndarray) -> Any:
        return self.tg.Tensor(np.ascontiguousarray(array)).realize()

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return _Kept(self.tg.Tensor.zeros(*shape).contiguous().realize())

    def _state(self, model: Any) -> dict[str, Any]:
        from compiler.nn.module import _walk
        return dict(_walk(model, "", self.tg.Tensor))

    def shapes(self, model: Any) -> dict[str, tuple[int, ...]]:
        return {k: tuple(v.shape) for k, v in self._state(model).items()}

    def parameters(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        own = self._state(model)
        if missing := sorted(own.keys() ^ weights.keys()):
            raise KeyError(f"tinygrad's model and ours differ in {', '.join(missing)}")
        for name, value in weights.items():
            own[name].assign(self.tg.Tensor(value, dtype=own[name].dtype)).realize()

    def repeated(self, function: Callable[..., Any]) -> Any:
        self.recorded = self.tg.TinyJit(lambda *args: function(*args).realize())
        return self.recorded

    def train_step(self, model: Any) -> Any:
        own = [t for name, t in self._state(model).items() if "running_" not in name and "num_batches" not in name]
        from tinygrad.helpers import Context
        optimizer = self.tg.nn.optim.SGD(own, 0.01, momentum=0.9)

        def step(x: Any, y: Any) -> Any:
            with Context(TRAINING=1):
                optimizer.zero_grad()
                loss = model(x).sparse_categorical_crossentropy(y).backward()
                return loss.realize(*optimizer.schedule_step())
        self.recorded = self.tg.TinyJit(step)
        return self.recorded

    def position(self, most: int) -> Callable[[int], Any]:
        return self.tg.Variable("start", 1, most - 1).bind      # type: ignore[no-any-return]

    def numpy(self, x: Any) -> np.ndarray:
        return x.numpy()        # type: ignore[no-any-return]

    def counts(self) -> dict[str, Any]:
        from tinygrad.helpers import GlobalCounters
        GlobalCounters.reset()
        return {"memory": GlobalCounters.mem_used}


class _Kept:
    """Memory that tinygrad writes in place: its tensors refuse that where parts of them were taken before, so each
    store is a node of its own, after which the memory is read."""

    def __init__(self, memory: Any) -> None:
        self.memory = self.now = memory

    def __setitem__(self, key: Any, value: Any) -> None:
        self.now = type(self.memory)(self.memory.uop.after(self.memory[key].uop.store(value.uop)))

    def __getitem__(self, key: Any) -> Any:
        return self.now[key]

    def settle(self) -> None:
        """Write what was stored, though nothing was read of it yet."""
        self.now.realize()
        self.now = self.memory


def _tinygrad_nn(tg: Any, own: Any) -> Any:
    """Layers by PyTorch's names and arguments, of tinygrad's; containers are ours, which hold anything."""
    layers = tg.nn

    def gelu(x: Any, approximate: str = "none") -> Any:
        return x.gelu(approximate)

    class GELU(own.Module):     # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return gelu(x)
    functional = SimpleNamespace(
        relu=lambda x: x.relu(), silu=lambda x: x.silu(), gelu=gelu,
        linear=lambda x, w, b=None: x.linear(w.transpose(0, 1), b),
        max_pool2d=lambda x, kernel, stride=None, padding=0: x.max_pool2d((kernel, kernel), stride or kernel,
                                                                          padding=padding),
        scaled_dot_product_attention=lambda q, k, v, is_causal=False, enable_gqa=False:
        q.scaled_dot_product_attention(k, v, is_causal=is_causal, enable_gqa=enable_gqa))
    return SimpleNamespace(
        Module=own.Module, ModuleList=own.ModuleList, Sequential=own.Sequential, functional=functional, GELU=GELU,
        Parameter=lambda t: t, Linear=layers.Linear, Conv1d=layers.Conv1d, Conv2d=layers.Conv2d,
        BatchNorm2d=layers.BatchNorm, LayerNorm=layers.LayerNorm, RMSNorm=layers.RMSNorm, Embedding=layers.Embedding)
