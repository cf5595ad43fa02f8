"""Simulated kernels, and hcq's devices on their cards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import hcq
import mock
from amdrv.hal.mock import MockHal
from amdrv.kfd.backend import open_backend
from amdrv.kfd.process import connect
from amdrv.kfd.simulated import SimulatedKernel


@contextmanager
def kernel_with(count: int = 1, vram: str = "128M", **more: object) -> Iterator[SimulatedKernel]:
    """A kernel of its own, on a machine of its own."""
    with ExitStack() as stack:
        machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram=vram) for _ in range(count)])
        stack.callback(machine.close)
        kernel = SimulatedKernel(MockHal(machine), **more)      # type: ignore[arg-type]
        stack.callback(kernel.shutdown)
        yield kernel


@contextmanager
def kfd_cards(count: int = 2, vram: str = "512M") -> Iterator[list[hcq.Device]]:
    """With ``KFD_TEST_KERNEL=real`` the first card of this machine's own kernel, alone."""
    if os.environ.get("KFD_TEST_KERNEL") == "real":
        with hcq.open("KFD") as device:
            nowhere = SimpleNamespace(board=SimpleNamespace(notes=[]))      # the card is another process's
            device.backend.kfd.pci = nowhere        # type: ignore[attr-defined]
            yield [device]
        return
    with kernel_with(count, vram) as kernel, ExitStack() as stack:
        devices = []
        for number, gpu in enumerate(kernel.gpus):
            backend = open_backend(number, process=connect(kernel))
            backend.kfd.pci = gpu.device.pci        # type: ignore[attr-defined]  # where hcq's tests find the mock card
            devices.append(stack.enter_context(hcq.Device(backend)))
        yield devices
