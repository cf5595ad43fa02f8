"""Bags of embeddings, layers that find out what comes in, parameters in lists, a whole transformer: PyTorch's, with
their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler import Tensor, nn

torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed: pip install torch")


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def twin(layer: Any, other: Any) -> None:
    """Let ours have their state."""
    layer.load_state_dict({name: value.detach().numpy() for name, value in other.state_dict().items()})


def same(ours: Tensor, theirs: Any) -> None:
    assert np.allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


NUMBERS = np.random.default_rng(7).integers(0, 9, 12)


@pytest.mark.parametrize("padding", [None, 4])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("form", ["rows", "offsets", "last", "empty"])
def test_bags_of_embeddings(form: str, mode: str, padding: int | None) -> None:
    last = form == "last"
    ours = nn.EmbeddingBag(9, 5, mode=mode, include_last_offset=last, padding_idx=padding)
    theirs = torch.nn.EmbeddingBag(9, 5, mode=mode, include_last_offset=last, padding_idx=padding)
    twin(ours, theirs)
    given = (NUMBERS.reshape(3, 4),) if form == "rows" else (
        NUMBERS, np.array({"offsets": [0, 3, 4], "last": [0, 5, 12], "empty": [0, 0, 7, 12]}[form]))
    found, wanted = ours(*map(Tensor, given)), theirs(*map(torch.from_numpy, given))
    same(found, wanted)
    weights = values(3, *wanted.shape)
    (found * Tensor(weights)).sum().backward()
    (wanted * torch.from_numpy(weights)).sum().backward()
    assert ours.weight.grad is not None
    same(ours.weight.grad, theirs.weight.grad)


def test_weights_of_samples() -> None:
    ours, theirs = nn.EmbeddingBag(9, 5, mode="sum"), torch.nn.EmbeddingBag(9, 5, mode="sum")
    twin(ours, theirs)
    numbers, share = NUMBERS.reshape(3, 4), values(1, 3, 4)
    same(ours(Tensor(numbers), per_sample_weights=Tensor(share)),
         theirs(torch.from_numpy(numbers), per_sample_weights=torch.from_numpy(share)))


@pytest.mark.parametrize(("shape", "more", "said"), [
    ((3, 4), {"offsets": Tensor([0])}, "with offsets"), ((4,), {}, "with offsets"), ((2, 2, 2), {}, "shape \\(2, 2, 2"),
    ((3, 4), {"mode": "most"}, "none of sum, mean, max"),
    ((3, 4), {"mode": "mean", "per_sample_weights": Tensor([1.0])}, "for mode sum")], ids=range(5))
def test_bags_that_cannot_be(shape: tuple[int, ...], more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nn.functional.embedding_bag(Tensor.zeros(*shape, dtype="int64"), Tensor.zeros(9, 5), **more)


@pytest.mark.parametrize(("name", "arguments", "shape"), [
    ("Linear", (4,), (2, 3, 6)), ("Conv1d", (4, 3), (2, 6, 9)), ("Conv2d", (4, 3), (2, 6, 7, 7)),
    ("Conv2d", (4, (3, 2)), (6, 7, 7)), ("Conv3d", (2, 2), (1, 3, 4, 4, 4)), ("ConvTranspose1d", (4, 3), (2, 6, 9)),
    ("ConvTranspose2d", (4, 3, 2), (2, 6, 5, 5)), ("ConvTranspose3d", (2, 2), (1, 3, 3, 3, 3)),
    ("BatchNorm1d", (), (4, 6)), ("BatchNorm2d", (), (2, 6, 3, 3)), ("BatchNorm3d", (), (2, 3, 2, 2, 2)),
    ("InstanceNorm1d", (), (2, 3, 8)), ("InstanceNorm2d", (), (2, 3, 4, 4)), ("InstanceNorm3d", (), (1, 3, 2, 2, 2))])
def test_layers_that_find_out_what_comes_in(name: str, arguments: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    model = nn.Sequential(getattr(nn, f"Lazy{name}")(*arguments), nn.ReLU())
    for ask in (model.parameters, model.state_dict):
        with pytest.raises(ValueError, match=f"Lazy{name} '0' has no parameters yet"):
            ask()
    x = values(0, *shape)
    model(Tensor(x))
    layer = model[0]
    assert type(layer) is getattr(nn, name)
    theirs = getattr(torch.nn, f"Lazy{name}")(*arguments)
    theirs(torch.from_numpy(x))
    if "Instance" in name:          # theirs has parameters that its arguments did not ask for
        theirs = getattr(torch.nn, name)(shape[1])
    fresh = getattr(nn, f"Lazy{name}")(*arguments)
    fresh(Tensor(x))
    assert {k: tuple(v.shape) for k, v in fresh.state_dict().items()} == \
        {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    twin(fresh, theirs)
    same(fresh.eval()(Tensor(x)), theirs.eval()(torch.from_numpy(x)))


def test_a_lazy_layer_in_a_training_step() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1, bias=False)).train()
    model(Tensor(values(0, 4, 3)))
    assert [tuple(p.shape) for p in model.parameters()] == [(8, 3), (8,), (1, 8)]


def test_parameters_in_lists_and_by_name() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            self.some = nn.ParameterList([Tensor(values(0, 2)), nn.Parameter(values(1, 3))])
            self.named = nn.ParameterDict({"a": Tensor(values(2, 2))})

    class Theirs(torch.nn.Module):     # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.some = torch.nn.ParameterList([torch.tensor(values(0, 2)), torch.tensor(values(1, 3))])
            self.named = torch.nn.ParameterDict({"a": torch.tensor(values(2, 2))})

    ours, theirs = Mine(), Theirs()
    for model, tensor in ((ours, Tensor), (theirs, torch.tensor)):
        model.some.append(tensor(values(3, 1)))
        model.some.extend([tensor(values(4, 1))])
        model.some[0] = tensor(values(5, 2))
        model.named["b"] = tensor(values(6, 1))
        model.named.update({"c": tensor(values(7, 1))})
    wanted = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    found = ours.state_dict()
    assert list(found) == list(wanted) and all(np.array_equal(found[n].numpy(), wanted[n]) for n in wanted)
    assert len(ours.parameters()) == len(list(theirs.parameters())) == 7
    assert isinstance(ours.some[:2], nn.ParameterList) and len(ours.some[:2]) == 2
    ours.some.insert(0, Tensor(values(8, 1)))
    assert len(ours.some) == 5 and ours.some[0].requires_grad


@pytest.mark.parametrize("how", [{}, {"batch_first": True, "norm_first": True, "activation": "gelu"}],
                         ids=["old", "new"])
def test_a_whole_transformer(how: dict[str, Any]) -> None:
    arguments = {"d_model": 8, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 1, "dim_feedforward": 12,
                 "dropout": 0.0} | how
    ours, theirs = nn.Transformer(**arguments), torch.nn.Transformer(**arguments)
    assert list(ours.state_dict()) and ours.state_dict().keys() == theirs.state_dict().keys()
    twin(ours, theirs)
    src, tgt = values(0, 5, 5, 8), values(1, 5, 5, 8)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    same(nn.Transformer.generate_square_subsequent_mask(5), mask)
    same(ours(Tensor(src), Tensor(tgt), tgt_mask=nn.Transformer.generate_square_subsequent_mask(5)),
         theirs(torch.from_numpy(src), torch.from_numpy(tgt), tgt_mask=mask))


def test_losses_and_distances() -> None:
    x, y = values(0, 4, 5), values(1, 4, 5)
    same(nn.PairwiseDistance(1.0, keepdim=True)(Tensor(x), Tensor(y)),
         torch.nn.PairwiseDistance(1.0, keepdim=True)(torch.from_numpy(x), torch.from_numpy(y)))
    classes = np.array([[1, 0, -1, -1, -1], [2, -1, 0, 0, 0], [0, 1, 2, 3, 4], [-1, 0, 0, 0, 0]])
    same(nn.MultiLabelMarginLoss(reduction="sum")(Tensor(x), Tensor(classes)),
         torch.nn.MultiLabelMarginLoss(reduction="sum")(torch.from_numpy(x), torch.from_numpy(classes)))
    image = values(2, 2, 6, 3, 3)
    same(nn.ChannelShuffle(3)(Tensor(image)), torch.nn.ChannelShuffle(3)(torch.from_numpy(image)))
    logs = torch.log_softmax(torch.from_numpy(values(3, 7, 2, 4)), 2)
    targets, many, long = np.array([[1, 2, 2], [3, 1, 0]]), np.array([7, 6]), np.array([3, 2])
    same(nn.CTCLoss(zero_infinity=True)(Tensor(logs.numpy()), Tensor(targets), Tensor(many), Tensor(long)),
         torch.nn.CTCLoss(zero_infinity=True)(logs, *map(torch.from_numpy, (targets, many, long))))
