"""Every look of amdrv-info at a card that amdgpu drives, one process for all: a line of what each saw.

Run in a guest by ``tests/vm/test_amdgpu.py``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from tools.amdrv_info.__main__ import main

REPORT = "/tmp/report.zip"


def look(*words: str) -> dict[str, Any]:
    """A command's document, or its error's."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        main([*words, "--json"])
    document: dict[str, Any] = json.loads(said.getvalue())
    return document


def tell(name: str, text: object) -> None:
    print(f"LOOKED {name}: {text}", flush=True)


def failure(document: dict[str, Any]) -> str:
    error = document["error"]
    return f"{error['type']}, {'GFXOFF' if 'GFXOFF' in error['message'] else error['message']}"


def everything() -> None:
    tell("list", look("list")["cards"][0]["kernel_driver"])
    card = look("show")
    gpu, kernel = card["gpu"], card["kernel"]
    tell("show", f"{card['driven_by']}, {gpu['arch']}, {gpu['vram_bytes'] >> 20} MiB, "
         f"mes {kernel['firmware_loaded']['mes']:#x}, ta_dtm {kernel['firmware_loaded']['ta_dtm']:#x}, "
         f"edge {card['sensors']['temperatures']['edge']}")
    tell("reg asleep", failure(look("reg", "GCVM_CONTEXT0_CNTL")))
    tell("vm asleep", failure(look("vm", "map", "--vmid", "0")))
    fields = look("reg", "GCVM_CONTEXT0_CNTL", "--wake")["decoded"]
    tell("reg", f"enabled {fields['ENABLE_CONTEXT']}, depth {fields['PAGE_TABLE_DEPTH']}")
    space = look("vm", "map", "--vmid", "0", "--wake")
    tell("vm map", f"{len(space['ranges'])} ranges, {space['problems']}")
    walk = look("vm", hex(space["ranges"][0]["address"]), "--vmid", "0", "--wake")
    tell("vm", "valid" if walk["valid"] else walk)
    rings = look("ring")
    tell("ring", f"{' '.join(ring['name'] for ring in rings['rings'])}; {rings['missing']}")
    tell("ih", f"ring at {look('ih')['ring_address']:#x}")
    queues = look("queue", "--wake")
    tell("queue", f"{' '.join(queue['name'] for queue in queues['queues'])}; {queues['missing']}")
    tell("wave", f"{len(look('wave', '--wake')['waves'])} waves")
    tell("top", look("top", "--count", "1", "--interval", "0.1")["engines"][0]["name"])
    report = look("report", "--wake", "-o", REPORT)
    tell("report", f"registers_and_memory {report['registers_and_memory']}, missing {sorted(report['without'])}")
    tell("after", (Path(os.environ["DEBUG"]) / "amdgpu_test_ib").read_text().splitlines()[-1])


if __name__ == "__main__":
    sys.exit(everything())
