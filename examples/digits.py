"""Train a small network on handwritten digits, and say what really happened.

    python examples/digits.py                        # on the CPU
    AM=1 AMDRV_HAL=mock python examples/digits.py    # on a software AMD GPU that amdrv boots from cold

The data are the 1797 8x8 images in examples/data. On a GPU the last page shows the boot, and what the driver and
(where the card is the mock) the card counted; if the two disagree, the script fails.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiler import Tensor, jit, nn, no_grad, optim
from examples.progress import Progress, script

DATA = Path(__file__).resolve().parent / "data" / "digits.csv.gz"
WANTED = 0.95           # share of the held-out images that must be right
COUNTS = ("kernels", "pm4_packets", "sdma_packets", "copied_bytes", "page_table_entries", "tlb_flushes", "interrupts")


def load() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 64) float32 in 0..1, and digits (1797,) int32."""
    with gzip.open(DATA, "rt") as text:
        table = np.loadtxt(text, delimiter=",", dtype=np.float32)
    return table[:, :64] / 16, table[:, 64].astype(np.int32)


def batches(count: int, size: int, epochs: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """(epoch, positions), shuffled anew each epoch; only whole batches, so that every step is the same kernels."""
    rng = np.random.RandomState(seed)
    for epoch in range(epochs):
        order = rng.permutation(count)
        for at in range(0, count - size + 1, size):
            yield epoch, order[at:at + size]


def train(args: argparse.Namespace) -> dict[str, Any]:
    images, digits = load()
    order = np.random.RandomState(args.seed).permutation(len(images))
    held, rest = order[:len(images) // 5], order[len(images) // 5:]
    device = args.device
    Tensor.manual_seed(args.seed)
    model = nn.Sequential(
        nn.Linear(64, args.hidden, device=device), nn.ReLU(), nn.Linear(args.hidden, 10, device=device)
    )
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)

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

    per_epoch = len(rest) // args.batch
    progress = Progress(per_epoch * args.epochs, args.json)
    losses: list[float] = []
    pending: list[Tensor] = []
    started = time.perf_counter()
    for epoch, at in batches(len(rest), args.batch, args.epochs, args.seed):
        x, y = images[rest[at]], digits[rest[at]]
        pending.append(step(Tensor(x, device=device), Tensor(y, device=device)))
        if len(pending) == per_epoch:       # values come back once an epoch; the device is never waited for in between
            losses += Tensor.stack(pending).tolist()
            pending.clear()
            progress.line(f"  epoch {epoch + 1:>2}  loss {np.mean(losses[-per_epoch:]):.4f}")
        progress.step(f"loss {losses[-1]:.4f}" if losses else "")
    seconds = time.perf_counter() - started
    progress.line("")
    right = predict(Tensor(images[held], device=device)).numpy() == digits[held]
    return {"device": device, "epochs": args.epochs, "steps": len(losses), "seconds": round(seconds, 3),
            "losses": losses, "accuracy": float(np.mean(right)), "held_out": len(held)}


def gpu_report(name: str) -> dict[str, Any]:
    """What the driver counted on device ``name``, and beside it what the mock counted, if it is one."""
    import hcq
    device = hcq.open(name)
    device.synchronize()
    driver = device.backend.device              # type: ignore[attr-defined]
    device.backend.check()
    report: dict[str, Any] = {
        "card": f"{device.properties.name} ({device.properties.arch}, {device.properties.compute_units} CUs)",
        "boot": [(stage.name, stage.seconds) for stage in driver.boot_stages],
        "driver": {key: int(driver.statistics[key]) for key in COUNTS},
    }
    board = getattr(driver.pci, "board", None)
    if board is not None:       # the card is software: ask it what it saw
        report["mock"] = {key: int(board.counters[key]) for key in COUNTS}
        report["instructions"] = int(board.counters["instructions"])
    return report


def page(result: dict[str, Any]) -> str:
    lines = [f"{result['device']}: {result['accuracy']:.1%} of {result['held_out']} held-out images right after "
             f"{result['epochs']} epochs, {result['steps']} steps, {result['seconds']:.1f} s"]
    if gpu := result.get("gpu"):
        total = sum(seconds for _, seconds in gpu["boot"])
        lines += ["", f"card     {gpu['card']}", f"boot     {total * 1e3:.1f} ms"]
        lines += [f"           {name:<24}{seconds * 1e3:>9.1f} ms" for name, seconds in gpu["boot"]]
        seen = gpu.get("mock")
        lines += ["", f"counts   {'':<20}{'driver':>14}{'card' if seen else '':>14}"]
        for key in COUNTS:
            lines.append(
                f"           {key.replace('_', ' '):<18}{gpu['driver'][key]:>14,}"
                + (f"{seen[key]:>14,}{'' if seen[key] == gpu['driver'][key] else '  DIFFERS'}" if seen else "")
            )
        if seen:
            lines.append(f"           {'instructions':<18}{'':>14}{gpu['instructions']:>14,}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="AM" if os.environ.get("AM", "0") not in ("", "0") else "CPU",
                        help="CPU, AM, AM:1 ... (default: CPU, or AM with AM=1 in the environment)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="one epoch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    args = parser.parse_args(argv)
    if args.small:
        args.epochs = 1
    result = train(args)
    failures = []
    if not all(map(math.isfinite, result["losses"])):
        failures.append("a loss is not finite")
    if result["accuracy"] < WANTED and args.epochs >= parser.get_default("epochs"):
        failures.append(f"accuracy {result['accuracy']:.1%} is below {WANTED:.0%}")
    if args.device != "CPU":
        result["gpu"] = gpu_report(args.device)
        seen = result["gpu"].get("mock", result["gpu"]["driver"])
        failures += [f"{key}: the driver counted {result['gpu']['driver'][key]}, the card {seen[key]}"
                     for key in COUNTS if seen[key] != result["gpu"]["driver"][key]]
    result["failures"] = failures
    print(json.dumps(result) if args.json else page(result))
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(script(main))
