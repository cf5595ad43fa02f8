"""Rarer functions against PyTorch's, forward and backward; other spellings against the usual ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from against_torch import F, cases, compare

from compiler import Tensor, dtypes

RNG = np.random.RandomState(9)
GRID = Tensor(RNG.uniform(-1.4, 1.4, (2, 3, 5, 2)).astype(np.float32))
PLANES, SPACE = (Tensor(RNG.randn(*s).astype(np.float32)) for s in ((2, 2, 3), (2, 3, 4)))
CLASSES, CHANNELS = (Tensor(np.array(a)) for a in ([[0, 3, -1, 2, 1]] * 4, [0, 2, 0, 3]))
WORDS = Tensor(np.array([[1, 1], [3, 2]]))


def ctc(reduction: str, lengths: Any, counts: Any) -> Callable[[Any], Any]:
    def loss(x: Any) -> Any:
        return F.ctc_loss(x.permute(2, 0, 1).log_softmax(2),
                          WORDS, Tensor(np.array(lengths)), Tensor(np.array(counts)), reduction=reduction)
    return loss


TABLE: list[tuple[Any, ...]] = [
    *((f"sample-{mode}-{padding}-{corners}",
       lambda x, m=mode, p=padding, c=corners: F.grid_sample(x, GRID, mode=m, padding_mode=p, align_corners=c), "q")
      for mode in ("bilinear", "nearest") for padding in ("zeros", "border", "reflection")
      for corners in (False, True)),
    ("shuffle", lambda x: F.pixel_shuffle(x, 2), "q"), ("unshuffle", lambda x: F.pixel_unshuffle(x, 3), "q"),
    ("channels", lambda x: F.channel_shuffle(x, 2), "q"), ("upsample", lambda x: F.upsample(x, scale_factor=2), "q"),
    ("pdist", F.pdist, "m"), ("frexp", lambda x: x.frexp()[0] * 1, "v"), ("frexp", lambda x: x.frexp()[1], "vn"),
    ("trapezoid", lambda x: F.trapezoid(x, dim=0), "m"), ("trapz", lambda x: F.trapezoid(x, dx=0.5), "m"),
    ("margin", lambda x: F.multilabel_margin_loss(x, CLASSES), "m"),
    ("margins", lambda x: F.multilabel_margin_loss(x, CLASSES, reduction="none"), "m"),
    ("ctc", ctc("mean", [9, 7], [2, 1]), "1"), ("ctc-each", ctc("none", [9, 5], [2, 0]), "1"),
    ("cross", lambda x: F.cross(x, x * x + 1), "t"), ("rrelu", F.rrelu, "m"),
    ("pinverse", lambda x: x.pinverse(), "m"), ("byte", lambda x: x.abs().byte(), "v"),
    ("char", lambda x: x.char(), "v"),
    ("short", lambda x: x.short(), "v"),
]


@pytest.mark.parametrize("function,letter", cases(TABLE, "m"))
def test_against_torch(function: Callable[[Any], Any], letter: str) -> None:
    compare(function, letter, "CPU", rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["sample-bilinear-zeros-False", "frexp", "margin"])
def test_on_the_card(name: str, am: str) -> None:
    entry = next(e for e in TABLE if e[0] == name)
    compare(entry[1], entry[2][0], am, rtol=2e-4, atol=2e-5)


def test_affine_grids() -> None:
    torch = pytest.importorskip("torch")
    for matrices, size in ((PLANES, (2, 1, 4, 3)), (SPACE, (2, 1, 2, 3, 1))):
        for corners in (False, True):
            got = matrices.affine_grid(size, corners).numpy()
            want = torch.nn.functional.affine_grid(torch.tensor(matrices.numpy()), size, corners).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_other_spellings() -> None:
    x = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert x.sequential([Tensor.exp, lambda t: t + 1]).tolist() == (x.exp() + 1).tolist()
    assert x.softmax(axis=0).tolist() == x.softmax(0).tolist() and x.layernorm().tolist() == x.layer_norm(3).tolist()
    assert x.int().xor(1).tolist() == (x.int() ^ 1).tolist()
    assert (-x.int()).idiv(2).tolist() == [[0, 0, -1], [-1, -2, -2]]
    target = Tensor([[0.0, 1, 1], [1, 0, 1]])
    assert x.sigmoid().binary_crossentropy(target).item() == x.sigmoid().binary_cross_entropy(target).item()
    assert x.binary_crossentropy_logits(target).item() == x.binary_cross_entropy_with_logits(target).item()
    assert x.sparse_categorical_crossentropy(Tensor([2, -1])).item() == x[:1].cross_entropy(Tensor([2])).item()
    assert x.reshape(None, 3, 1).shape == (2, 3, 1) and x.type_as(Tensor([1])).dtype is dtypes.int32
    assert x.nelement() == 6 and x.ndimension() == 2 and x.is_contiguous() and x.storage_offset() == 0
    assert x.get_device() == -1 and not (x.is_cuda or x.is_sparse or x.is_complex()) and x.is_signed()
    assert f"{Tensor(2.5):.2f}" == "2.50" and f"{x}" == repr(x) and round(Tensor(2.7)).item() == 3
    assert complex(Tensor(2)) == 2 + 0j and x.bfloat16().dtype is dtypes.bfloat16
    assert Tensor.scaled_uniform(4, 4).abs().max().item() <= 0.25
    assert [t.tolist() for t in Tensor([1, 1, 2, 2, 2, 1]).unique_consecutive(True, True)] == [
        [1, 2, 1], [0, 0, 1, 1, 1, 2], [2, 3, 1]]
    assert dtypes.fp8e4m3 is dtypes.float8_e4m3 and dtypes.is_unsigned(dtypes.uint8)    # type: ignore[comparison-overlap]
    assert dtypes.min(dtypes.int8) == -128 and dtypes.max(dtypes.uint16) == 65535
    assert pickle.loads(pickle.dumps(x)).tolist() == x.tolist()
    with Tensor.train():
        assert Tensor.training
    assert not Tensor.training


def test_embedding_with_a_row_that_stands_for_nothing() -> None:
    table = Tensor(np.ones((4, 2), np.float32), requires_grad=True)
    Tensor([[0, 1], [3, 3]]).embedding(table, padding_idx=-1).sum().backward()
    assert table.grad is not None and table.grad.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_random_integers_and_permutations() -> None:
    for numbers in (Tensor.randint(3, 9, (50,)), Tensor.randint(50, low=3, high=9), Tensor.randint(3, 9, size=(50,))):
        assert numbers.shape == (50,) and set(numbers.tolist()) <= set(range(3, 9))
    assert Tensor.randint(4, (50,)).max().item() < 4 and Tensor.randint(2, 5).shape == (2, 5)
    with pytest.raises(ValueError, match="no integers"):
        Tensor.randint(3, 3, (2,))
    many = Tensor.randperm(3000).numpy()
    assert sorted(many) == list(range(3000)) and (many[:100] != np.arange(100)).any()


def test_data_is_the_tensor_without_its_history() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert not x.data.requires_grad and bytes(x.data()) == x.numpy().tobytes()
    x.data = x.data * 3
    assert x.requires_grad and x.tolist() == [3, 6]


@pytest.mark.parametrize("call,message", [
    (lambda: Tensor.ones(1, 3, 2, 2).pixel_shuffle(2), "3 channels are no multiple of 4"),
    (lambda: Tensor.ones(1, 3, 3, 2).pixel_unshuffle(2), "3 x 2 places are no multiple of 2"),
    (lambda: Tensor.ones(1, 3, 3, 2).channel_shuffle(2), "3 channels are no multiple of 2 groups"),
    (lambda: Tensor.ones(1, 3, 3, 2).grid_sample(Tensor.ones(1, 2, 2, 3)), "takes"),
    (lambda: Tensor.ones(1, 3, 3, 2).grid_sample(Tensor.ones(1, 2, 2, 2), mode="best"), "modes are bilinear"),
    (lambda: Tensor.ones(1, 3, 3).affine_grid((1, 1, 2, 2)), "takes matrices"),
    (lambda: Tensor([[1.0, 2.0]]).cross(Tensor([[1.0, 2.0]])), "3 elements")])
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
