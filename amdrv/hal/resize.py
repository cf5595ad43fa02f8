"""Resizable BARs by sysfs: how large a card's window can be, and making it so.

``resourceN_resize`` shows the sizes that the card offers as a mask (bit n: 2**n MiB) and takes n. The kernel moves the
BAR within the bridge's window and fails, leaving it as it was, where that window is too small (the firmware's "Above 4G
decoding" makes it large).

Source: Linux 6.1, drivers/pci/pci-sysfs.c, resourceN_resize; Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import errno
from pathlib import Path

from amdrv.errors import HalError, MappingError
from amdrv.hal.pinned import describe

__all__ = ["bar_size", "possible_sizes", "resize"]

MIB = 1 << 20


def bar_size(path: Path, index: int) -> int:
    """A BAR's present size in bytes, 0 where there is none. :param path: the function's sysfs directory."""
    start, end, _ = (int(word, 16) for word in (path / "resource").read_text().splitlines()[index].split())
    return end - start + 1 if end else 0


def possible_sizes(path: Path, index: int) -> list[int]:
    """The sizes in bytes that the card offers for a BAR, smallest first; none where it cannot be resized."""
    try:
        mask = int((path / f"resource{index}_resize").read_text(), 16)
    except OSError:
        return []
    return [MIB << bit for bit in range(44) if mask >> bit & 1]


def resize(path: Path, index: int, size: int | None = None) -> int:
    """Make a BAR ``size`` bytes large (default: the largest that works); returns what it is then.

    :raises MappingError: not a size that the card offers.
    :raises HalError: a driver has the card, or the kernel refuses.
    """
    possible = possible_sizes(path, index)
    if not possible:
        raise MappingError(f"BAR{index} of {path.name} cannot be resized: there is no resource{index}_resize (no "
                           "resizable BAR capability, or a kernel before 6.1)")
    if size is not None and size not in possible:
        raise MappingError(f"BAR{index} of {path.name} cannot be {size:#x} bytes; it can be "
                           f"{', '.join(f'{each // MIB} MiB' for each in possible)}")
    driver = describe(path).driver
    if driver is not None:
        raise HalError(f"BAR{index} of {path.name} cannot be resized while {driver} has the card: "
                       f"amdrv-info bind --driver none {path.name}")
    now = bar_size(path, index)
    refused = ""
    for wanted in [size] if size is not None else [each for each in reversed(possible) if each > now]:
        if wanted == now:
            return now
        try:
            (path / f"resource{index}_resize").write_text(f"{wanted.bit_length() - 21}\n")
        except PermissionError as error:
            raise HalError(f"cannot resize BAR{index} of {path.name}: {error.strerror}; it needs root") from error
        except OSError as error:
            refused = f"{wanted // MIB} MiB: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.ENOENT, errno.EINVAL):
                continue                # the bridge's window is too small for this one; a smaller one may do
            break
        return bar_size(path, index)
    if refused and (size is not None or now <= min(possible)):
        raise HalError(f"the kernel cannot resize BAR{index} of {path.name} to {refused}; it stays at {now // MIB} "
                       "MiB. The bridge's window must be large: \"Above 4G decoding\" and \"Resizable BAR\" in the "
                       "firmware")
    return now
