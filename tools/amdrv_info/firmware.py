"""Which firmware files a card asks for, and which of them this machine has."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdrv.facts import ucode
from amdrv.hal import Hal

if TYPE_CHECKING:
    from tools.amdrv_info.card import Block

__all__ = ["FILES", "Image", "find"]

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
    """A firmware file. ``error`` is empty where it was found and its header holds together."""

    file: str
    directory: str = ""
    version: int = 0
    size: int = 0           # bytes of the file
    error: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"found": bool(self.directory)}


def find(hal: Hal, blocks: Sequence[Block]) -> tuple[Image, ...]:
    """Each file that the card's blocks ask for, in AMDRV_FIRMWARE and then the HAL's directories."""
    directories = list(_directories(hal))
    return tuple(_look(name, directories) for name in _names(blocks))


def _names(blocks: Sequence[Block]) -> Iterator[str]:
    versions = {block.name: block.version.replace(".", "_") for block in blocks if not block.harvested}
    for prefix, ip, suffixes in FILES:
        if ip in versions:
            yield from (f"{prefix}_{versions[ip]}{suffix}.bin" for suffix in suffixes)


def _directories(hal: Hal) -> Iterator[Path]:
    for named in os.environ.get("AMDRV_FIRMWARE", "").split(os.pathsep):
        if named:
            yield Path(named)
    yield from hal.firmware


def _look(name: str, directories: Sequence[Path]) -> Image:
    for directory in directories:
        path = directory / name
        if path.is_file():
            return _read(path)
    return Image(name, error="not found")


def _read(path: Path) -> Image:
    data = path.read_bytes()
    size = ctypes.sizeof(ucode.common_firmware_header)
    if len(data) < size:
        return Image(path.name, str(path.parent), size=len(data), error=f"{len(data)} bytes: no firmware header")
    header = ucode.common_firmware_header.from_buffer_copy(data)
    if header.size_bytes != len(data):
        return Image(path.name, str(path.parent), header.ucode_version, len(data),
                     f"its header says {header.size_bytes} bytes, it has {len(data)}")
    return Image(path.name, str(path.parent), header.ucode_version, len(data))
