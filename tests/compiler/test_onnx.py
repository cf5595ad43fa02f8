"""ONNX: the package's own cases for operators; errors; models that are no models."""

from __future__ import annotations

import re
import subprocess
import sys
import unittest
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="the onnx package reads models: pip install 'amdrv[onnx]'")

from onnx import TensorProto, helper  # noqa: E402

from compiler import Tensor  # noqa: E402
from compiler.onnx import Model, OnnxError, load  # noqa: E402
from compiler.onnx.registry import OPERATORS  # noqa: E402

# What is not claimed, by a case's name (with _ at the end: by its beginning), and why.
RANDOM = "compares random numbers, which no standard fixes"
REFERENCE = "the reference's own rounding errors (1e-7) are expected where ours are smaller (1e-15)"
NOT_CLAIMED = {
    "test_bernoulli": RANDOM, "test_bernoulli_": RANDOM, "test_training_dropout": RANDOM,
    "test_training_dropout_default": RANDOM, "test_training_dropout_mask": RANDOM,
    "test_training_dropout_default_mask": RANDOM,
    "test_loop16_seq_none": "the comparison asks a number in a sequence for its length (see below)",
    "test_dft_inverse": REFERENCE, "test_dft_inverse_opset19": REFERENCE,
    "test_attention_4d_causal_fp16": "two elements of 192 are one float16 step from the reference's order of sums",
    "test_attention_4d_causal_fp16_expanded": "the same"}


@cache
def cases() -> dict[str, Any]:
    """name -> function, as onnx.backend.test.BackendTest makes them for the CPU."""
    from onnx.backend.test.runner import Runner

    from compiler.onnx.backend import CompilerBackend
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Runner(CompilerBackend, __name__)._test_items["NodeModel"]
    return {name.removesuffix("_cpu"): item.func for name, item in made.items() if name.endswith("_cpu")}


def reason(name: str) -> str | None:
    return next((why for known, why in NOT_CLAIMED.items()
                 if name == known or (known.endswith("_") and name.startswith(known))), None)


def run(names: list[str]) -> dict[str, str]:
    """The cases that fail, and how."""
    failed = {}
    for name in names:
        try:
            cases()[name](unittest.TestCase())
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {str(error).strip()[:200]}"
    return failed


def claimed() -> list[str]:
    return [name for name in sorted(cases()) if reason(name) is None]


def test_the_share_that_is_claimed() -> None:
    """99 % of all: strings, sequences, optional values and training as well."""
    assert len(cases()) > 1500
    assert len(claimed()) >= 0.98 * len(cases())


@pytest.mark.parametrize("part", range(2))
def test_operators(part: int) -> None:
    """Every sixteenth case of those that are claimed."""
    assert not run(claimed()[::16][part::2])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_all_operators(part: int) -> None:
    assert not run(claimed()[part::8])


def test_as_others_run_them(tmp_path: Path) -> None:
    """``BackendTest(backend, __name__)`` over the module, which pytest collects: what the standard tells people to
    do."""
    (tmp_path / "test_backend.py").write_text("""
import onnx.backend.test
import compiler.onnx.backend as backend
tests = onnx.backend.test.BackendTest(backend, __name__)
tests.include("test_(gemm_all_attributes|relu|string_concat|adam|simple_rnn_defaults|strnorm_model_nostopwords.*)_c")
tests.include("test_(gradient_of_add|sign_model|single_relu_model|Linear|Conv2d)_c")
globals().update(tests.enable_report().test_cases)
""")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir",
                           str(tmp_path), str(tmp_path / "test_backend.py")], capture_output=True, text=True,
                          check=False, cwd=Path(__file__).parent.parent.parent)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed and int(passed[1]) >= 11, done.stdout[-2000:]


@pytest.mark.slow
def test_operators_on_the_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx.backend.test.runner import Runner

    from compiler.onnx import backend
    monkeypatch.setenv("AMDRV_HAL", "mock")
    prepare = backend.CompilerBackend.prepare
    monkeypatch.setattr(backend.CompilerBackend, "prepare",
                        classmethod(lambda cls, model, device="CPU", **more: prepare(model, "AM", **more)))
    made = Runner(backend.CompilerBackend, __name__)._test_items["NodeModel"]
    failed = {}
    for name in claimed()[::40]:
        try:
            made[name + "_cpu"].func(unittest.TestCase())
        except Exception as error:
            failed[name] = str(error)[:200]
    assert not failed


def test_what_is_not_claimed_fails() -> None:
    """Or it could be claimed. Chance may help what is random."""
    names = [name for name in sorted(cases()) if reason(name) not in (None, RANDOM)]
    failed = run(names)
    assert set(failed) == set(names), sorted(set(names) - set(failed))
    assert all("Error" in why for why in failed.values())


def test_a_loop_over_an_optional_sequence() -> None:
    """The case whose result the package cannot compare, since the sequence begins with a number without axes."""
    from onnx.backend.test.case.node import collect_testcases

    from compiler.onnx.backend import prepare
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (case,) = [c for c in collect_testcases(None) if c.name == "test_loop16_seq_none"]
    ((inputs, (want,)),) = case.data_sets
    (found,) = prepare(case.model).run(inputs)
    assert len(found) == len(want) == 6
    for one, other in zip(found, want, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other) and np.shape(one) == np.shape(other)


def trees(x: list[float], **changed: Any) -> Any:
    """Two trees for two targets: x0 <= 1 ? 10 : (x1 in {3, 5} ? 20 : 30) for the first, x1 > 4 ? 1 : 2 for the
    second."""
    tensor = onnx.numpy_helper.from_array
    attributes = {
        "n_targets": 2, "tree_roots": [0, 2], "nodes_featureids": [0, 1, 1],
        "nodes_modes": tensor(np.array([0, 6, 3], np.uint8)),
        "nodes_splits": tensor(np.array([1, 0, 4], np.float32)), "nodes_truenodeids": [0, 1, 3],
        "nodes_trueleafs": [1, 1, 1], "nodes_falsenodeids": [1, 2, 4], "nodes_falseleafs": [0, 1, 1],
        "leaf_targetids": [0, 0, 0, 1, 1], "leaf_weights": tensor(np.array([10, 20, 30, 1, 2], np.float32)),
        "membership_values": tensor(np.array([3, 5, np.nan], np.float32))} | changed
    made = model([helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **attributes)], ["x"], ["y"])
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 5))
    return Model(made).run({"x": np.array([x], np.float32)})["y"][0].tolist()


def test_trees() -> None:
    assert trees([1, 9]) == [10, 1] and trees([2, 3]) == [20, 2] and trees([2, 5]) == [20, 1]
    assert trees([2, 4]) == [30, 2] and trees([np.nan, 5]) == [20, 1]
    assert trees([np.nan, 5], nodes_missing_value_tracks_true=[1, 0, 0]) == [10, 1]
    assert trees([2, 4], aggregate_function=0) == [15, 1] and trees([2, 4], aggregate_function=2) == [30, 2]
    assert np.allclose(trees([2, 4], post_transform=2), 1 / (1 + np.exp([-30, -2])))
    for changed, message in (({"nodes_falsenodeids": [0, 2, 4]}, "branches lead in a circle"),
                             ({"nodes_falsenodeids": [9, 2, 4]}, "leads to a node that is not there"),
                             ({"post_transform": 4}, "post_transform 4 is not known here"),
                             ({"aggregate_function": 7}, "aggregate_function 7 is none")):
        with pytest.raises(OnnxError, match=message):
            trees([2, 4], **changed)


# ---- models by hand

def model(nodes: list[Any], inputs: list[str], outputs: list[str], opset: int = 21, weights: Any = ()) -> Any:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "graph", values, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_a_file(tmp_path: Path) -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    onnx.save(model([helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
                    ["x"], ["y"], weights=[("w", w)]), tmp_path / "m.onnx")
    found = load(tmp_path / "m.onnx")
    assert (found.inputs, found.outputs) == (["x"], ["y"])
    x = np.array([[1.0, -1.0]], np.float32)
    assert np.array_equal(found.run({"x": x})["y"], np.maximum(x @ w, 0))
    (y,) = found(Tensor(x))
    assert isinstance(y, Tensor) and np.array_equal(y.numpy(), np.maximum(x @ w, 0))


def test_derivatives_go_through() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    (y,) = Model(model([helper.make_node("Mul", ["x", "x"], ["y"])], ["x"], ["y"]))(x)
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 4.0]


def test_shapes_that_are_computed() -> None:
    """Shape arithmetic stays on the host: nothing is compiled for it."""
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
             helper.make_node("Concat", ["n", "rest"], ["to"], axis=0), helper.make_node("Reshape", ["x", "to"], ["y"])]
    made = Model(model(nodes, ["x"], ["y"], weights=[("zero", np.array([0])), ("rest", np.array([-1]))]))
    assert made(np.zeros((2, 3, 4), np.float32))[0].shape == (2, 12)


@pytest.mark.parametrize(("nodes", "inputs", "message"), [
    ([helper.make_node("NoSuch", ["x"], ["y"], name="n1")], {"x": 1.0},
     r"NoSuch \(n1\): the operator NoSuch is not known here"),
    ([helper.make_node("Other", ["x"], ["y"], domain="my.own")], {"x": 1.0}, "the operator my.own.Other is not known"),
    ([helper.make_node("Relu", ["z"], ["y"])], {"x": 1.0}, "nothing computes 'z'"),
    ([helper.make_node("Relu", ["x"], ["y"])], {}, "the input x is missing; its inputs are x"),
    ([helper.make_node("Relu", ["x"], ["y"])], {"x": 1.0, "q": 2}, "there is no input q"),
    ([helper.make_node("Relu", ["x"], ["y"])], {"x": np.array(["a"])}, "Relu: strings are not computed with"),
    ([helper.make_node("Concat", ["x"], ["y"], axis=7)], {"x": np.zeros(3, np.float32)}, "Concat: "),
    ([helper.make_node("Cast", ["x"], ["y"], to=8)], {"x": np.zeros(3, np.float32)}, "strings and complex numbers"),
    ([helper.make_node("StringConcat", ["x", "x"], ["y"])], {"x": 1.0}, "its input is a tensor of strings"),
    ([helper.make_node("StringNormalizer", ["x"], ["y"])], {"x": np.array([[["a"]]])}, r"not \[1, 1, 1\]"),
    ([helper.make_node("RegexFullMatch", ["x"], ["y"], pattern="(")], {"x": np.array(["a"])}, "is none: missing"),
    ([helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml")], {"x": 1.0}, "it has no keys"),
    ([helper.make_node("Adam", ["x", "x", "x"], ["y"], domain="ai.onnx.preview.training")], {"x": 1.0},
     "1 tensors are not 4 for each that is trained"),
])
def test_models_that_do_not_run(nodes: list[Any], inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(OnnxError, match=message):
        Model(model(nodes, ["x"], ["y"])).run({k: np.asarray(v) for k, v in inputs.items()})


def test_what_is_no_model(tmp_path: Path) -> None:
    for data in (b"", b"GGUF", b"\xff" * 100):
        with pytest.raises(OnnxError, match="no ONNX model"):
            load(data)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.onnx")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_models(data: st.DataObject) -> None:
    """They run, or there is one error."""
    whole = bytearray(model([helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])],
                            ["x"], ["y"], weights=[("w", np.ones(3, np.float32))]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    try:
        load(bytes(whole)).run([np.zeros(3, np.float32)])
    except OnnxError as error:
        assert len(str(error)) > 10


def test_every_operator_has_a_known_name() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert set(OPERATORS) <= known and len(OPERATORS) > 150
