"""Train a small convolutional network on handwritten digits.

    python examples/mnist.py                                  # the 1797 8x8 images in examples/data
    python examples/mnist.py --data FOLDER                    # MNIST's own files (train-images-idx3-ubyte[.gz] ...)
    AMDRV_HAL=mock python examples/mnist.py --device AM --small

Two convolutions, batch norm, a pooling, two linear layers (compiler/models/convnet.py), AdamW, a learning rate that
goes up and down once (OneCycleLR).
"""

from __future__ import annotations

import argparse
import gzip
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiler import Tensor, jit, no_grad, optim
from compiler.models.convnet import ConvNet
from compiler.models.weights import fill
from examples import digits
from examples.progress import Progress, parser, script


def idx(path: Path) -> np.ndarray:
    """An array of an IDX file, packed or not. :raises ValueError: it is none."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise ValueError(f"{path}: no IDX file of bytes")
    sizes = struct.unpack(f">{data[3]}I", data[4:4 + 4 * data[3]])
    array = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if array.size != np.prod(sizes):
        raise ValueError(f"{path}: {array.size} numbers for a shape of {sizes}; it is cut off")
    return array.reshape(sizes)


def load(folder: str | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images (n, 1, size, size) in 0..1 and digits, then those held out."""
    if folder is None:
        images, labels = digits.load()
        order = np.random.RandomState(seed).permutation(len(images))
        held, rest = order[:len(images) // 5], order[len(images) // 5:]
        images = images.reshape(-1, 1, 8, 8)
        return images[rest], labels[rest], images[held], labels[held]
    out = []
    for part in ("train", "t10k"):
        for kind, axes in (("images", 3), ("labels", 1)):
            found = sorted(Path(folder).glob(f"{part}-{kind}*"))
            if not found:
                raise FileNotFoundError(f"{folder} has no {part}-{kind}-idx{axes}-ubyte[.gz], as MNIST has")
            array = idx(found[0])
            out.append(array[:, None].astype(np.float32) / 255 if kind == "images" else array.astype(np.int32))
    return out[0], out[1], out[2], out[3]


def run(args: argparse.Namespace, weights: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """:param weights: to begin with; default: random ones, of the seed."""
    images, labels, held_images, held_labels = load(args.data, args.seed)
    device, size = args.device, images.shape[-1]
    model = ConvNet(size, args.width, 4 * args.width)
    if weights is None:
        fill(model, args.seed)
    else:
        model.load_state_dict(weights)
    model.to(device)
    optimizer = optim.AdamW(model.parameters(), lr=args.lr)
    schedule = optim.OneCycleLR(optimizer, args.lr, args.steps + 1)

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
    pending: list[Tensor] = []
    losses: list[float] = []
    started = time.perf_counter()
    for n in range(args.steps):
        at = rng.randint(0, len(images), args.batch)
        pending.append(step(Tensor(images[at], device=device), Tensor(labels[at], device=device)))
        schedule.step()
        if len(pending) == 20 or n == args.steps - 1:       # values come back now and then: no step waits for them
            losses += Tensor.stack(pending).tolist()
            pending.clear()
        progress.step(f"loss {losses[-1]:.4f}" if losses else "")
    seconds = time.perf_counter() - started
    progress.close()
    model.eval()
    right = 0
    count = min(len(held_images), args.test)
    for at in range(0, count - args.batch + 1, args.batch):     # whole batches: the same kernels each time
        part = slice(at, at + args.batch)
        right += int((predict(Tensor(held_images[part], device=device)).numpy() == held_labels[part]).sum())
    seen = count // args.batch * args.batch
    return {"device": device, "steps": args.steps, "seconds": round(seconds, 3), "losses": losses,
            "accuracy": right / max(seen, 1), "held_out": seen}


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--data", help="a folder with MNIST's files; without: examples/data")
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--width", type=int, default=16, help="channels of the first convolution")
    options.add_argument("--lr", type=float, default=0.01)
    options.add_argument("--test", type=int, default=10000, help="held-out images to look at, at most")
    args = options.parse_args(argv)
    if args.small:
        args.steps, args.batch, args.width, args.test = min(args.steps, 4), 16, 4, 64
    result = run(args)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{result['device']}: loss {result['losses'][0]:.3f} -> {result['losses'][-1]:.3f}, "
              f"{result['accuracy']:.1%} of {result['held_out']} held-out images right after {result['steps']} steps "
              f"of {args.batch}, {result['seconds']:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(script(main))
