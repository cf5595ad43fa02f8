"""Layers, losses and products: our methods against PyTorch's functions of the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from against_torch import F, T, cases, compare

from compiler import Tensor

pytest.importorskip("torch")

SIGNS = Tensor(np.where(np.eye(4, 5) > 0, 1, -1).astype(np.float32), device="CPU")
ONES = Tensor(np.eye(4, 5, dtype=np.float32), device="CPU")
CLASSES = Tensor([1, 0, 4, 2], dtype="int64", device="CPU")

TABLE: list[tuple[Any, ...]] = [
    ("conv2d", lambda x: F.conv2d(x, T(6, 4, 3, 3)), "q"),
    ("conv2db", lambda x: F.conv2d(x, T(6, 4, 3, 2), T(6), stride=2, padding=1), "q"),
    ("convg", lambda x: F.conv2d(x, T(6, 2, 3, 3), None, 1, (1, 2), (2, 1), 2), "q"),
    ("same", lambda x: F.conv2d(x, T(6, 4, 3, 2), padding="same"), "q"),
    ("convunb", lambda x: F.conv2d(x, T(6, 4, 3, 2)), "2"),
    ("conv1", lambda x: F.conv1d(x, T(3, 4, 3), T(3), 2, 2, 2), "1"),
    ("conv3", lambda x: F.conv3d(x, T(3, 2, 2, 3, 2), T(3), 1, 1), "3"),
    ("dw", lambda x: F.conv2d(x, T(4, 1, 3, 3), groups=4, padding=1), "q"),
    ("ct2", lambda x: F.conv_transpose2d(x, T(4, 3, 3, 3), T(3), 2, 1, 1), "q"),
    ("ct2g", lambda x: F.conv_transpose2d(x, T(4, 3, 3, 2), None, (2, 1), 1, 0, 2, (1, 2)), "q"),
    ("ct1", lambda x: F.conv_transpose1d(x, T(4, 3, 4), None, 3, 2, 1), "1"),
    ("ct3", lambda x: F.conv_transpose3d(x, T(2, 3, 2, 2, 2), None, 2), "3"),
    ("mp", lambda x: F.max_pool2d(x, 2), "q"),
    ("mp3", lambda x: F.max_pool2d(x, 3, 2, 1), "q"),
    ("mpd", lambda x: F.max_pool2d(x, 2, 1, 0, 2), "q"),
    ("mpc", lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), "q2"),
    ("mpi", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), "q"),
    ("mp1", lambda x: F.max_pool1d(x, 3, 2, 1, 1, True), "1"),
    ("mp3d", lambda x: F.max_pool3d(x, 2), "3"),
    ("ap", lambda x: F.avg_pool2d(x, 2), "q"),
    ("ap1", lambda x: F.avg_pool2d(x, 3, 2, 1), "q2"),
    ("ap2", lambda x: F.avg_pool2d(x, 3, 2, 1, True), "q2"),
    ("ap3", lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), "q2"),
    ("ap4", lambda x: F.avg_pool2d(x, (3, 2), 2, 1, True, False, 5), "q"),
    ("ap1d", lambda x: F.avg_pool1d(x, 4, 3, 2, True), "1"),
    ("ap3d", lambda x: F.avg_pool3d(x, 2, 1, 1), "3"),
    ("lp", lambda x: F.lp_pool2d(x, 2, 2), "q"),
    ("lp3", lambda x: F.lp_pool2d(x.abs(), 3.0, (2, 3), 2), "q"),
    ("aap", lambda x: F.adaptive_avg_pool2d(x, (4, 5)), "q2"),
    ("aap1", lambda x: F.adaptive_avg_pool2d(x, 1), "q"),
    ("aapn", lambda x: F.adaptive_avg_pool2d(x, (None, 3)), "q"),
    ("amp", lambda x: F.adaptive_max_pool2d(x, (4, 3)), "2"),
    ("unf", lambda x: F.unfold(x, (3, 2), (1, 2), 1, 2), "q"),
    ("fold", lambda x: F.fold(F.unfold(x, (3, 2), (1, 2), 1, 2), (6, 6), (3, 2), (1, 2), 1, 2), "q"),
    ("mup", lambda x: (lambda p: F.max_unpool2d(p[0], p[1], 2))(F.max_pool2d(x, 2, return_indices=True)), "q"),
    *[
        (f"int{m}{k}", lambda x, m=m, k=k: F.interpolate(x, mode=m, **k), "q")
        for m in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
        for k in ({"size": (9, 4)}, {"scale_factor": 1.7}, {"size": 3}, {"scale_factor": 0.4})
    ],
    *[
        (f"inta{m}", lambda x, m=m: F.interpolate(x, size=(8, 3), mode=m, align_corners=True), "q")
        for m in ("bilinear", "bicubic")
    ],
    ("intl", lambda x: F.interpolate(x, scale_factor=2, mode="linear"), "1"),
    ("int3", lambda x: F.interpolate(x, size=(3, 6, 7), mode="trilinear"), "3"),
    ("ln", lambda x: F.layer_norm(x, (5,), T(5), T(5)), "m"),
    ("ln2", lambda x: F.layer_norm(x, (6, 6), T(6, 6)), "q"),
    ("bn", lambda x: F.batch_norm(x, T(4), T(4) * 0.1 + 1, T(4), T(4)), "q"),
    ("bnt", lambda x: F.batch_norm(x, None, None, T(4), T(4), True), "q1"),
    ("in", lambda x: F.instance_norm(x), "q1"),
    ("gn", lambda x: F.group_norm(x, 2, T(4), T(4)), "q1"),
    ("lrn", lambda x: F.local_response_norm(x, 3, 0.1), "q"),
    ("lrn2", lambda x: F.local_response_norm(x, 2), "q"),
    ("norm", lambda x: F.normalize(x), "mt"),
    ("rms", lambda x: F.rms_norm(x, (5,), T(5)), "m"),
    ("sdpa", lambda x: F.scaled_dot_product_attention(x, T(2, 4, 5, 6), T(2, 4, 5, 3)), "q"),
    ("sdpam", lambda x: F.scaled_dot_product_attention(x, T(2, 4, 5, 6), T(2, 4, 5, 3), attn_mask=T(6, 5)), "q"),
    (
        "sdpab",
        lambda x: F.scaled_dot_product_attention(
            x, T(2, 4, 5, 6), T(2, 4, 5, 3), Tensor(np.random.RandomState(0).rand(6, 5) < 0.8)
        ),
        "q",
    ),
    (
        "sdpac",
        lambda x: F.scaled_dot_product_attention(x, T(2, 4, 6, 6), T(2, 4, 6, 3), is_causal=True, scale=0.3),
        "q",
    ),
    ("gqa", lambda x: F.scaled_dot_product_attention(x, T(2, 2, 6, 6), T(2, 2, 6, 3), enable_gqa=True), "q"),
    *[
        (f"{loss}_{r}", lambda x, loss=loss, r=r: getattr(F, loss)(x, T(4, 5), reduction=r), "m")
        for loss in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss")
        for r in ("mean", "sum", "none")
    ],
    ("bce", lambda x: F.binary_cross_entropy(x, ONES), "p"),
    ("bcel", lambda x: F.binary_cross_entropy_with_logits(x, ONES, pos_weight=T(5) + 2), "mp"),
    ("bcelw", lambda x: F.binary_cross_entropy_with_logits(x, ONES, T(5)), "mp"),
    ("nll", lambda x: F.nll_loss(x, CLASSES, T(5) + 2), "m"),
    ("nlli", lambda x: F.nll_loss(x, Tensor([1, -100, 4, 2], dtype="int64"), reduction="none"), "m"),
    ("ce", lambda x: F.cross_entropy(x, Tensor([1, -100, 4, 2], dtype="int64"), T(5) + 2, label_smoothing=0.1), "m"),
    ("ces", lambda x: F.cross_entropy(x, CLASSES, label_smoothing=0.1, reduction="sum"), "m"),
    ("cep", lambda x: F.cross_entropy(x, T(4, 5) + 1, T(5) + 2, label_smoothing=0.1), "m"),
    ("ce1", lambda x: F.cross_entropy(x, Tensor(3, dtype="int64")), "v"),
    ("kl", lambda x: F.kl_div(x, T(4, 5) + 1.1), "m"),
    ("klb", lambda x: F.kl_div(x, T(4, 5), reduction="batchmean", log_target=True), "m"),
    ("gnll", lambda x: F.gaussian_nll_loss(x, T(4, 5), T(4, 5) + 2, full=True), "m"),
    ("hinge", lambda x: F.hinge_embedding_loss(x, SIGNS), "m"),
    ("sm", lambda x: F.soft_margin_loss(x, SIGNS), "m"),
    ("mr", lambda x: F.margin_ranking_loss(x, T(4, 5), SIGNS, 0.3), "m"),
    ("cel", lambda x: F.cosine_embedding_loss(x, T(4, 5), Tensor([1.0, -1, 1, -1]), 0.1), "m"),
    ("tri", lambda x: F.triplet_margin_loss(x, T(4, 5), T(5, 4).reshape(4, 5), swap=True), "m"),
    ("mlsm", lambda x: F.multilabel_soft_margin_loss(x, ONES), "m"),
    ("mm", lambda x: F.multi_margin_loss(x, CLASSES, margin=0.7), "m"),
    ("mat", lambda x: F.matmul(x, T(5, 3)), "m"),
    ("matb", lambda x: F.matmul(x, T(4, 2)), "t"),
    ("matv", lambda x: F.matmul(x, T(7)), "v"),
    ("kron", lambda x: F.kron(x, T(2, 3)), "m"),
    ("outer", lambda x: F.outer(x, T(3)), "v"),
    ("cs", lambda x: F.cosine_similarity(x, T(4, 5)), "m"),
    ("pd", lambda x: F.pairwise_distance(x, T(4, 5)), "m"),
    ("cdist", lambda x: F.cdist(x, T(3, 5)), "m"),
    ("cov", lambda x: x.cov(), "vm"),
    ("corr", lambda x: x.corrcoef(), "m"),
    ("inner", lambda x: F.inner(x, T(3, 5)), "m"),
    ("addmm", lambda x: F.addmm(x, T(4, 2), T(2, 5), beta=0.5, alpha=2), "m"),
    *[(f"pad{m}", lambda x, m=m: F.pad(x, (1, 2, 2, 1), mode=m), "q") for m in ("reflect", "replicate", "circular")],
    ("padc", lambda x: F.pad(x, (1, -1, -2, 3), value=2.0), "q"),
    ("padv", lambda x: F.pad(x, (1, 0), "constant", 5), "mt"),
    ("glu", lambda x: F.glu(x, -1), "t"),
    ("prelu", lambda x: F.prelu(x, T(4)), "q"),
    ("softmin", lambda x: F.softmin(x, -1), "m"),
]

EINSUMS: list[tuple[Any, ...]] = [
    (equation, lambda x, e=equation: _einsum(e, x), letter)
    for equation, letter in (
        ("ijk->kj", "t"),
        ("ii", "x"),
        ("ii->i", "x"),
        ("ij,ij", "m"),
        ("ij,kj->ik", "m"),
        ("i,j->ij", "v"),
        ("a...,...->a", "t"),
        ("abc,dbc->ad", "t"),
        ("ij,ij,ik->jk", "m"),
    )
]


def _einsum(equation: str, x: Any) -> Any:
    import torch

    times = equation.count(",") + 1
    if times == 2 and equation.startswith("a..."):
        return (Tensor if isinstance(x, Tensor) else torch).einsum(equation, x, x[0])
    return (Tensor if isinstance(x, Tensor) else torch).einsum(equation, *[x] * times)


@pytest.mark.parametrize("function,letter", cases(TABLE, "q"))
def test_functions(function: Callable[[Any], Any], letter: str) -> None:
    compare(function, letter, "CPU")


@pytest.mark.parametrize("function,letter", cases(EINSUMS, "m"))
def test_einsum(function: Callable[[Any], Any], letter: str) -> None:
    compare(function, letter, "CPU")


@pytest.mark.slow
@pytest.mark.parametrize("function,letter", cases(TABLE, "q"))
def test_functions_on_the_card(function: Callable[[Any], Any], letter: str, am: str) -> None:
    compare(function, letter, am)
