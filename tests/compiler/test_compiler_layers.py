"""Layers against PyTorch's layers of the same names and parameters, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler import Tensor, jit, nn, optim

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
    "Dropout1d": ((0.0,), {}, (2, 3, 4)),
    "LPPool2d": ((2, 2), {}, (2, 4, 6, 6)),
    "PixelShuffle": ((2,), {}, (2, 8, 3, 4)),
    "PixelUnshuffle": ((2,), {}, (2, 2, 6, 4)),
    "Softmax2d": ((), {}, (2, 3, 4, 2)),
    "LocalResponseNorm": ((3,), {}, (2, 4, 3, 2)),
    "Unfold": (((2, 3),), {"padding": 1}, (2, 3, 4, 5)),
    "Fold": (((4, 5), (2, 2)), {}, (2, 12, 12)),
    "ZeroPad2d": (((1, 2, 0, 1),), {}, (1, 2, 3, 4)),
    "ConstantPad1d": ((2, 0.5), {}, (2, 3, 4)),
    "ReflectionPad2d": ((1,), {}, (1, 2, 3, 4)),
    "ReplicationPad3d": ((1,), {}, (1, 2, 3, 2, 2)),
    "CircularPad2d": (((1, 2, 2, 1),), {}, (1, 2, 3, 4)),
    "RNNCell": ((3, 4), {}, (2, 3)),
    "GRUCell": ((3, 4), {"bias": False}, (2, 3)),
    "LSTMCell": ((3, 4), {}, (2, 3)),
    "TransformerEncoderLayer": ((8, 2), {"dim_feedforward": 16, "dropout": 0.0, "activation": "gelu",
                                         "batch_first": True}, (2, 5, 8)),
}


def first(x: Any) -> Any:
    return x[0] if isinstance(x, tuple) else x


PLAIN = {n for n, (args, kwargs, shape) in LAYERS.items() if shape == (3, 4) or n[-2:] in ("1d", "3d")}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in PLAIN else ()) for n in LAYERS])
def test_layer(name: str) -> None:
    args, kwargs, shape = LAYERS[name]
    torch.manual_seed(1)
    theirs, mine = getattr(torch.nn, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
    state = {k: v.numpy() for k, v in theirs.state_dict().items() }
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
    """Output and weights, with hidden places and hidden keys; batched and not."""
    theirs, mine = torch.nn.MultiheadAttention(8, 2, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)
    mine.load_state_dict(theirs.state_dict())
    a = RNG.uniform(-1, 1, (2, 5, 8)).astype(np.float32)
    x, y = Tensor(a), torch.tensor(a)
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None
    keys = torch.tensor([[False] * 5, [False, False, False, True, True]])
    want, weights = theirs(y, y, y, attn_mask=hidden, key_padding_mask=keys)
    mask = None if hidden is None else Tensor(hidden.numpy())
    got, shares = mine(x, x, x, attn_mask=mask, key_padding_mask=Tensor(keys.numpy()))
    np.testing.assert_allclose(got.numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shares.numpy(), weights.detach().numpy(), rtol=1e-5, atol=1e-6)
    if causal:
        want = theirs(y[0], y[0], y[0], attn_mask=hidden, average_attn_weights=False)
        got = mine(x[0], x[0], x[0], is_causal=True, average_attn_weights=False)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one.numpy(), other.detach().numpy(), rtol=1e-5, atol=1e-6)
        assert mine(x, x, x, need_weights=False)[1] is None


def test_attention_to_other_features() -> None:
    theirs = torch.nn.MultiheadAttention(8, 2, kdim=6, vdim=3)
    mine = nn.MultiheadAttention(8, 2, kdim=6, vdim=3)
    mine.load_state_dict(theirs.state_dict())
    q, k, v = (RNG.uniform(-1, 1, (5, 2, n)).astype(np.float32) for n in (8, 6, 3))
    np.testing.assert_allclose(mine(*map(Tensor, (q, k, v)))[0].numpy(),
                               theirs(*map(torch.tensor, (q, k, v)))[0].detach().numpy(), rtol=1e-5, atol=1e-6)


def test_transformer() -> None:
    """An encoder and a decoder of two layers, names and values; norms first in one of them."""
    options: dict[str, Any] = {"dim_feedforward": 16, "dropout": 0.0}
    pair = []
    for m in (torch.nn, nn):
        encoder = m.TransformerEncoder(m.TransformerEncoderLayer(8, 2, norm_first=True, **options), 2,
                                       **({"enable_nested_tensor": False} if m is torch.nn else {}))
        pair.append((encoder, m.TransformerDecoder(m.TransformerDecoderLayer(8, 2, **options), 2, m.LayerNorm(8))))
    for theirs, mine in zip(*pair, strict=True):
        assert {k: tuple(v.shape) for k, v in theirs.state_dict().items()} \
            == {k: v.shape for k, v in mine.state_dict().items()}
        mine.load_state_dict(theirs.state_dict())
    a, b = (RNG.uniform(-1, 1, (n, 2, 8)).astype(np.float32) for n in (5, 4))
    hidden = torch.triu(torch.full((4, 4), -torch.inf), 1)
    want = pair[0][1](torch.tensor(b), pair[0][0](torch.tensor(a)), tgt_mask=hidden)
    got = pair[1][1](Tensor(b), pair[1][0](Tensor(a)), tgt_mask=Tensor(hidden.numpy()))
    np.testing.assert_allclose(got.numpy(), want.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_names_of_states_are_torchs() -> None:
    """Of every layer that both have and that can be made alike; a model of them saved by PyTorch loads."""
    known = LAYERS | {"Embedding": ((5, 3), {"padding_idx": 1}, ()), "Bilinear": ((2, 3, 4), {}, ()),
                      "MultiheadAttention": ((8, 2), {"bias": False}, ()), "LayerNorm": ((4,), {"bias": False}, ())}
    for name, (args, kwargs, _) in known.items():
        theirs, mine = getattr(torch.nn, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
        assert {k: tuple(v.shape) for k, v in theirs.state_dict().items()} \
            == {k: v.shape for k, v in mine.state_dict().items()}, name
    theirs, mine = (
        m.Sequential(m.Conv2d(1, 2, 3), m.BatchNorm2d(2), m.ModuleList([m.Linear(2, 2), m.Linear(2, 2)]),
                     m.ModuleDict({"a": m.Linear(1, 1)}), m.Sequential(m.Linear(2, 3))) for m in (torch.nn, nn))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in mine.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert [n for n, _ in mine.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    mine.load_state_dict(theirs.state_dict())
    assert mine[3]["a"].weight.item() == theirs[3]["a"].weight.item()


class Tied(nn.Module):
    def __init__(self) -> None:
        self.wte = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.wte.weight
        self.register_buffer("mask", Tensor.ones(2, 2), persistent=False)


def test_modules() -> None:
    model = Tied()
    assert list(model.state_dict()) == ["wte.weight", "head.weight"] and len(model.parameters()) == 1
    assert [n for n, _ in model.named_buffers()] == ["mask"]
    assert [n for n, _ in model.named_children()] == ["wte", "head"]
    left = model.load_state_dict({"wte.weight": np.ones((3, 2)), "more": np.ones(1)}, strict=False)
    assert left == (["head.weight"], ["more"]) and model.head.weight.numpy().sum() == 6
    with pytest.raises(KeyError, match=r"differ in head\.weight, more: 1 missing from the state, 1 unknown"):
        model.load_state_dict({"wte.weight": np.ones((3, 2)), "more": np.ones(1)})
    assert model.half().wte.weight.dtype.name == "float16" and model.mask.dtype.name == "float16"
    seen: list[str] = []
    model.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Embedding", "Linear", "Tied"] and model.get_submodule("head") is model.head
    with pytest.raises(AttributeError, match="no module 'tail'"):
        model.get_submodule("tail")
    assert "(head): Linear(weight=[3, 2])" in repr(model)
    model.requires_grad_(False)
    assert not model.parameters() and len(model.requires_grad_().parameters()) == 1


def test_padding_rows_are_not_trained() -> None:
    theirs, mine = torch.nn.Embedding(4, 3, padding_idx=1), nn.Embedding(4, 3, padding_idx=1)
    assert not mine.weight.numpy()[1].any()
    mine.load_state_dict(theirs.state_dict())
    (mine(Tensor([0, 1, 2, 1])) * 3).sum().backward()
    (theirs(torch.tensor([0, 1, 2, 1])) * 3).sum().backward()
    assert mine.weight.grad is not None
    np.testing.assert_array_equal(mine.weight.grad.numpy(), theirs.weight.grad.numpy())


def test_running_statistics_of_all_batches_alike() -> None:
    """And under jit, where nothing but the statistics and the loss is wanted."""
    theirs, mine = (m.BatchNorm1d(3, momentum=None) for m in (torch.nn, nn))
    optimizer = optim.SGD(mine.parameters(), lr=0.0)

    @jit
    def step(x: Tensor) -> Tensor:
        loss = mine(x).sum()
        loss.backward()
        optimizer.step()
        return loss
    for _ in range(4):
        a = RNG.uniform(-1, 1, (5, 3)).astype(np.float32)
        theirs(torch.tensor(a))
        step(Tensor(a))
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


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
