"""Train a ResNet on small pictures that are made here: discs, squares, crosses and rings, tinted and noisy.

    python examples/resnet.py                       # three blocks, 16x16 pictures
    python examples/resnet.py --weights resnet18.pth --layers 18     # begin with torchvision's weights
    AMDRV_HAL=mock python examples/resnet.py --device AM --small

The blocks are those of compiler/models/resnet.py: 3x3 convolutions, batch norm, a way around. SGD with momentum and
weight decay, its rate along half a cosine.
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

from compiler import Tensor, jit, no_grad, optim
from compiler.files import safe_load, torch_load
from compiler.models.resnet import DEPTHS, ResNet
from compiler.models.weights import fill
from examples.progress import Progress, parser, script

SHAPES = ("disc", "square", "cross", "ring")


def pictures(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3, size, size) float32 and what is on each, (count,) int32."""
    rng = np.random.RandomState(seed)
    kinds = rng.randint(0, len(SHAPES), count).astype(np.int32)
    centre, radius = rng.uniform(0.35, 0.65, (2, count, 1, 1)), rng.uniform(0.15, 0.3, (count, 1, 1))
    y, x = np.mgrid[0:size, 0:size][:, None] / size
    y, x = (y - centre[0]) / radius, (x - centre[1]) / radius
    far = np.hypot(x, y)
    box = np.maximum(abs(x), abs(y))
    inside = np.stack([far < 1, box < 0.9, (np.minimum(abs(x), abs(y)) < 0.3) & (box < 1), (far < 1) & (far > 0.55)])
    shape = inside[kinds, np.arange(count)]
    colour, ground = rng.uniform(0.3, 1, (2, count, 3, 1, 1))
    images = np.where(shape[:, None], colour, ground * 0.4) + rng.normal(0, 0.1, (count, 3, size, size))
    return (images * 2 - 1).astype(np.float32), kinds


def run(args: argparse.Namespace, weights: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """:param weights: to begin with; default: random ones, of the seed."""
    images, kinds = pictures(args.images, args.size, args.seed)
    held = max(args.batch, args.images // 5) // args.batch * args.batch
    model = model_of(args)
    if weights is not None:
        model.load_state_dict(weights)
    elif args.weights:
        state = torch_load(args.weights) if not args.weights.endswith(".safetensors") else safe_load(args.weights)
        fill(model, args.seed)
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")}, strict=False)
    else:
        fill(model, args.seed)
    device = args.device
    model.to(device)
    optimizer = optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4)
    schedule = optim.CosineAnnealingLR(optimizer, args.steps)

    @jit
    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(x).cross_entropy(y)
        loss.backward()
        optimizer.step()
        return loss

    @jit
    def predict(x: Tensor) -> Tensor:
        with no_grad():
            return model(x).argmax(1)
    rng = np.random.RandomState(args.seed)
    progress = Progress(args.steps, args.json)
    losses: list[float] = []
    started = time.perf_counter()
    for _ in range(args.steps):
        at = rng.randint(held, len(images), args.batch)
        losses.append(step(Tensor(images[at], device=device), Tensor(kinds[at], device=device)).item())
        schedule.step()
        progress.step(f"loss {losses[-1]:.4f}")
    seconds = time.perf_counter() - started
    progress.close()
    model.eval()
    right = sum(int((predict(Tensor(images[at:at + args.batch], device=device)).numpy()
                     == kinds[at:at + args.batch]).sum()) for at in range(0, held, args.batch))
    return {"device": device, "steps": args.steps, "seconds": round(seconds, 3), "losses": losses,
            "parameters": sum(p.numel() for p in model.parameters()), "accuracy": right / held, "held_out": held}


def model_of(args: argparse.Namespace) -> ResNet:
    if args.layers:
        if args.layers not in DEPTHS:
            raise SystemExit(f"--layers: ResNet-{args.layers} is none of {', '.join(map(str, DEPTHS))}")
        return ResNet(*DEPTHS[args.layers], len(SHAPES))
    widths = [args.width << n for n in range(args.stages)]
    return ResNet([1] * args.stages, False, len(SHAPES), widths, small=True)


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=0, help="ResNet-18, 34, 50, 101, 152; 0: one block a stage")
    options.add_argument("--stages", type=int, default=3)
    options.add_argument("--width", type=int, default=8, help="channels of the first stage; each has twice as many")
    options.add_argument("--size", type=int, default=16, help="of the pictures' sides")
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--lr", type=float, default=0.1)
    options.add_argument("--weights", help="a checkpoint of torchvision's (.pth, .safetensors); all but its last layer")
    args = options.parse_args(argv)
    if args.small:
        args.stages, args.width, args.size, args.steps, args.batch, args.images = 2, 4, 8, min(args.steps, 4), 8, 64
    result = run(args)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{result['device']}: {result['parameters']:,} parameters, loss {result['losses'][0]:.3f} -> "
              f"{result['losses'][-1]:.3f}, {result['accuracy']:.1%} of {result['held_out']} held-out pictures right "
              f"after {result['steps']} steps of {args.batch}, {result['seconds']:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
