"""Draws the pictures of docs/viz.md, and DEBUG's of docs/compiler.md: ``python docs/pictures/viz.py``. Needs Chromium;
runs on the software card.

A program is recorded with VIZ=out.html, as anybody would; the page is opened in a headless browser and photographed.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from compiler.viz import read  # noqa: E402 - the checkout's own, wherever this is started from
from tools.chromium import Chromium, Page  # noqa: E402

PROGRAM = '''
import numpy as np
from compiler import Tensor, jit, nn, optim

rng = np.random.default_rng(0)
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
optimizer = optim.SGD(model.parameters(), lr=0.05)


@jit
def step(x, target):
    optimizer.zero_grad()
    loss = model(x).cross_entropy(target)
    loss.backward()
    optimizer.step()
    return loss


def attend(query, key, value):
    scores = query @ key.T / 8
    return scores.softmax(-1) @ value


tokens = Tensor(rng.standard_normal((64, 64)).astype(np.float32))
attend(tokens, tokens, tokens).numpy()
for _ in range(6):
    x = Tensor(rng.standard_normal((64, 32)).astype(np.float32))
    step(x, Tensor(rng.integers(0, 8, 64).astype(np.int32))).item()
'''


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out.html"
        (Path(directory) / "net.py").write_text(PROGRAM, encoding="utf-8")
        subprocess.run([sys.executable, "net.py"], cwd=directory, check=True, env={
            **os.environ, "VIZ": "out.html", "AM": "1", "AMDRV_HAL": "mock", "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": directory})
        terminal(directory)
        data = read(str(out))
        with Chromium() as browser:
            for name, (at, dark, prepare) in views(data).items():
                page = browser.open(f"{out.as_uri()}#{at}", dark=dark)
                page.wait("document.body.dataset.ready === 'yes'")
                prepare(page)
                picture = Image.open(io.BytesIO(page.picture())).convert("RGB")
                picture.quantize(128, dither=Image.Dither.NONE).save(HERE / f"viz-{name}.png", optimize=True)
                print(f"viz-{name}.png")


def terminal(directory: str) -> None:
    """What DEBUG=2 prints, in its colours."""
    done = subprocess.run([sys.executable, "net.py"], cwd=directory, check=True, capture_output=True, text=True, env={
        **os.environ, "DEBUG": "2", "FORCE_COLOR": "1", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": directory})
    lines = done.stderr.replace(directory, "~/.cache").splitlines()
    console = Console(record=True, width=126, file=io.StringIO(), force_terminal=True)
    for line in [*lines[:13], *lines[-1:]]:
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop", crop=True)
    picture = console.export_svg(title="DEBUG=2 python net.py", unique_id="debug")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)      # no fonts from elsewhere
    (HERE / "debug.svg").write_text(picture.replace("Fira Code, monospace", "monospace"), encoding="utf-8")
    print("debug.svg")


def views(data: dict) -> dict:      # type: ignore[type-arg]
    """{name: (address, dark, what to do first)}"""
    names = [k["label"] for k in data["kernels"]]
    kernel = next(n for n, label in enumerate(names) if label.startswith("softmax"))
    product = next(n for n, label in enumerate(names) if label.startswith("matmul"))
    rewritten = max((p for k in data["kernels"] for p in k["passes"]
                     if any(data["rules"][s[2]]["file"].endswith("legalize.py") for s in data["passes"][p]["steps"])),
                    key=lambda p: -data["nodes"][data["passes"][p]["before"]][4][0])
    largest = max(range(len(data["schedules"])), key=lambda n: len(data["schedules"][n]["items"]))

    def nothing(page: Page) -> None:
        pass

    def node(page: Page) -> None:
        """A click on the product."""
        page.run("""(() => { const v = app.views[0];
            const id = v.all.findLast(i => app.r.nodes[i][0] === 'REDUCE_AXIS'); v.choose(id); v.select(id); })()""")

    def busy(page: Page) -> None:
        """The last replays, near by."""
        page.run("""(() => { const v = app.views[0];
            const r = app.r.spans.filter(s => s[4].startsWith('jit replay')); const length = v.last - v.first;
            v.from = r.at(-3)[2] - length * 0.01; v.to = v.last + length * 0.01;
            v.chosen = v.rows.at(-2).spans.at(-4); v.select(v.chosen); v.draw(); })()""")
    return {"rewrites": (f"rewrites/{rewritten}/1", False, nothing),
            "graph": ("schedule/0/graph", False, node),
            "schedule": (f"schedule/{largest}", True, nothing),
            "kernel": (f"kernels/{product}/asm", False, nothing),
            "uops": (f"kernels/{kernel}/uops", True, nothing),
            "timeline": ("timeline", False, busy)}


if __name__ == "__main__":
    main()
