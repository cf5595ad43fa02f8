"""What the screens show, gathered from the HAL: cards, and one card in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import amdrv.regs
from amdrv.errors import AmdrvError, NoCardError, UnknownIpError
from amdrv.facts import navi31
from amdrv.hal import AMD_VENDOR_ID, Hal, PciDevice, PciFunction
from tools.amdrv_info import firmware
from tools.amdrv_info.firmware import Image
from tools.amdrv_info.pci import Pci, read_pci

__all__ = ["Block", "Booted", "Card", "Gpu", "SCHEMA", "cards", "choose", "list_document", "marketing_name", "show",
           "show_document"]

SCHEMA = "amdrv-info/1"

_NAMES = {(navi31.DEVICE_ID, navi31.REVISION_ID): navi31.MARKETING_NAME}


@dataclass(frozen=True)
class Block:
    """One entry of the discovery table."""

    name: str
    instance: int
    version: str
    bases: tuple[int, ...]      # dwords
    harvested: bool
    registers: str | None       # the register table that describes it, where there is one


@dataclass(frozen=True)
class Gpu:
    """What the discovery table says. ``compute_units`` is before harvesting, unless the card was booted."""

    arch: str
    compute_units: int
    shader_engines: int
    arrays_per_engine: int
    wave_size: int
    lds_bytes: int
    vram_bytes: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Booted:
    """What only a running card tells."""

    compute_units: int
    clock_hz: float
    stages: tuple[tuple[str, float], ...]       # (name, seconds)
    loaded: tuple[str, ...]                     # what the PSP was given, in its order


@dataclass
class Card:
    """One card; ``error`` says why the rest is missing."""

    function: PciFunction
    name: str
    hal: str
    pci: Pci | None = None
    gpu: Gpu | None = None
    firmware: tuple[Image, ...] = ()
    booted: Booted | None = None
    error: AmdrvError | None = field(default=None)


def marketing_name(function: PciFunction) -> str:
    unknown = f"AMD GPU {function.device:04x} rev {function.revision:02x}"
    return _NAMES.get((function.device, function.revision), unknown)


def cards(hal: Hal) -> list[PciFunction]:
    """The GPUs that a HAL sees, whoever holds them.

    :raises NoCardError: there is none.
    """
    found = [function for function in hal.functions(AMD_VENDOR_ID) if function.is_display]
    if not found:
        raise NoCardError(f"the {hal.name} HAL sees no AMD GPU; AMDRV_HAL=mock (or --hal mock) gives a software card")
    return found


def choose(hal: Hal, device: str) -> PciFunction:
    """The card of an index ("0") or a PCI address ("0000:03:00.0", "03:00.0").

    :raises NoCardError: there is none of that name.
    """
    found = cards(hal)
    for index, function in enumerate(found):
        if device in (str(index), function.address, function.address.removeprefix("0000:")):
            return function
    known = ", ".join(f"{index} ({function.address})" for index, function in enumerate(found))
    raise NoCardError(f"no card {device!r}; the {hal.name} HAL sees {known}")


def show(hal: Hal, function: PciFunction, *, boot: bool = False) -> Card:
    """Look at a card; with ``boot``, bring it up and look again. What fails is in ``Card.error``."""
    card = Card(function, marketing_name(function), hal.name)
    try:
        with hal.open(function.address) as device:
            card.pci = read_pci(device)
            card.gpu = _gpu(device)
        card.firmware = firmware.look(hal, card.gpu.blocks)
        if boot:
            card.booted = _boot(hal, function)
    except AmdrvError as error:
        card.error = error
    return card


def _gpu(device: PciDevice) -> Gpu:
    from amdrv.ip import discovery

    table, vram = discovery.read(device.bar(5), device.bar(0))
    shape = table.gc
    return Gpu(arch=_arch(table.require("GC").version),
               compute_units=2 * shape.wgps_per_array * shape.arrays_per_engine * shape.shader_engines,
               shader_engines=shape.shader_engines, arrays_per_engine=shape.arrays_per_engine,
               wave_size=shape.wave_size, lds_bytes=shape.lds_kib << 10, vram_bytes=vram,
               blocks=tuple(Block(ip.name, ip.instance, ".".join(map(str, ip.version)), ip.bases, ip.harvested,
                                  _table(ip.name, ip.version)) for ip in table.ips))


def _arch(version: Sequence[int]) -> str:
    """LLVM's name of a GC version: 11.0.0 is gfx1100 (LLVM, User Guide for AMDGPU Backend, "Processors")."""
    major, minor, stepping = version
    return f"gfx{major}{minor:x}{stepping:x}"


def _table(name: str, version: Sequence[int]) -> str | None:
    try:
        return amdrv.regs.table_for(name, version).name
    except UnknownIpError:
        return None


def _boot(hal: Hal, function: PciFunction) -> Booted:
    from amdrv.device import Device

    with Device.open(hal=hal, address=function.address) as device:
        images = device.firmware
        return Booted(device.compute_units, device.clock_hz,
                      tuple((stage.name, stage.seconds) for stage in device.boot_stages),
                      (*(part.name for part in images.bootloader), images.toc.name, images.smu.name,
                       *(image.name for image in images.images)))


# JSON --------------------------------------------------------------------------------------------------

def _function(function: PciFunction) -> dict[str, Any]:
    return {"address": function.address, "vendor": function.vendor, "device": function.device,
            "revision": function.revision, "subsystem": list(function.subsystem),
            "name": marketing_name(function), "kernel_driver": function.driver}


def list_document(hal: Hal, functions: Sequence[PciFunction]) -> dict[str, Any]:
    """``list --json``."""
    return {"schema": SCHEMA, "command": "list", "hal": hal.name,
            "cards": [{"index": index} | _function(function) for index, function in enumerate(functions)]}


def show_document(card: Card) -> dict[str, Any]:
    """``show --json``: numbers are plain (bytes, hertz, seconds, bus addresses); what is not known is null."""
    return {
        "schema": SCHEMA, "command": "show", "hal": card.hal, "card": _function(card.function),
        "pci": asdict(card.pci) if card.pci else None,
        "gpu": asdict(card.gpu) if card.gpu else None,
        "firmware": [image.document() for image in card.firmware],
        "boot": {"compute_units": card.booted.compute_units, "clock_hz": card.booted.clock_hz,
                 "loaded": list(card.booted.loaded),
                 "stages": [{"name": name, "seconds": seconds} for name, seconds in card.booted.stages]}
        if card.booted else None,
        "error": {"type": type(card.error).__name__, "message": str(card.error)} if card.error else None,
    }
