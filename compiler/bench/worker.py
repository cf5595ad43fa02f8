"""One library's measurement, in a process of its own: ``python -m compiler.bench.worker '{"model": ..., ...}'``.

The last line of its output is an object of JSON: seconds of each phase and of each step, counts, and a few numbers of
the result, by which the libraries are compared.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.bench.libraries import load, open_library
from compiler.bench.tasks import TASKS, Task, build
from compiler.models.weights import random_weights

__all__ = ["measure"]

WARM = 3        # steps before those that count: the first makes kernels, the second is recorded, the third replays
FIRST = 8       # tokens that a text has before decoding is measured


def measure(model: str, library: str, device: str, batch: int, steps: int, seed: int = 0) -> dict[str, Any]:
    """:param batch: 0: the task's own."""
    task, batch = TASKS[model], batch or TASKS[model].batch
    face = open_library(library, device)
    spent: dict[str, float] = getattr(face, "spent", {})        # of schedules and compilations, ours only
    begun = time.perf_counter()
    net = build(task, load(task.module, face))
    face.parameters(net, random_weights(face.shapes(net), seed))
    run = _runner(task, face, net, batch, seed, steps + WARM)
    building, early = time.perf_counter() - begun, sum(spent.values())
    times, results = [], []
    for n in range(steps + WARM):
        begun = time.perf_counter()
        results.append(run(n))
        times.append(time.perf_counter() - begun)
    phases = {"build": building - early, **spent,
              "first run": max(0.0, sum(times[:WARM]) - (sum(spent.values()) - early))}
    steady = sorted(times[WARM:])
    out = {"model": model, "library": library, "device": device, "batch": batch, "what": task.what,
           "unit": task.unit, "phases": phases, "steps": times[WARM:], "warm": times[:WARM],
           "step": steady[len(steady) // 2], "best": steady[0], "result": results[-1],
           "results": [r[0] for r in results], **face.counts(),
           "parameters": sum(math.prod(s) for s in face.shapes(net).values())}
    out["rate"] = batch * _per_step(task, net) / out["step"]
    if library == "ours":
        out["flop"] = _operations(face, task, net, batch, seed)
        out["gflops"] = out["flop"] / out["step"] / 1e9
    return out


def _per_step(task: Task, net: Any) -> float:
    """Units of the task in a step of one."""
    return net.config.n_audio_ctx * 2 * 160 / 16000 if task.kind == "listen" else 1.0


def _runner(task: Task, face: Any, net: Any, batch: int, seed: int, count: int) -> Callable[[int], list[float]]:
    """Step number n, to its end; a few numbers of what came out."""
    rng = np.random.default_rng(seed)

    def show(x: Any) -> list[float]:
        return [float(v) for v in face.numpy(x).reshape(-1)[:4]]
    if task.kind == "decode":
        if FIRST + count > net.config.context:
            raise SystemExit(f"{count} steps after {FIRST} tokens do not fit into a context of {net.config.context}")
        net.eval()
        caches = [(face.zeros(net.cache_shape(batch)), face.zeros(net.cache_shape(batch)))
                  for _ in range(net.config.layers)]
        tokens = rng.integers(0, net.config.vocabulary, (batch, FIRST + count), dtype=np.int32)
        show(face.repeated(lambda x: net(x, caches, 0))(face.tensor(tokens[:, :FIRST])))
        for kept in (c for pair in caches for c in pair if hasattr(c, "settle")):
            kept.settle()
        step = face.repeated(lambda x, start: net(x, caches, start))
        bind = face.position(net.config.context)
        return lambda n: show(step(face.tensor(tokens[:, FIRST + n:FIRST + n + 1]), bind(FIRST + n)))
    if task.kind == "listen":
        c = net.config
        net.eval()
        mel = face.tensor(rng.standard_normal((batch, c.n_mels, 2 * c.n_audio_ctx), np.float32))
        encode = face.repeated(lambda x: net.encoder(x))
        return lambda n: show(encode(mel))
    images = rng.standard_normal((count, batch, *task.shape), np.float32)
    if task.kind == "infer":
        net.eval()
        forward = face.repeated(lambda x: net(x))
        return lambda n: show(forward(face.tensor(images[n])))
    kinds = rng.integers(0, task.classes, (count, batch), dtype=np.int32)
    train = face.train_step(net)
    return lambda n: show(train(face.tensor(images[n]), face.tensor(kinds[n])))


def _operations(face: Any, task: Task, net: Any, batch: int, seed: int) -> float:
    """Multiplications and additions of the products and convolutions of a step, from the shapes of their operands;
    a derivative costs twice its forward."""
    Tensor = face.compiler.Tensor
    total, depth = [0.0], [0]
    saved = {name: getattr(Tensor, name) for name in ("matmul", "__matmul__", "linear", "conv1d", "conv2d")}

    def counted(name: str) -> Callable[..., Any]:
        def call(self: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            try:
                out = saved[name](self, other, *args, **kwargs)
            finally:
                depth[0] -= 1
            if not depth[0]:
                inner = other.shape[-1] if name == "linear" else math.prod(other.shape[1:]) if "conv" in name \
                    else self.shape[-1]
                total[0] += 2.0 * int(out.numel()) * int(inner)
            return out
        return call
    for name in saved:
        setattr(Tensor, name, counted(name))
    try:
        with face.compiler.no_grad():       # only the graph is made
            if task.kind == "decode":
                shape = net.cache_shape(batch)
                caches = [(face.zeros(shape), face.zeros(shape)) for _ in range(net.config.layers)]
                net(face.tensor(np.zeros((batch, 1), np.int32)), caches, FIRST)
            elif task.kind == "listen":
                c = net.config
                net.encoder(Tensor.zeros(batch, c.n_mels, 2 * c.n_audio_ctx, device=face.device))
            else:
                net.eval()(Tensor.zeros(batch, *task.shape, device=face.device))
    finally:
        for name, function in saved.items():
            setattr(Tensor, name, function)
    return total[0] * (3 if task.kind == "train" else 1)


if __name__ == "__main__":
    try:
        print(json.dumps(measure(**json.loads(sys.argv[1]))))
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
