"""Tensors over several devices: the same values as on one, by local work, a ring, and copies from card to card."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import Tensor, graph, jit, nn, optim, sharding
from compiler.capture import JitError
from compiler.uop import Ops

FOUR = ("CPU",) * 4
A = np.random.RandomState(0).uniform(-1, 1, (8, 6)).astype(np.float32)


def over(a: np.ndarray, axis: int | None, devices: tuple[str, ...] = FOUR) -> Tensor:
    return Tensor(a, device="CPU").shard(devices, axis)


OPERATIONS: dict[str, Any] = {
    "elementwise": lambda x, xp: x * 2 + 1,
    "sum0": lambda x, xp: x.sum(0),
    "sum1": lambda x, xp: x.sum(1),
    "max": lambda x, xp: x.max(axis=0),
    "mean": lambda x, xp: x.mean(),
    "reshape": lambda x, xp: x.reshape(4, 2, 6) + 1,
    "flatten": lambda x, xp: x.reshape(48),
    "merge": lambda x, xp: x.reshape(3, 16),
    "permute": lambda x, xp: x.T + 0,
    "slice0": lambda x, xp: x[1:5],
    "slice1": lambda x, xp: x[:, ::2],
    "index": lambda x, xp: x[3],
    "flip": lambda x, xp: x[::-1, ::-1] * 1,
    "product": lambda x, xp: x @ x.T,
    "gram": lambda x, xp: x.T @ x,
    "cumsum": lambda x, xp: x.cumsum(0),
}


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_as_on_one_device(name: str, axis: int | None) -> None:
    devices = FOUR if axis != 1 else FOUR[:3]
    got, want = OPERATIONS[name](over(A, axis, devices), Tensor), OPERATIONS[name](A, np)
    assert got.shape == want.shape and got.device == "+".join(devices)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.to("CPU").numpy(), want, rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(1, 3000), st.sampled_from([Ops.ADD, Ops.MAX]))
def test_all_reduce(count: int, n: int, op: Ops) -> None:
    """Every device gets the same bits, whatever the length; large ones go round in a ring."""
    data = np.random.RandomState(n).randint(-99, 99, (count, n)).astype(np.float32)
    leaves = [Tensor(row, device="CPU").uop for row in data]
    out = [Tensor(node, device="CPU").numpy() for node in sharding.all_reduce(leaves, op, ["CPU"] * count)]
    want = data.sum(0) if op is Ops.ADD else data.max(0)
    assert all((o == want).all() for o in out)


def test_a_ring_moves_each_chunk_once_a_step() -> None:
    """2 (n-1) copies of 1/n of the data a device: what no all-reduce does with less."""
    devices = ["AM", "AM:1", "AM:2", "AM:3"]
    leaves = [graph.copy(Tensor(np.zeros(4096, np.float32), device="CPU").uop, d) for d in devices]
    nodes: dict[Any, None] = {}
    for root in sharding.all_reduce(leaves, Ops.ADD, devices):
        nodes.update(root.toposort(lambda n: n not in leaves))
    copies = [n for n in nodes if n.op is Ops.COPY and n not in leaves]
    assert len(copies) == len(devices) * 2 * (len(devices) - 1) and {n.size for n in copies} == {1024}
    sent = [n.src[0].device for n in copies]
    assert all(sent.count(d) == 2 * (len(devices) - 1) for d in devices)


def train(devices: tuple[str, ...] | None) -> list[float]:
    Tensor.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16, device="CPU"), nn.Tanh(), nn.Linear(16, 3, device="CPU"))
    x, y = Tensor(A, device="CPU"), Tensor(np.arange(8) % 3, device="CPU")
    if devices:
        x, y = x.shard(devices, 0), y.shard(devices, 0)
        model.shard(devices)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(x).cross_entropy(y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_over_parts_of_a_batch() -> None:
    alone, together = train(None), train(FOUR)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert alone[-1] < alone[0]


def test_gradients_reach_what_was_sharded() -> None:
    x = Tensor(A, device="CPU", requires_grad=True)
    (x.shard(FOUR, 0) ** 2).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.to("CPU").numpy(), 2 * A, rtol=1e-6)
    w = Tensor(A, device="CPU", requires_grad=True)
    (w.shard(FOUR) * over(A, 0)).sum().backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.to("CPU").numpy(), A, rtol=1e-6)


def test_random_numbers_are_the_same_over_devices() -> None:
    Tensor.manual_seed(5)
    alone = Tensor.rand(8, device="CPU").numpy()
    Tensor.manual_seed(5)
    np.testing.assert_array_equal(Tensor.rand(8, device="+".join(FOUR)).numpy(), alone)
    x = over(A, 0)
    assert "not computed yet" in repr(x) and "not computed yet" not in repr(x.realize())


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"at least two devices"):
        Tensor([1.0]).shard(["CPU"])
    with pytest.raises(ValueError, match=r"axis 0 has 2 elements, too few for 4 devices"):
        Tensor([1.0, 2.0]).shard(FOUR, 0)
    with pytest.raises(RuntimeError, match=r"on different devices .*; move one with .to"):
        over(A, 0) + Tensor(A, device="CPU").contiguous().realize()
    with pytest.raises(RuntimeError, match=r"lies in several memories"):
        over(A, 0)._buffer()


CARDS = """
import numpy as np
from compiler import Tensor
from compiler.runtime.hcq import HcqRuntime
a = np.random.RandomState(0).uniform(-1, 1, (8, 600)).astype(np.float32)
x = Tensor(a, device="AM").realize().shard(("AM", "AM:1"), 0).realize()
host, HcqRuntime.read = HcqRuntime.read, None       # from here on nothing may go through the host
total = (x * 2).sum(0, keepdim=True).realize()
y = (x - total).relu().realize()
HcqRuntime.read = host
left, right = (p.numpy() for p in total._parts())
assert (left == right).all()
np.testing.assert_allclose(left, (a * 2).sum(0, keepdims=True), rtol=1e-5, atol=1e-6)
np.testing.assert_allclose(y.numpy(), np.maximum(a - (a * 2).sum(0, keepdims=True), 0), rtol=1e-4, atol=1e-5)
from compiler import jit, nn, optim
def losses(devices, repeat):
    layer = nn.Linear(6, 300, device="AM")
    for p in layer.parameters():
        p.data = Tensor(np.random.RandomState(p.ndim).uniform(-1, 1, p.shape).astype(np.float32), device="AM")
    layer.shard(devices) if devices else None
    opt = optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    def step(x):
        opt.zero_grad()
        loss = (layer(x) ** 2).mean()
        loss.backward()
        opt.step()
        return loss
    if repeat:
        step = jit(step)
    out = []
    for n in range(5):
        x = Tensor(a[:, n * 6:n * 6 + 6], device="AM")
        out.append(step(x.shard(devices, 0) if devices else x).to("CPU").item())
    if repeat:      # all of it is one graph of both cards
        (recorded,) = step.captured.values()
        assert recorded.replay is not None and {b.device for s in recorded.steps for b in s.buffers} == {"AM", "AM:1"}
        assert any(s.launch is None and len({b.device for b in s.buffers}) == 2 for s in recorded.steps)
    return out
want = losses((), False)
np.testing.assert_allclose(losses(("AM", "AM:1"), True), want, rtol=1e-4)
print("cards", *[p.device for p in y._parts()])
"""


def test_two_cards() -> None:
    """On two mock cards: every copy goes from card to card."""
    done = subprocess.run([sys.executable, "-c", CARDS], capture_output=True, text=True, timeout=240, env={
        **os.environ, "AMDRV_HAL": "mock", "AMDRV_MOCK": "gfx1100:vram=128M,count=2"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["cards", "AM", "AM:1"]


def test_a_step_that_is_repeated() -> None:
    """jit: parameters and what an optimizer keeps are spread, arguments are, results too; views see replays."""
    def run(repeat: bool) -> tuple[list[Any], list[float]]:
        w = over(np.ones((6, 3), np.float32), None)
        w.requires_grad_()
        total, turned = over(np.zeros((8, 3), np.float32), 0), w.T
        opt = optim.Adam([w], lr=0.1)

        def step(x: Tensor) -> tuple[Tensor, Tensor]:
            opt.zero_grad()
            y = x @ w
            (y ** 2).sum().backward()
            opt.step()
            total.assign(total + y.detach())
            return y * 2, y.sum()
        call = jit(step) if repeat else step
        seen = []
        for n in range(5):
            y, s = call(over(A + n, 0))
            seen += [y.to("CPU").numpy(), s.to("CPU").item(), total.to("CPU").numpy(), turned.to("CPU").numpy()]
        if repeat:
            (recorded,) = call.captured.values()
            assert recorded.replay is not None
        return seen, w.to("CPU").tolist()
    for (got, want) in zip(run(True)[0], run(False)[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_split_axis_is_part_of_what_is_recorded() -> None:
    @jit
    def double(x: Tensor) -> Tensor:
        return x * 2
    for axis in (0, 1, 0, 1, 0, 1, None):
        np.testing.assert_array_equal(double(over(A, axis, ("CPU", "CPU"))).to("CPU").numpy(), A * 2)
    assert len(double.captured) == 3


def test_an_argument_that_is_spread_is_not_assigned_to() -> None:
    @jit
    def grow(x: Tensor) -> Tensor:
        return x.assign(x + 1)
    grow(over(A, 0))
    with pytest.raises(JitError, match=r"argument over CPU\+CPU\+CPU\+CPU is assigned to .*; return its new value"):
        grow(over(A, 0))


def test_constants_stay_nobody_s() -> None:
    """Equal constants are one node: what one of them was computed to, on several devices, is not the others' value."""
    held = Tensor([1.0, 2.0]).shard(["CPU", "CPU"]).realize()
    spread = Tensor.zeros(3, device=held.device).contiguous().realize()
    own = [Tensor.zeros(3).contiguous().realize() for _ in range(2)]
    own[0].assign(own[0] + 1).realize(own[1].assign(own[1] + 2))
    assert [t.tolist() for t in (spread, *own)] == [[0] * 3, [1] * 3, [2] * 3]
