"""What the screens show, gathered from the HAL: cards, and one card in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import amdrv.regs
from amdrv.errors import AmdrvError, NoCardError, UnknownIpError
from amdrv.facts import navi31
from amdrv.hal import AMD_VENDOR_ID, Hal, PciFunction
from amdrv.hal.looking import Look, driven_by, look
from tools.amdrv_info import firmware, kernel, sensors
from tools.amdrv_info.doctor import Host
from tools.amdrv_info.dumps import firmware_document
from tools.amdrv_info.firmware import Image
from tools.amdrv_info.pci import Aer, Bar, Link, Pci, ResizableBar, read_pci

if TYPE_CHECKING:
    from amdrv.device import Device

__all__ = ["Block", "Booted", "Card", "Gpu", "SCHEMA", "cards", "choose", "firmware_documents", "list_document",
           "marketing_name", "of_document", "show", "show_document"]

SCHEMA = "amdrv-info/1"

MEMORY_KINDS = {(8, 10): "GDDR6"}
"""By the version of the memory controllers (UMC): what Navi 31's (8.10) drive; Linux 6.1, umc_v8_10.c, and AMD's
product page of the RX 7900 XTX."""
CACHES = (("vector L0, a CU", "gc_tcp_l1_size"), ("scalar L0, a WGP", "gc_l1_data_cache_size_per_sqc"),
          ("instruction, a WGP", "gc_l1_instruction_cache_size_per_sqc"),
          ("GL1, an instance", "gc_gl1c_size_per_instance"), ("GL2", "gc_gl2c_per_gpu"))
"""KiB (Linux 6.1, kfd_crat.c, kfd_fill_gpu_cache_info_from_gfx_config); GC tables older than 1.2 do not say."""

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
    vram_kind: str | None       # "GDDR6"
    caches: dict[str, int]      # bytes; empty where the discovery table does not say
    gl2_channels: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Booted:
    """What only a running card tells."""

    compute_units: int
    clock_hz: float
    stages: tuple[tuple[str, float], ...]       # (name, seconds)
    loaded: tuple[str, ...]                     # what the PSP was given, in its order
    smu_version: str
    sensors: dict[str, Any]


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
    driven_by: str | None = None
    surroundings: dict[str, Any] | None = None      # what this machine's sysfs says of it (kernel.surroundings)
    kernel: dict[str, Any] | None = None            # what amdgpu says, where it drives the card (kernel.gpu)
    sensors: dict[str, Any] | None = None
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


def show(hal: Hal, function: PciFunction, *, boot: bool = False, host: Host | None = None,
         device: Device | None = None) -> Card:
    """Look at a card, whoever drives it; with ``boot``, bring it up and look again. What fails is in ``Card.error``.

    :param device: the card, where this process drives it already.
    """
    card = Card(function, marketing_name(function), hal.name)
    host = host if host is not None else Host()
    try:
        card.driven_by = driven_by(hal, function)
        if hal.name != "mock":
            card.surroundings = kernel.surroundings(host, function.address)
            card.kernel = kernel.gpu(host, function.address)
        if card.kernel is not None:
            card.sensors = kernel.sensors_of(host, function.address)
        folder = kernel.debugfs(host, function.address) if hal.name != "mock" else None
        with look(hal, function.address, debugfs=folder) as seen:
            card.pci = read_pci(seen)
            card.gpu = _gpu(seen)
        card.firmware = firmware.look(hal, card.gpu.blocks)
        if device is not None:
            card.booted = _running(device)
        elif boot:
            card.booted = _boot(hal, function)
        if card.booted is not None:
            card.sensors = card.booted.sensors
    except AmdrvError as error:
        card.error = error
        _from_kernel(card, hal)
    return card


def _from_kernel(card: Card, hal: Hal) -> None:
    """The kernel lets nobody map the BARs: amdgpu's own list of blocks still says which firmware the card wants."""
    if card.kernel and card.gpu is None:
        blocks = tuple(Block(b["name"], b["instance"], b["version"], tuple(b["bases"]), b["harvested"], None)
                       for b in card.kernel["blocks"])
        card.firmware = firmware.look(hal, blocks)


def _gpu(device: Look) -> Gpu:
    from amdrv.ip import discovery

    table, vram = discovery.read(device.bar(5), device.bar(0))
    shape, umc = table.gc, table.find("UMC")
    return Gpu(arch=_arch(table.require("GC").version),
               compute_units=2 * shape.wgps_per_array * shape.arrays_per_engine * shape.shader_engines,
               shader_engines=shape.shader_engines, arrays_per_engine=shape.arrays_per_engine,
               wave_size=shape.wave_size, lds_bytes=shape.lds_kib << 10, vram_bytes=vram,
               vram_kind=MEMORY_KINDS.get(umc.version[:2]) if umc else None,
               caches={name: shape.tables[key] << 10 for name, key in CACHES if shape.tables.get(key)},
               gl2_channels=shape.tables.get("gc_num_gl2c") or shape.tables.get("gc_num_tccs") or 0,
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
        return _running(device)


def _running(device: Device) -> Booted:
    images = device.firmware
    return Booted(device.compute_units, device.clock_hz,
                  tuple((stage.name, stage.seconds) for stage in device.boot_stages),
                  (*(part.name for part in images.bootloader), images.toc.name, images.smu.name,
                   *(image.name for image in images.images)),
                  ".".join(map(str, device.smu.version)), sensors.of_device(device))


def firmware_documents(hal: Hal, function: PciFunction) -> dict[str, Any]:
    """``fw --json`` of every file on this machine that the card asks for."""
    folder = kernel.debugfs(Host(), function.address) if hal.name != "mock" else None
    with look(hal, function.address, debugfs=folder) as opened:
        found = firmware.look(hal, _gpu(opened).blocks)
    return {"files": [firmware_document(str(Path(image.directory) / image.file)) if image.found and not image.error
                      else {"path": image.file, "error": {"type": "FirmwareError", "message": image.error}}
                      for image in found]}


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
        "driven_by": card.driven_by, "pci": asdict(card.pci) if card.pci else None,
        "surroundings": card.surroundings, "kernel": card.kernel, "sensors": card.sensors,
        "gpu": asdict(card.gpu) if card.gpu else None,
        "firmware": [image.document() for image in card.firmware],
        "boot": {"compute_units": card.booted.compute_units, "clock_hz": card.booted.clock_hz,
                 "loaded": list(card.booted.loaded), "smu_version": card.booted.smu_version,
                 "stages": [{"name": name, "seconds": seconds} for name, seconds in card.booted.stages]}
        if card.booted else None,
        "error": {"type": type(card.error).__name__, "message": str(card.error)} if card.error else None,
    }


def of_document(said: dict[str, Any]) -> Card:
    """A card of ``show --json``, for the screen. :raises AmdrvError: the document is of another form."""
    try:
        function = function_of(said["card"])
        card = Card(function, said["card"]["name"], said["hal"])
        pci, gpu, booted = said["pci"], said["gpu"], said["boot"]
        if pci:
            card.pci = Pci(link=Link(**pci["link"]) if pci["link"] else None,
                           bars=tuple(Bar(**bar) for bar in pci["bars"]),
                           resizable=ResizableBar(pci["resizable"]["index"], pci["resizable"]["size"],
                                                  tuple(pci["resizable"]["supported"])) if pci["resizable"] else None,
                           bus_master=pci["bus_master"], msi=pci["msi"], atomics=pci["atomics"],
                           aer=Aer(tuple(pci["aer"]["correctable"]), tuple(pci["aer"]["uncorrectable"]))
                           if pci["aer"] else None)
        if gpu:
            blocks = tuple(Block(**{**block, "bases": tuple(block["bases"])}) for block in gpu["blocks"])
            card.gpu = Gpu(**{**gpu, "blocks": blocks})
        card.firmware = tuple(Image(**{**image, "holds": tuple(image["holds"])}) for image in said["firmware"])
        card.sensors, card.surroundings, card.kernel = said["sensors"], said["surroundings"], said["kernel"]
        card.driven_by = said["driven_by"]
        if booted:
            card.booted = Booted(booted["compute_units"], booted["clock_hz"],
                                 tuple((stage["name"], stage["seconds"]) for stage in booted["stages"]),
                                 tuple(booted["loaded"]), booted["smu_version"], said["sensors"])
        if said["error"]:
            card.error = AmdrvError(said["error"]["message"])
    except (KeyError, TypeError, AttributeError) as error:
        raise AmdrvError(f"this is no document of show, schema {SCHEMA}: {error!r}") from error
    return card


def function_of(said: dict[str, Any]) -> PciFunction:
    """A function as ``list`` and ``show`` print it; its class is a display's."""
    return PciFunction(said["address"], said["vendor"], said["device"], 0x030000, said["revision"],
                       tuple(said["subsystem"]), said["kernel_driver"])
