"""Firmware files: found, checked, taken apart into what the PSP is given and in which order.

    images = load_set("gfx1100", {"GC": (11, 0, 0), "MP0": (13, 0, 0), ...}, search_path(hal.firmware))
    for component in images.bootloader: ...     # then .toc, .smu, (SETUP_TMR), .images, ...

A file is AMD's as the Linux driver takes it (``gc_11_0_0_mec.bin``), plain or compressed. Everything that can be
wrong with one is a :class:`~amdrv.errors.FirmwareError` that says which file and which check.
"""

from amdrv.firmware.files import ParsedFile, Section, describe, find, parse, read, search_path
from amdrv.firmware.sets import Component, FirmwareSet, Image, load_set

__all__ = ["Component", "FirmwareSet", "Image", "ParsedFile", "Section", "describe", "find", "load_set", "parse",
           "read", "search_path"]
