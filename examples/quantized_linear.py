"""A linear layer whose weights stay quantised in memory: int8 with a scale a row, and GGUF's blocks Q8_0 and Q4_0.

    python examples/quantized_linear.py
    AMDRV_HAL=mock python examples/quantized_linear.py --device AM --small

Each is compared with the layer of float32 that it was made from: memory, error, milliseconds.
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

from compiler import Tensor, jit, nn, no_grad
from compiler.files import quantize
from compiler.models.weights import fill
from examples.progress import Progress, parser, script


def run(args: argparse.Namespace) -> dict[str, Any]:
    n, device = args.width, args.device
    plain = fill(nn.Linear(n, n), args.seed)
    weight = plain.weight.detach().numpy()
    bias = plain.bias.detach().to(device)
    layers: dict[str, Any] = {"float32": plain.to(device), "int8": nn.Int8Linear.of(plain)}
    for kind in ("Q8_0", "Q4_0"):
        layers[kind] = nn.QuantizedLinear(quantize(weight, kind, device), bias)
    x = Tensor(np.random.RandomState(args.seed).uniform(-1, 1, (args.batch, n)).astype(np.float32), device=device)
    progress = Progress(len(layers) * args.steps, args.json)
    rows: dict[str, Any] = {}
    want: Any = None
    for name, layer in layers.items():
        @jit
        def forward(x: Tensor, layer: Any = layer) -> Tensor:
            with no_grad():
                return layer(x)     # type: ignore[no-any-return]
        times = []
        for _ in range(args.steps):
            begun = time.perf_counter()
            y = forward(x).numpy()
            times.append(time.perf_counter() - begun)
            progress.step(name)
        want = y if want is None else want
        rows[name] = {"bytes": sum(t.nbytes for k, t in layer.state_dict().items() if k != "bias"),
                      "error": float(np.sqrt(((y - want) ** 2).mean() / (want ** 2).mean())),
                      "ms": min(times) * 1e3, "sum": float(y.astype(np.float64).sum())}
    progress.close()
    return {"device": device, "layers": rows}


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=1024, help="inputs and outputs, a multiple of 32")
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--steps", type=int, default=10)
    args = options.parse_args(argv)
    if args.small:
        args.width, args.steps = 64, min(args.steps, 4)
    result = run(args)
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{result['device']}: {args.width} x {args.width}, batch {args.batch}")
    print(f"{'':>10}{'bytes':>12}{'of float32':>12}{'error':>10}{'ms':>9}")
    whole = result["layers"]["float32"]["bytes"]
    for name, row in result["layers"].items():
        print(f"{name:>10}{row['bytes']:>12,}{row['bytes'] / whole:>12.3f}{row['error']:>10.4f}{row['ms']:>9.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
