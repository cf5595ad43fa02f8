"""What a tensor means: laziness, assignment, differentiation, random numbers, capture, layers, errors."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compiler import Tensor, dtypes, jit, nn, no_grad, optim
from compiler.buffer import pool
from compiler.capture import JitError
from compiler.methods.random import threefry
from compiler.runtime import canonical


def test_creation(device: str) -> None:
    assert Tensor.zeros(2, 3, device=device).tolist() == [[0] * 3] * 2 and Tensor.ones(
        (2,), device=device
    ).tolist() == [1, 1]
    assert Tensor.full((2,), 7, device=device).dtype is dtypes.int32
    assert Tensor.arange(5, device=device).tolist() == [0, 1, 2, 3, 4]
    assert Tensor.arange(8, 1, -3, device=device).tolist() == [8, 5, 2]
    np.testing.assert_allclose(Tensor.arange(0, 1, 0.3, device=device).numpy(), np.arange(0, 1, 0.3), rtol=1e-6)
    np.testing.assert_allclose(Tensor.linspace(-1, 1, 5, device=device).numpy(), np.linspace(-1, 1, 5))
    np.testing.assert_array_equal(Tensor.eye(3, 4, device=device).numpy(), np.eye(3, 4))
    for a in (
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.array([True, False]),
        np.array(2.5),
        np.zeros((0, 2), np.float32),
    ):
        t = Tensor(a, device=device)
        assert t.shape == a.shape and t.dtype.np == a.dtype
        np.testing.assert_array_equal(t.numpy(), a)
    assert (
        Tensor([1, 2]).dtype is dtypes.int32
        and Tensor([1.0]).dtype is dtypes.float32
        and Tensor([2**40]).dtype is dtypes.int64
    )
    assert Tensor(True).dtype is dtypes.bool_ and Tensor(b"\x01\xff").tolist() == [1, 255]
    assert Tensor(np.asfortranarray([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4]]


def test_python_numbers_are_weak() -> None:
    half, small = Tensor([1.0], dtype=dtypes.float16), Tensor([1], dtype=dtypes.int8)
    assert (half + 2).dtype is dtypes.float16 and (half * 2.5).dtype is dtypes.float16
    assert (
        (small + 2).dtype is dtypes.int8
        and (small * 0.5).dtype is dtypes.float32
        and (small / 2).dtype is dtypes.float32
    )
    assert (Tensor([True]) + 1).dtype is dtypes.int32 and (2 ** Tensor([1.0])).item() == 2
    assert (np.float32(2) * Tensor([3.0])).tolist() == [6] and (Tensor([3.0]) + np.array([1, 2])).tolist() == [4, 5]


def test_repr_computes_nothing() -> None:
    t = Tensor([1.0, 2.0]) + 1
    assert repr(t) == "Tensor(<(2,) not computed yet>)"
    assert repr(t.realize()) == "Tensor([2., 3.])"
    assert repr(Tensor([1], dtype=dtypes.int8, requires_grad=False)) == "Tensor([1], dtype=int8)"
    assert repr(Tensor([1.0], requires_grad=True)) == "Tensor([1.], requires_grad=True)"


def test_equal_expressions_are_computed_once() -> None:
    x = Tensor([1.0, 2.0])
    a, b = x + 1, x + 1
    a.realize()
    assert b._buffer() is a._buffer()


def test_assignment_is_functional_underneath(device: str) -> None:
    """Values taken before an assignment never see it, in whatever order things are computed."""
    t = Tensor([1.0, 2.0, 3.0], device=device)
    memory = t._buffer()
    lazy, view, done = t * 10, t.flip(0), (t + 0.5).realize()
    t.assign(t + 1)
    mixed = lazy + t
    assert t.tolist() == [2, 3, 4] and t._buffer() is memory
    assert lazy.tolist() == [10, 20, 30] and view.tolist() == [3, 2, 1] and done.tolist() == [1.5, 2.5, 3.5]
    assert mixed.tolist() == [12, 23, 34]
    t.assign(t.flip(0))         # reads elsewhere than it writes
    assert t.tolist() == [4, 3, 2] and t._buffer() is memory
    for _ in range(3):
        t += 1
    t.assign(t * 2).assign(t - 1)
    assert t.tolist() == [13, 11, 9]


def test_assignments_that_cross() -> None:
    a, b = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])
    old = a + 0
    a.assign(b)
    b.assign(old)
    a.realize(b)
    assert a.tolist() == [3, 4] and b.tolist() == [1, 2]
    c = Tensor([1.0, 2.0])
    d, v = c.clone(), c.detach()            # the same memory, of which one is a view
    c.assign([5.0, 6.0]).realize()
    assert d.tolist() == [1, 2] and c.tolist() == v.tolist() == [5, 6]
    e = Tensor([0.0, 0.0])
    f = (e + 1).sum()
    e.assign(e + f).assign(e * 2 + f)
    assert e.tolist() == [6, 6]


def test_state_made_of_equal_constants_is_not_shared() -> None:
    a, b = (Tensor.zeros(3).contiguous().realize() for _ in range(2))
    a.assign(a + 1).realize(b.assign(b + 2))
    assert a.tolist() == [1, 1, 1] and b.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "key", [1, (slice(None), 2), (slice(0, 3, 2), slice(None, None, -1)), (Ellipsis, slice(1, 3)), (-1, -1)]
)
def test_setitem(key: Any) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    t = Tensor(a)
    value = np.arange(a[key].size, dtype=np.float32).reshape(a[key].shape) + 100
    a[key] = value
    t[key] = Tensor(value)
    np.testing.assert_array_equal(t.numpy(), a)
    t[t > 50] = 0
    a[a > 50] = 0
    np.testing.assert_array_equal(t.numpy(), a)


def test_gradients_accumulate_and_no_grad_blocks() -> None:
    w = Tensor([2.0], requires_grad=True)
    (w * 3).sum().backward()
    (w * w).sum().backward()
    assert w.grad is not None and w.grad.item() == 7 and not w.grad.requires_grad
    with no_grad():
        frozen = w * 5
    assert not frozen.requires_grad
    assert (frozen * w).sum().gradient(w)[0].item() == 10
    assert (w.detach() * w).sum().gradient(w)[0].item() == 2


def test_gradients_pass_through_what_is_computed_already() -> None:
    w = Tensor([1.0, 2.0], requires_grad=True)
    h = (w * 3).realize()
    assert h.tolist() == [3, 6]
    loss = (h * h).sum().realize()
    w.realize()
    loss.backward()
    assert w.grad is not None and w.grad.tolist() == [18, 36]


def test_leaves_that_look_alike_are_apart() -> None:
    a, b = (Tensor.ones(2, requires_grad=True) for _ in range(2))
    (a * 2 + b * 3).sum().backward()
    assert a.grad is not None and b.grad is not None and a.grad.tolist() == [2, 2] and b.grad.tolist() == [3, 3]


def test_random_numbers(device: str) -> None:
    Tensor.manual_seed(42)
    a, b = Tensor.rand(1000, device=device), Tensor.randn(999, device=device)
    Tensor.manual_seed(42)
    again = Tensor.rand(1000, device="CPU")
    np.testing.assert_array_equal(a.numpy(), again.numpy())
    x, y = a.numpy(), b.numpy()
    assert (
        x.min() >= 0 and x.max() < 1 and abs(x.mean() - 0.5) < 0.05 and abs(y.mean()) < 0.15 and abs(y.std() - 1) < 0.1
    )
    assert not np.array_equal(x[:500], x[500:])
    dice = Tensor.randint(1, 7, (600,), device=device).numpy()
    assert set(dice) == {1, 2, 3, 4, 5, 6}


def test_threefry_is_the_published_function() -> None:
    """Random123's known answers for threefry2x32, 20 rounds."""
    for counter, key, want in [((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
                               ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
                               ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0))]:
        k0, k1, c0, c1 = (Tensor([v], dtype=dtypes.uint32) for v in (*key, *counter))
        assert tuple(t.item() for t in threefry(k0, k1, c0, c1)) == want


def test_permutation_and_dropout() -> None:
    Tensor.manual_seed(1)
    assert sorted(Tensor.randperm(50).tolist()) == list(range(50))
    x = Tensor.ones(2000).dropout(0.25)
    kept = x.numpy()
    assert set(np.round(kept, 4)) == {0, np.float32(1.3333)} and abs((kept > 0).mean() - 0.75) < 0.05
    assert Tensor.ones(3).dropout(0.5, training=False).tolist() == [1, 1, 1]


# capture

def test_jit_replays(device: str) -> None:
    calls = []
    state = Tensor([0.0], device=device)
    scale = Tensor([2.0, 3.0], device=device)

    @jit
    def step(x: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        state.assign(state + x.sum())
        return {"y": x * scale + state, "twice": state * 2}

    results = [step(Tensor([float(n), 1.0], device=device)) for n in range(6)]
    assert len(calls) == 2
    total = 0.0
    for n, r in enumerate(results):       # outputs of earlier calls are not overwritten by later ones
        total += n + 1
        assert r["y"].tolist() == [n * 2 + total, 3 + total] and r["twice"].tolist() == [2 * total]
    assert state.tolist() == [total]
    before = state + 0          # lazy, and about to be overwritten
    step(Tensor([0.0, 0.0], device=device))
    assert before.tolist() == [total] and state.tolist() == [total]


def test_jit_draws_new_numbers_and_tells_shapes_apart() -> None:
    Tensor.manual_seed(3)

    @jit
    def noise(x: Tensor) -> Tensor:
        return x + Tensor.rand(*x.shape)

    seen = [tuple(noise(Tensor([0.0] * n)).tolist()) for n in (4, 4, 4, 4, 2, 2, 2)]
    assert len(set(seen)) == 7 and len(noise.captured) == 2


def test_jit_refuses_what_it_cannot_do() -> None:
    nothing: Callable[[Tensor], Tensor] = jit(lambda x: x)
    x = Tensor([1.0])
    nothing(x)
    with pytest.raises(JitError, match="ran no kernel"):
        nothing(x)
    add = jit(lambda a, b: a + b)
    add(x, x)
    with pytest.raises(JitError, match=r"the same tensor is given to a jitted function twice"):
        add(x, x)


# layers and optimizers

def test_state_dict_round_trip() -> None:
    a, b = (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)) for _ in range(2))
    assert list(a.state_dict()) == ["0.weight", "0.bias", "2.weight"] and len(a.parameters()) == 3
    b.load_state_dict(a.state_dict())
    x = Tensor([[1.0, 2.0, 3.0]])
    assert a(x).tolist() == b(x).tolist()
    with pytest.raises(KeyError, match=r"state and module differ in 0\.bias"):
        b.load_state_dict({k: v for k, v in a.state_dict().items() if "bias" not in k})
    with pytest.raises(ValueError, match=r"2\.weight: the state has shape \(2, 5\), the module \(2, 4\)"):
        b.load_state_dict(a.state_dict() | {"2.weight": np.zeros((2, 5))})


def test_modules() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 3), nn.Tanh()
    )
    x = Tensor(np.ones((2, 2, 2), np.float32))
    model.eval()
    assert model(x).tolist() == model(x).tolist() and model(x).shape == (2, 3)
    model.train()
    assert model(x).tolist() != model(x).tolist()
    table = nn.Embedding(10, 4)
    assert table(Tensor([[1, 2], [9, 0]])).shape == (2, 2, 4)
    for loss in (nn.MSELoss(), nn.L1Loss(), nn.BCEWithLogitsLoss()):
        assert loss(Tensor([1.0, 2.0]), Tensor([0.0, 1.0])).item() > 0
    assert nn.CrossEntropyLoss()(Tensor([[0.0, 0.0]]), Tensor([1])).item() == pytest.approx(math.log(2))


def _reference(kind: str, g: Callable[[np.ndarray], np.ndarray], p: np.ndarray, steps: int) -> np.ndarray:
    v, m = np.zeros_like(p), np.zeros_like(p)
    for t in range(1, steps + 1):
        grad = g(p)
        if kind == "sgd":
            p = p - 0.1 * grad
        elif kind in ("momentum", "nesterov"):
            v = 0.9 * v + grad
            p = p - 0.1 * (grad + 0.9 * v if kind == "nesterov" else v)
        elif kind == "decay":
            p = p - 0.1 * (grad + 0.01 * p)
        else:
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad * grad
            step = (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
            p = p - 0.1 * (step + (0.01 * p if kind == "adamw" else 0))
    return p


OPTIMIZERS: dict[str, Callable[[list[Tensor]], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, 0.1), "momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9),
    "nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "decay": lambda p: optim.SGD(p, 0.1, weight_decay=0.01), "adam": lambda p: optim.Adam(p, 0.1),
    "adamw": lambda p: optim.AdamW(p, 0.1, weight_decay=0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("captured", [False, True])
def test_optimizers(kind: str, captured: bool) -> None:
    start = np.array([1.0, -2.0, 3.0])
    p = Tensor(start, requires_grad=True)
    opt = OPTIMIZERS[kind]([p])

    def step() -> Tensor:
        opt.zero_grad()
        loss = (p * p * p).sum()
        loss.backward()
        opt.step()
        return loss

    run = jit(step) if captured else step
    losses = [run().item() for _ in range(4)]
    want = _reference(kind, lambda x: 3 * x * x, start, 4)
    np.testing.assert_allclose(p.numpy(), want, rtol=2e-6)
    assert losses[0] == pytest.approx(20) and losses[3] == pytest.approx(
        (_reference(kind, lambda x: 3 * x * x, start, 3) ** 3).sum()
    )


def test_a_step_needs_few_kernels() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    opt = optim.SGD(model.parameters(), 0.1, momentum=0.9)

    @jit
    def step(x: Tensor, y: Tensor) -> Tensor:
        opt.zero_grad()
        loss = model(x).cross_entropy(y)
        loss.backward()
        opt.step()
        return loss

    for n in range(3):
        step(Tensor(np.ones((5, 8), np.float32) * n), Tensor([0, 1, 2, 3, 0]))
    (recording,) = step.captured.values()
    assert len(recording.steps) <= 12 and {len(s.writes) for s in recording.steps} == {
        1,
        3,
    }  # gradient, velocity, parameter


def test_memory_is_given_back() -> None:
    gc.collect()
    before = pool("CPU").used
    for _ in range(5):
        x = Tensor.rand(1000)
        y = (x @ x.reshape(1000, 1)).exp().sum()
        y.item()
    del x, y
    gc.collect()
    assert pool("CPU").used <= before + (64 << 10)


def test_long_chains() -> None:
    t = Tensor([0.0])
    for _ in range(3000):
        t = t + 1
    assert t.item() == 3000


# errors

@pytest.mark.parametrize(
    "wrong,error,message",
    [
        (
            lambda: Tensor([1.0, 2.0]) + Tensor([1.0, 2.0, 3.0]),
            ValueError,
            r"shapes \(2,\), \(3,\) do not broadcast: \[2, 3\] in one axis",
        ),
        (lambda: Tensor.zeros(2, 3) @ Tensor.zeros(2, 3), ValueError, r"3 columns do not meet 2 rows"),
        (lambda: Tensor.zeros(6).reshape(4), ValueError, r"cannot reshape \(6,\) \(6 elements\) to \(4,\) \(4\)"),
        (lambda: Tensor.zeros(6).reshape(4, -1), ValueError, r"6 is no multiple of 4"),
        (lambda: Tensor.zeros(2, 3).permute(0, 0), ValueError, r"does not name each of 2 axes once"),
        (lambda: Tensor.zeros(2, 3).expand(2, 4), ValueError, r"only axes of size 1 grow"),
        (lambda: Tensor.zeros(2)[3], IndexError, r"index 3 is out of range for an axis of 2 elements"),
        (lambda: Tensor.zeros(2)[0, 0], IndexError, r"2 indices for a tensor of 1 axes"),
        (lambda: list(Tensor(1.0)), TypeError, r"a tensor without axes is not iterated over"),
    (lambda: Tensor.zeros(2)["a"], IndexError, r"a tensor is not indexed by str"),
        (lambda: Tensor.zeros(2).sum(1), IndexError, r"axis 1 is out of range for a tensor of 1 axes"),
        (lambda: Tensor.zeros(2)[Tensor([0.5])], TypeError, r"an index tensor holds integers, not float32"),
        (lambda: Tensor.zeros(2) & 1, TypeError, r"& needs integers or bools, not float32"),
        (lambda: Tensor.zeros(2).item(), ValueError, r"item\(\) needs a tensor of one element, this one is \(2,\)"),
        (lambda: Tensor([[1, 2], [3]]), TypeError, r"lists of equal length, not \[\[1, 2\], \[3\]\]"),
        (lambda: Tensor(["a"]), TypeError, r"a tensor needs numbers in lists of equal length"),
        (
            lambda: Tensor([1], requires_grad=True),
            RuntimeError,
            r"only floating-point tensors have gradients, not int32",
        ),
        (lambda: Tensor([1.0]).backward(), RuntimeError, r"depends on nothing with requires_grad=True"),
        (
            lambda: (Tensor([1.0, 2.0], requires_grad=True) * 1).backward(),
            RuntimeError,
            r"only a single number starts from 1",
        ),
        (lambda: Tensor([1.0], requires_grad=True).assign([2.0]), RuntimeError, r"assigned to outside of no_grad\(\)"),
        (
            lambda: Tensor([1.0], device="CPU:3"),
            ValueError,
            r"device 'CPU:3': use 'CPU', or a name that hcq.open knows",
        ),
        (lambda: Tensor([1.0]).cross_entropy(Tensor([0])), IndexError, r"axis 1 is out of range"),
        (
            lambda: Tensor.zeros(2, 3).cross_entropy(Tensor([0])),
            ValueError,
            r"targets of shape \(1,\) for values of shape \(2, 3\)",
        ),
        (lambda: Tensor.zeros(2).dropout(1.5), ValueError, r"dropout's p is a probability, not 1.5"),
        (lambda: Tensor([2]) ** -1, ValueError, r"integers to negative integer powers"),
        (
            lambda: Tensor.zeros(2).mse_loss(Tensor.zeros(2), "max"),
            ValueError,
            r"reduction is 'mean', 'sum' or 'none', not 'max'",
        ),
        (lambda: Tensor.arange(0, 5, 0), ValueError, r"the step is 0"),
        (lambda: optim.SGD([]), ValueError, r"an optimizer needs parameters"),
        (
            lambda: optim.SGD([Tensor([1.0], requires_grad=True)], lr=-1),
            ValueError,
            r"a learning rate is not negative: -1",
        ),
        (lambda: Tensor([1]).bitcast(dtypes.float64), TypeError, r"cannot see int32 as float64: the sizes differ"),
        (lambda: Tensor.zeros(2) + "a", TypeError, r"cannot combine a tensor with str"),
    ],
)
def test_errors(wrong: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def test_devices(device: str) -> None:
    assert canonical("am:0") == "AM" and canonical("am:2") == "AM:2" and canonical("cpu") == "CPU"
    a = Tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    b = a.T.to("CPU")
    assert b.device == "CPU" and b.tolist() == [[1, 3], [2, 4]]
    c = (b + 1).to(device)
    assert c.device == device and (c + a).tolist() == [[3, 6], [6, 9]]
    w = Tensor([1.0, 2.0], requires_grad=True)
    (w.to(device) * 3).sum().to("CPU").backward()
    assert w.grad is not None and w.grad.device == "CPU" and w.grad.tolist() == [3, 3]
    if device != "CPU":
        with pytest.raises(RuntimeError, match=r"are on different devices \((AM, CPU|CPU, KFD)\); move one with .to"):
            _ = a + b


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, compiler, compiler.tensor, compiler.nn, compiler.optim, compiler.capture, compiler.runtime.cpu, "
        "compiler.runtime.hcq; assert not {'llvmlite', 'hcq', 'amdrv', 'mock'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_leaf_may_stop_being_one() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    x.requires_grad_(False)
    assert not x.requires_grad and x.is_leaf
    x.requires_grad_()
    (x * x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 4.0]
