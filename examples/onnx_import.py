"""Run an ONNX model, and see whether the standard's own reference agrees.

    python examples/onnx_import.py model.onnx                   # inputs are random, of the shapes that the model names
    python examples/onnx_import.py                              # a small convolutional network that is made here
    AMDRV_HAL=mock python examples/onnx_import.py --device AM --small

Needs the onnx package: pip install 'amdrv[onnx]'.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiler.onnx import load
from examples.progress import Progress, parser, script


def network(width: int, size: int, seed: int) -> bytes:
    """Convolution, batch norm, pooling, attention-like softmax over places, and a linear layer, as ONNX."""
    from onnx import TensorProto, helper, numpy_helper
    rng = np.random.RandomState(seed)

    def weight(name: str, *shape: int) -> Any:
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1
        return numpy_helper.from_array((rng.randn(*shape) * scale).astype(np.float32), name)
    nodes = [helper.make_node("Conv", ["image", "w1", "b1"], ["c"], pads=[1, 1, 1, 1]),
             helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
             helper.make_node("Relu", ["n"], ["r"]),
             helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
             helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("Gemm", ["f", "w2", "b2"], ["g"], transB=1),
             helper.make_node("Softmax", ["g"], ["shares"], axis=1)]
    weights = [weight("w1", width, 3, 3, 3), weight("b1", width), weight("scale", width), weight("shift", width),
               weight("mean", width), numpy_helper.from_array(np.ones(width, np.float32), "var"),
               weight("w2", 10, width * (size // 2) ** 2), weight("b2", 10)]
    graph = helper.make_graph(
        nodes, "small network", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["batch", 10])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()


def inputs_of(proto: Any, names: list[str], batch: int, seed: int) -> dict[str, np.ndarray]:
    """Random numbers for each input; sizes that the model leaves open are the batch."""
    from onnx import helper
    rng = np.random.RandomState(seed)
    found = {}
    for value in proto.graph.input:
        if value.name in names:
            kind = value.type.tensor_type
            shape = [d.dim_value if d.HasField("dim_value") else batch for d in kind.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            found[value.name] = (rng.uniform(0, 1, shape) if dtype.kind == "f" else rng.randint(0, 2, shape)).astype(
                dtype)
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    data = Path(args.file).read_bytes() if args.file else network(args.width, args.size, args.seed)
    model = load(args.file if args.file else data, args.device)
    inputs = inputs_of(model.proto, model.inputs, args.batch, args.seed)
    progress = Progress(args.steps, args.json)
    times = []
    for _ in range(args.steps):
        begun = time.perf_counter()
        outputs = model.run(inputs)
        times.append(time.perf_counter() - begun)
        progress.step()
    progress.close()
    result: dict[str, Any] = {
        "device": args.device, "inputs": {k: list(v.shape) for k, v in inputs.items()},
        "outputs": {k: list(np.shape(v)) for k, v in outputs.items()}, "nodes": len(model.proto.graph.node),
        "values": [float(x) for v in outputs.values() for x in np.asarray(v).reshape(-1)[:10]],
        "first_ms": times[0] * 1e3, "ms": min(times) * 1e3}
    if not args.no_reference:
        from onnx.reference import ReferenceEvaluator
        want = ReferenceEvaluator(args.file or model.proto).run(None, inputs)
        result["difference"] = max(float(np.abs(np.asarray(a, np.float64) - b).max()) if np.size(b) else 0.0
                                   for a, b in zip(outputs.values(), want, strict=True))
    return result


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("file", nargs="?", help="an ONNX model; without: one that is made here")
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--size", type=int, default=32, help="of the pictures' sides")
    options.add_argument("--no-reference", action="store_true", help="do not compare with onnx.reference")
    args = options.parse_args(argv)
    if args.small:
        args.width, args.size, args.batch, args.steps = 4, 8, 2, min(args.steps, 2)
    result = run(args)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{result['device']}: {result['nodes']} nodes, {result['inputs']} -> {result['outputs']}; "
              f"first {result['first_ms']:.0f} ms, then {result['ms']:.2f} ms")
        if "difference" in result:
            print(f"largest difference to onnx.reference: {result['difference']:.2g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
