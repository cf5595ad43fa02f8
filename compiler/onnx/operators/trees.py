"""Ensembles of decision trees: every sample goes down all trees at once, a step of gathers for each level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.onnx.registry import Node, operator
from compiler.tensor import Tensor

__all__: list[str] = []

# ai.onnx.ml, TreeEnsemble-5
MEMBER = 6
AVERAGE, SUM, MIN, MAX = range(4)
NONE, SOFTMAX, LOGISTIC = range(3)


@operator("TreeEnsemble")
def tree_ensemble(node: Node, value: Any) -> Any:
    x = node.tensor(value)
    branches = len(node("nodes_featureids"))
    leaves = np.asarray(node("leaf_targetids"), np.int32)

    def follow(name: str) -> np.ndarray:
        """Where a branch leads: another branch, or a leaf, whose numbers come after the branches'."""
        ids, leaf = (np.asarray(node(f"nodes_{name}{end}"), np.int32) for end in ("nodeids", "leafs"))
        return np.concatenate([ids + branches * (leaf != 0), branches + np.arange(len(leaves))]).astype(np.int32)

    def column(values: Any, dtype: Any) -> Tensor:
        """One number for each branch, and nothing for leaves."""
        padded = np.zeros(branches + len(leaves), dtype)
        padded[:branches] = values
        return Tensor(padded, device=node.device)
    then, other = follow("true"), follow("false")
    modes = np.asarray(node("nodes_modes"), np.int32).reshape(-1)
    features, mode = column(node("nodes_featureids"), np.int32), column(modes, np.int32)
    splits = column(np.nan_to_num(np.asarray(node("nodes_splits"), np.float64).reshape(-1)), np.float32)
    missing = column(node("nodes_missing_value_tracks_true") or 0, np.int32)
    sets, which = _sets(node, modes)
    at = Tensor(np.asarray(node("tree_roots"), np.int32), device=node.device).unsqueeze(0)
    at = at.expand(x.shape[0], at.shape[1])
    yes, no = Tensor(then, device=node.device), Tensor(other, device=node.device)
    for _ in range(_depth(node, then, other, branches)):
        seen, split, kind = x.gather(1, features[at]).cast("float32"), splits[at], mode[at]
        goes = seen <= split
        for code, test in enumerate((seen <= split, seen < split, seen >= split, seen > split, seen.eq(split),
                                     seen.ne(split))):
            goes = kind.eq(code).where(test, goes)
        if sets is not None:
            inside = sets[which[at]].eq(seen.unsqueeze(-1)).any(-1)
            goes = kind.eq(MEMBER).where(inside, goes)
        goes = seen.isnan().where(missing[at].ne(0), goes)
        at = goes.where(yes[at], no[at]).contiguous()
    leaf = at - branches
    weights = Tensor(np.asarray(node("leaf_weights")).reshape(-1), device=node.device)[leaf]
    target = Tensor(leaves, device=node.device)[leaf].unsqueeze(-1)
    classes = Tensor(np.arange(int(node("n_targets")), dtype=np.int32), device=node.device)
    out = _together(node, weights.unsqueeze(-1), target.eq(classes), int(node("aggregate_function", SUM)))
    after = int(node("post_transform", NONE))
    if after not in (NONE, SOFTMAX, LOGISTIC):
        raise node.error(f"post_transform {after} is not known here; 0 (none), 1 (softmax) and 2 (logistic) are")
    return (out, out.softmax(-1), out.sigmoid())[after].cast(x.dtype)


def _together(node: Node, weights: Tensor, hit: Tensor, how: int) -> Tensor:
    """(samples, trees, 1) weights to (samples, targets)."""
    if how in (SUM, AVERAGE):
        total = hit.where(weights, 0.0).sum(1)
        return total / hit.shape[1] if how == AVERAGE else total
    if how not in (MIN, MAX):
        raise node.error(f"aggregate_function {how} is none: 0 to 3 are")
    edge = math.inf if how == MIN else -math.inf
    some = hit.where(weights, edge)
    best = some.amin(1) if how == MIN else some.amax(1)
    return best.isinf().where(0.0, best)


def _sets(node: Node, modes: np.ndarray) -> tuple[Any, Any]:
    """The values of each branch that asks for membership, padded with NaN, and the number of each branch's set."""
    if not (modes == MEMBER).any():
        return None, None
    values = np.asarray(node("membership_values"), np.float32).reshape(-1)
    parts = np.split(values, np.flatnonzero(np.isnan(values)))
    lists = [part[~np.isnan(part)] for part in parts][:int((modes == MEMBER).sum())]
    table = np.full((len(lists), max(1, max(map(len, lists)))), np.nan, np.float32)
    for n, part in enumerate(lists):
        table[n, :len(part)] = part
    which = np.zeros(len(modes) + len(node("leaf_targetids")), np.int32)
    which[:len(modes)][modes == MEMBER] = np.arange(len(lists))
    return Tensor(table, device=node.device), Tensor(which, device=node.device)


def _depth(node: Node, then: np.ndarray, other: np.ndarray, branches: int) -> int:
    """Levels until every tree ends in leaves. :raises OnnxError: a branch leads back to itself, or nowhere."""
    if ((then < 0) | (then >= len(then)) | (other < 0) | (other >= len(other))).any():
        raise node.error("a branch leads to a node that is not there")
    at, depth = {int(r) for r in node("tree_roots")}, 0
    while any(a < branches for a in at):
        at = {int(n) for a in at if a < branches for n in (then[a], other[a])}
        depth += 1
        if depth > branches:
            raise node.error("its branches lead in a circle")
    return depth
