"""What the suites of amdrv-info share: a document checked against the schema, a mock card that worked."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from amdrv import pm4, sdma
from amdrv.device import Device
from amdrv.hal.mock import MockHal
from tools.amdrv_info import schema

Run = Callable[..., tuple[int, str, str]]


def strict(node: Any) -> Any:
    """The schema with no room for fields that it does not name: what is printed must be documented."""
    if isinstance(node, dict):
        said = {key: strict(value) for key, value in node.items()}
        if "properties" in said and "additionalProperties" not in said:
            said["additionalProperties"] = False
        return said
    return [strict(each) for each in node] if isinstance(node, list) else node


_STRICT = strict(copy.deepcopy(schema.load()))


def checked(text: str) -> dict[str, Any]:
    """A document that fits the schema, with no field that the schema does not name."""
    document: dict[str, Any] = json.loads(text)
    name = "failure" if "command" not in document else str(document["command"])
    if name == "vm":
        name = "vm-map" if "ranges" in document else "vm-walk"
    wanted = {"$ref": f"#/$defs/{name}", "$defs": _STRICT["$defs"]}
    best = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(wanted).iter_errors(document))
    if best is not None:
        pytest.fail(f"{name}: {best.json_path}: {best.message[:300]}")
    jsonschema.Draft202012Validator(schema.load()).validate(document)       # and the schema as others use it
    return document


class Worked:
    """A machine whose card was booted by our driver and has copied, waited and been interrupted; still running."""

    def __init__(self, device: Device, hal: MockHal) -> None:
        self.device, self.hal, self.board = device, hal, hal.machine.gpus[0]
        self.source = device.alloc(1 << 16, name="source of the copy")
        self.target = device.alloc(1 << 16, kind="system", name="target of the copy")
        assert self.source.view is not None and self.target.view is not None
        self.source.view[:] = np.arange(1 << 16, dtype=np.uint8)
        device.flush_hdp()
        self.copy = [*sdma.build("COPY_LINEAR", COUNT=0xFFFF, SRC_ADDR=self.source.address,
                                 DST_ADDR=self.target.address), *sdma.build("TRAP", INT_CONTEXT=0)]
        device.sdma_rings[0].submit(np.array(self.copy, np.uint32))
        self.nop = pm4.build("NOP")
        self.write = pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=self.target.address, DATA=[7])
        device.compute_rings[0].submit(np.array([*self.nop, *self.write], np.uint32))
        while not all(ring.idle for ring in (device.sdma_rings[0], device.compute_rings[0])):
            device.interrupts.wait(0.05)
        device.interrupts.wait(0.2)
