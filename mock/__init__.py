"""A GPU made of software, exact enough that the driver that boots it boots the card.

    machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram="1G")])
    machine.gpus[0]         # a Board: read_config, read_bar, write_bar, bar_memory, on_msi
    machine.bus             # the HostBus: attach(host_address, size) -> bus address

From ``amdrv`` this package takes facts and register tables only; what the driver does with them it never sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mock.machine import Gpu, Machine

__all__ = ["Gpu", "Machine"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from mock import machine
        return getattr(machine, name)
    raise AttributeError(f"module 'mock' has no attribute {name!r}")
