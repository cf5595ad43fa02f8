"""Shapes, reductions, scans and sorting: the same expressions on our tensors and on PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from against_torch import cases, compare

from compiler import Tensor

pytest.importorskip("torch")

TABLE: list[tuple[Any, ...]] = [
    ("reshape", lambda x: x.reshape(-1)),
    ("flip", lambda x: x.flip(0), "vmt"),
    ("roll", lambda x: x.roll(2, 0)),
    ("rolls", lambda x: x.roll((1, -2), (0, 1)), "mt"),
    ("roll0", lambda x: x.roll(3), "vmte"),
    ("repeat", lambda x: x.repeat(2, 1, 3, 1)),
    ("tile", lambda x: x.tile((2, 3))),
    ("ri", lambda x: x.repeat_interleave(3, 0)),
    ("ri0", lambda x: x.repeat_interleave(2)),
    ("squeeze", lambda x: x.unsqueeze(0).squeeze()),
    ("movedim", lambda x: x.movedim(0, -1)),
    ("swap", lambda x: x.swapaxes(0, 1), "mt"),
    ("unfold", lambda x: x.unfold(0, 2, 1)),
    ("unfold2", lambda x: x.unfold(-1, 3, 2)),
    ("unfold3", lambda x: x.unfold(-1, 2, 3)),
    ("narrow", lambda x: x.narrow(0, 1, 1)),
    ("select", lambda x: x.select(-1, -1)),
    ("unbind", lambda x: x.unbind(0)),
    ("split", lambda x: x.split(2, 0)),
    ("split2", lambda x: x.split([1, 3], -1), "t"),
    ("chunk", lambda x: x.chunk(3, -1)),
    ("tsplit", lambda x: x.tensor_split(3, -1)),
    ("tsplit2", lambda x: x.tensor_split((1, 2), -1)),
    ("rot90", lambda x: x.rot90(1, (0, 1)), "mt"),
    ("rot90-", lambda x: x.rot90(-1, (0, 1)), "mt"),
    ("fliplr", lambda x: x.fliplr(), "mt"),
    ("tril", lambda x: x.tril(-1), "mt"),
    ("triu", lambda x: x.triu(1), "mt"),
    ("diag", lambda x: x.diag(), "vm"),
    ("diag1", lambda x: x.diag(1), "vm"),
    ("diag-2", lambda x: x.diag(-2), "vm"),
    ("diagonal", lambda x: x.diagonal(1, 0, -1), "mt"),
    ("diag_embed", lambda x: x.diag_embed(), "vmt"),
    ("diag_embed1", lambda x: x.diag_embed(-1, 0, 2), "mt"),
    ("flatten", lambda x: x.flatten(0, 1), "mt"),
    ("unflatten", lambda x: x.unflatten(-1, (2, 2)), "t"),
    ("expand", lambda x: x.unsqueeze(0).expand(3, *x.shape)),
    ("T", lambda x: x.T, "m"),
    ("mT", lambda x: x.mT, "mt"),
    ("stride", lambda x: x.stride()),
    ("sum", lambda x: x.sum(), "vmtsen"),
    ("sum0", lambda x: x.sum(0), "vmten"),
    ("sumk", lambda x: x.sum((0, -1), keepdim=True), "mten"),
    ("prod", lambda x: x.prod(0), "vmte"),
    ("mean", lambda x: x.mean(-1), "vmtsn"),
    ("max", lambda x: x.max(), "vmtsn"),
    ("max1", lambda x: x.max(-1), "vmtsnd"),
    ("min1", lambda x: x.min(0, keepdim=True), "vmtnd"),
    ("amax", lambda x: x.amax((0, 1)), "mt"),
    ("amin", lambda x: x.amin(-1), "mtd"),
    ("argmax", lambda x: x.argmax(), "vmtsnd"),
    ("argmin", lambda x: x.argmin(-1, keepdim=True), "vmtsnd"),
    ("var", lambda x: x.var(), "vmte"),
    ("var1", lambda x: x.var(-1, correction=0), "vmt"),
    ("var2", lambda x: x.var(0, False), "mt"),
    ("std", lambda x: x.std(0, keepdim=True), "vmt"),
    ("varmean", lambda x: x.std(unbiased=False), "vmt"),
    ("norm", lambda x: x.norm(), "vmts"),
    ("norm1", lambda x: x.norm(1, -1), "vmt"),
    ("norminf", lambda x: x.norm(float("inf"), 0), "vmt"),
    ("norm3", lambda x: x.norm(3, dim=0, keepdim=True), "vmt"),
    ("any", lambda x: x.any(), "vmten"),
    ("all", lambda x: x.all(-1), "vmten"),
    ("lse", lambda x: x.logsumexp(-1), "vmtn"),
    ("lse2", lambda x: x.logsumexp((0, 1), keepdim=True), "mt"),
    ("cnz", lambda x: x.count_nonzero(), "vmn"),
    ("nansum", lambda x: x.nansum(0), "vn"),
    ("nanmean", lambda x: x.nanmean(-1), "vn"),
    ("cumsum", lambda x: x.cumsum(0), "vmtesn"),
    ("cumsum1", lambda x: x.cumsum(-1), "vmten"),
    ("cumprod", lambda x: x.cumprod(-1), "vmten"),
    ("cummax", lambda x: x.cummax(-1), "vmtend"),
    ("cummin", lambda x: x.cummin(0), "vmtend"),
    ("lcse", lambda x: x.logcumsumexp(-1), "vmten"),
    ("sort", lambda x: x.sort(stable=True), "vmtsnd"),
    ("topk", lambda x: x.topk(2), "vmt"),
    ("kth", lambda x: x.kthvalue(2, -1, True), "vmt"),
    ("median1", lambda x: x.median(-1).values, "vmtn"),
    ("nanmedian", lambda x: x.nanmedian(), "vmn"),
    ("quantile1", lambda x: x.quantile(0.3, 0, True), "vmt"),
    ("diff", lambda x: x.diff(), "vmt"),
    ("aminmax", lambda x: x.aminmax(), "vmn"),
    ("trace", lambda x: x.trace(), "m"),
    ("softmax", lambda x: x.softmax(-1), "vmt"),
    ("lsm", lambda x: x.log_softmax(0), "vmt"),
    ("nonzero", lambda x: x.nonzero(), "vmn"),
    ("msort", lambda x: x.msort(), "mt"),
    ("sortd", lambda x: x.sort(dim=0, descending=True, stable=True), "vmtnd"),
    ("argsort", lambda x: x.argsort(dim=-1, descending=True, stable=True), "vmtnd"),
    ("topk_small", lambda x: x.topk(2, -1, False).values, "vmt"),
    ("mode", lambda x: x.mode(-1).values, "m"),
    ("median", lambda x: x.median(), "vmt"),
    ("quantile", lambda x: x.quantile(0.3), "vm"),
    ("quantiles", lambda x: x.quantile(x.detach().flatten()[:2].abs() / 4, 1), "mt"),
    ("quantile_nearest", lambda x: x.quantile(0.6, 0, True, interpolation="nearest"), "mt"),
]

WHOLE: list[tuple[Any, ...]] = [
    ("sum", lambda x: x.sum()),
    ("max", lambda x: x.max(0)),
    ("sort", lambda x: x.sort(stable=True)),
    ("cumsum", lambda x: x.cumsum(0)),
    ("argmax", lambda x: x.argmax(0)),
    ("median", lambda x: x.median()),
    ("cummax", lambda x: x.cummax(0)),
    ("any", lambda x: x.any(0)),
    ("amin", lambda x: x.amin(0)),
]


@pytest.mark.parametrize("function,letter", cases(TABLE, "vmt"))
def test_floats(function: Callable[[Any], Any], letter: str) -> None:
    compare(function, letter, "CPU", gradient=letter != "n")


@pytest.mark.parametrize("function,letter", cases(WHOLE, "vmd"))
def test_integers(function: Callable[[Any], Any], letter: str) -> None:
    compare(function, letter, "CPU", dtype=np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("function,letter", cases(TABLE, "t"))
def test_floats_on_the_card(function: Callable[[Any], Any], letter: str, am: str) -> None:
    compare(function, letter, am, gradient=letter != "n")


@pytest.mark.parametrize("n", [511, 513, 1100, 3000])
def test_long_axes(n: int) -> None:
    """Beyond a block: merged runs, and scans of scans; with ties and NaNs."""
    rng = np.random.RandomState(n)
    a = np.where(rng.uniform(size=(2, n)) < 0.01, np.nan, rng.randint(0, n // 3, (2, n))).astype(np.float32)
    values, indices = Tensor(a).sort(1)
    np.testing.assert_array_equal(indices.numpy(), np.argsort(a, 1, kind="stable"))
    np.testing.assert_array_equal(values.numpy(), np.sort(a, 1))
    whole = rng.randint(-9, 9, n).astype(np.int32)
    np.testing.assert_array_equal(Tensor(whole).cumsum(0).numpy(), np.cumsum(whole))
    np.testing.assert_array_equal(Tensor(whole).cummax(0).values.numpy(), np.maximum.accumulate(whole))
    np.testing.assert_array_equal(Tensor(whole).argsort(descending=True).numpy(), np.argsort(-whole, kind="stable"))
