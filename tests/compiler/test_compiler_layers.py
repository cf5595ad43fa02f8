"""Layers against PyTorch's layers of the same names and parameters, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler import Tensor, nn

torch = pytest.importorskip("torch")
RNG = np.random.RandomState(2)

# name: (arguments, keywords, shape of the input)
LAYERS: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = {
    "Linear": ((5, 3), {}, (4, 5)),
    "Conv1d": ((4, 6, 3), {"padding": 1, "groups": 2}, (2, 4, 9)),
    "Conv2d": ((4, 6, (3, 2)), {"stride": 2, "padding": 1, "padding_mode": "reflect"}, (2, 4, 6, 5)),
    "Conv3d": ((2, 3, 2), {}, (1, 2, 3, 4, 3)),
    "ConvTranspose1d": ((4, 2, 3), {"stride": 2, "output_padding": 1}, (2, 4, 5)),
    "ConvTranspose2d": ((4, 2, 3), {"stride": 2, "padding": 1}, (2, 4, 5, 4)),
    "ConvTranspose3d": ((2, 2, 2), {}, (1, 2, 3, 2, 2)),
    "BatchNorm1d": ((4,), {}, (6, 4)),
    "BatchNorm2d": ((4,), {"momentum": 0.3}, (2, 4, 3, 3)),
    "BatchNorm3d": ((2,), {"affine": False}, (2, 2, 2, 3, 2)),
    "GroupNorm": ((2, 4), {}, (2, 4, 3)),
    "InstanceNorm1d": ((4,), {}, (2, 4, 5)),
    "InstanceNorm2d": ((4,), {"affine": True}, (2, 4, 5, 3)),
    "LayerNorm": (((3, 5),), {}, (2, 3, 5)),
    "RMSNorm": ((5,), {"eps": 1e-5}, (2, 5)),
    "PReLU": ((4,), {}, (2, 4, 3)),
    "MaxPool2d": ((2,), {}, (2, 4, 6, 6)),
    "AvgPool2d": ((3,), {"stride": 2, "padding": 1}, (2, 4, 6, 6)),
    "AdaptiveAvgPool2d": (((2, 3),), {}, (2, 4, 5, 6)),
    "Upsample": ((), {"scale_factor": 2, "mode": "bilinear"}, (1, 2, 3, 4)),
    "Unflatten": ((1, (2, 3)), {}, (2, 6)),
    "RNN": ((3, 4), {"num_layers": 2}, (5, 2, 3)),
    "GRU": ((3, 4), {"batch_first": True}, (2, 5, 3)),
    "LSTM": ((3, 4), {"num_layers": 2, "bidirectional": True}, (3, 2, 3)),
    **{name: ((), {}, (3, 4)) for name in (
        "Hardsigmoid", "Hardswish", "LogSigmoid", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softsign",
        "Tanh", "Tanhshrink", "ELU", "CELU", "LeakyReLU", "Softplus", "Hardtanh", "Hardshrink", "Softshrink", "GELU",
        "Identity", "Flatten")},
    **{name: ((-1,), {}, (3, 4)) for name in ("Softmax", "LogSoftmax", "Softmin", "GLU")},
    "Threshold": ((0.1, 3.0), {}, (3, 4)),
}


def first(x: Any) -> Any:
    return x[0] if isinstance(x, tuple) else x


PLAIN = {n for n, (args, kwargs, shape) in LAYERS.items() if shape == (3, 4) or n[-2:] in ("1d", "3d")}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in PLAIN else ()) for n in LAYERS])
def test_layer(name: str) -> None:
    args, kwargs, shape = LAYERS[name]
    torch.manual_seed(1)
    theirs, mine = getattr(torch.nn, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
    state = {k: v.numpy() for k, v in theirs.state_dict().items() if k != "num_batches_tracked"}
    mine.load_state_dict(state)
    a = RNG.uniform(-2, 2, shape).astype(np.float32)
    x, y = Tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    for mode in (True, False):
        theirs.train(mode)
        got, want = first(mine.train(mode)(x)), first(theirs(y))
        np.testing.assert_allclose(got.numpy(), want.detach().numpy(), rtol=3e-5, atol=3e-6)
    for k, v in theirs.state_dict().items():
        if k != "num_batches_tracked":
            np.testing.assert_allclose(mine.state_dict()[k].numpy(), v.numpy(), rtol=1e-5, atol=1e-6, err_msg=k)
    (got * got).sum().backward()
    (want * want).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=2e-4, atol=2e-5)
    for k, p in theirs.named_parameters():
        np.testing.assert_allclose(mine.state_dict()[k].grad.numpy(), p.grad.numpy(), rtol=3e-4, atol=3e-5, err_msg=k)


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    theirs, mine = torch.nn.MultiheadAttention(8, 2, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    a = RNG.uniform(-1, 1, (2, 5, 8)).astype(np.float32)
    x, y = Tensor(a), torch.tensor(a)
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None
    want = theirs(y, y, y, attn_mask=hidden, need_weights=False)[0]
    mask = None if hidden is None else Tensor(hidden.numpy())
    np.testing.assert_allclose(mine(x, x, x, attn_mask=mask).numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)
    if causal:
        np.testing.assert_allclose(mine(x, x, x, is_causal=True).numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name,kwargs", [
    ("MSELoss", {}), ("L1Loss", {}), ("SmoothL1Loss", {"beta": 0.5}), ("HuberLoss", {"delta": 0.5}),
    ("BCEWithLogitsLoss", {}), ("KLDivLoss", {"log_target": True}), ("CrossEntropyLoss", {"label_smoothing": 0.1})])
def test_losses(name: str, kwargs: dict[str, Any]) -> None:
    a, b = RNG.uniform(0, 1, (2, 3, 4)).astype(np.float32)
    for reduction in ("mean", "sum"):
        got = getattr(nn, name)(reduction=reduction, **kwargs)(Tensor(a), Tensor(b))
        want = getattr(torch.nn, name)(reduction=reduction, **kwargs)(torch.tensor(a), torch.tensor(b))
        # 24 terms of at most about 3, of both signs: what they leave may be much smaller than their rounding.
        rounding = 3 * 2 ** -24 * (a.size if reduction == "sum" else 1)
        np.testing.assert_allclose(got.item(), want.item(), rtol=1e-5, atol=rounding)
