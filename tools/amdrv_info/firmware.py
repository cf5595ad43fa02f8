"""Which firmware files a card asks for, and which of them this machine has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from amdrv.errors import FirmwareError
from amdrv.firmware import find, parse, read, search_path
from amdrv.hal import Hal

if TYPE_CHECKING:
    from tools.amdrv_info.card import Block

__all__ = ["FILES", "Image", "look"]

FILES = (
    ("psp", "MP0", ("_sos", "_ta")),
    ("smu", "MP1", ("",)),
    ("gc", "GC", ("_pfp", "_me", "_mec", "_rlc", "_imu", "_mes_2", "_mes1")),
    ("sdma", "SDMA0", ("",)),
)
"""(prefix, the IP whose version is in the name, suffixes): Linux 6.1, amdgpu_ucode.c, amdgpu_ucode_ip_version_decode,
and the firmware requests of psp_v13_0.c, smu_v13_0.c, gfx_v11_0.c, imu_v11_0.c, mes_v11_0.c and sdma_v6_0.c."""


@dataclass(frozen=True)
class Image:
    """A firmware file. ``error`` is empty where it was found and passed every check of ``amdrv.firmware``."""

    file: str
    found: bool
    directory: str = ""
    version: int = 0
    size: int = 0                       # bytes, unpacked
    holds: tuple[str, ...] = ()         # what the PSP is given from it
    error: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def look(hal: Hal, blocks: Sequence[Block]) -> tuple[Image, ...]:
    """Each file that the card's blocks ask for, in AMDRV_FIRMWARE and then the HAL's directories."""
    directories = search_path(hal.firmware)
    return tuple(_image(name, directories) for name in _names(blocks))


def _names(blocks: Sequence[Block]) -> Iterator[str]:
    versions = {block.name: block.version.replace(".", "_") for block in blocks if not block.harvested}
    for prefix, ip, suffixes in FILES:
        if ip in versions:
            yield from (f"{prefix}_{versions[ip]}{suffix}.bin" for suffix in suffixes)


def _image(name: str, directories: Sequence[Any]) -> Image:
    try:
        path = find(name, directories)
    except FirmwareError:
        return Image(name, found=False, error="not found")
    try:
        data = read(path)
        file = parse(name, data)
    except FirmwareError as error:
        return Image(name, True, str(path.parent), error=str(error).removeprefix(f"{name}: "))
    return Image(name, True, str(path.parent), file.ucode_version, len(data),
                 tuple(section.name for section in file.sections))
