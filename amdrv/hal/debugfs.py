"""amdgpu's own doors to the card that it drives, in debugfs: what can be seen where BARs cannot be mapped, and more.

Registers go through amdgpu, which wakes the card, and which puts bank selectors there and back under its own lock; VRAM
is all of VRAM, however small the window; host memory is that of amdgpu's buffers, by the addresses that the card uses.

Sources: Linux 6.1, amdgpu_debugfs.c (amdgpu_debugfs_regs2_op, amdgpu_debugfs_process_reg_op, amdgpu_debugfs_gfxoff_*),
amdgpu_umr.h (the ioctl of amdgpu_regs2), amdgpu_ttm.c (amdgpu_ttm_vram_read, amdgpu_iomem_read). Other files of that
folder do things when they are read (amdgpu_gpu_recover, amdgpu_evict_vram, amdgpu_test_ib): nothing here lists it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amdrv.errors import HalError

__all__ = ["AmdgpuFiles", "FileRegion"]

SET_STATE = 3 << 30 | 40 << 16 | 0x20 << 8      # _IOWR(0x20, 0, struct amdgpu_debugfs_regs2_iocdata)
STATE = struct.Struct("<10I")                   # use_srbm, use_grbm, pg_lock; se, sh, instance; me, pipe, queue, vmid
REGISTER_BYTES = 1 << 20                        # amdgpu_regs2 says no size; the register BAR of gfx11 has this many
SMALL_POSITION = 1 << 22                        # bits above are flags of amdgpu_regs
WORD = 4


class FileRegion:
    """A BAR's content by a file. Nothing is written through it."""

    def __init__(self, path: Path, size: int) -> None:
        """:raises HalError: the file cannot be opened."""
        self._path, self._size = path, size
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise HalError(f"{path}: {error.strerror or error}") from error

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes; amdgpu takes whole words only. :raises HalError: amdgpu refuses, or there are fewer."""
        first, end = offset // WORD * WORD, -(-(offset + nbytes) // WORD) * WORD
        parts, at = [], first
        while at < end:
            try:
                part = os.pread(self.fd, end - at, at)
            except OSError as error:
                raise HalError(f"{self._path}: {nbytes:#x} bytes at {offset:#x}: {error.strerror or error}") from error
            if not part:
                raise HalError(f"{self._path}: ends before {offset + nbytes:#x}")
            parts.append(part)
            at += len(part)
        return b"".join(parts)[offset - first:offset - first + nbytes]

    def read32(self, offset: int) -> int:
        """One register, or one word of memory."""
        return int.from_bytes(self.read(offset, 4), "little")

    def read64(self, offset: int) -> int:
        """Two words, the lower one first."""
        return int.from_bytes(self.read(offset, 8), "little")

    def write32(self, offset: int, value: int) -> None:
        """:raises HalError: always."""
        raise HalError(f"{self._path} is only looked at: {value:#x} is not written to {offset:#x}")

    def write64(self, offset: int, value: int) -> None:
        """:raises HalError: always."""
        self.write32(offset, value)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """A copy: what is written to it goes nowhere. :raises HalError: it does not fit."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise HalError(f"view of {size:#x} bytes at {offset:#x} does not fit {self._path} of {self.size:#x} bytes")
        found = np.frombuffer(self.read(offset, size), dtype=dtype)
        found.flags.writeable = False
        return found

    def close(self) -> None:
        """A second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class AmdgpuFiles:
    """A card's folder in debugfs. What is not there or not readable is None."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        banks = self._open("amdgpu_regs2", REGISTER_BYTES)
        self._banks = banks is not None
        self.registers = banks or self._open("amdgpu_regs", SMALL_POSITION)
        self.vram = self._open("amdgpu_vram")
        self._memory = self._open("amdgpu_iomem", 1 << 62)

    def _open(self, name: str, size: int = 0) -> FileRegion | None:
        path = self.folder / name
        try:
            return FileRegion(path, size or path.stat().st_size)
        except (HalError, OSError):
            return None

    def region(self, index: int) -> FileRegion | None:
        """What stands for a BAR: 0 is VRAM, 5 the registers."""
        return {0: self.vram, 5: self.registers}.get(index)

    def memory(self, address: int, nbytes: int) -> bytes:
        """Host memory of amdgpu's buffers by the card's addresses. :raises HalError: not amdgpu's, or not told."""
        if self._memory is None:
            raise HalError(f"{self.folder}: has no amdgpu_iomem that may be read; host memory at {address:#x} is "
                           "amdgpu's, and cannot be looked at from here")
        return self._memory.read(address, nbytes)

    @property
    def can_select(self) -> bool:
        """Can amdgpu choose a bank of registers for us?"""
        return self._banks

    @contextmanager
    def selected(self, me: int, pipe: int, queue: int, vmid: int = 0) -> Iterator[None]:
        """Registers that exist once a queue mean this one; amdgpu selects it around each read.

        :raises HalError: this kernel's amdgpu cannot.
        """
        self._state(1, 0, 0, 0, 0, 0, me, pipe, queue, vmid)
        try:
            yield
        finally:
            self._state(*[0] * 10)

    def _state(self, *words: int) -> None:
        import fcntl
        assert self.registers is not None
        try:
            fcntl.ioctl(self.registers.fd, SET_STATE, STATE.pack(*words))
        except OSError as error:
            raise HalError(f"{self.folder}/amdgpu_regs2: a queue's registers cannot be selected: "
                           f"{error.strerror or error}") from error

    def core_may_sleep(self) -> bool:
        """May the graphics core be without power (GFXOFF)? Its registers and page tables then say nothing."""
        return self.may_sleep(self.folder)

    @staticmethod
    def may_sleep(folder: Path) -> bool:
        """:meth:`core_may_sleep` of a folder of which nothing is opened."""
        try:
            with (folder / "amdgpu_gfxoff").open("rb", buffering=0) as file:
                return any(file.read(4) or b"")
        except OSError:
            return False                        # no such feature, or not told

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Keep the graphics core powered; amdgpu counts those who ask, so this takes nothing from others.

        :raises HalError: amdgpu refuses.
        """
        self._allow_off(False)
        try:
            yield
        finally:
            self._allow_off(True)

    def _allow_off(self, allowed: bool) -> None:
        path = self.folder / "amdgpu_gfxoff"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, struct.pack("<I", allowed))
            finally:
                os.close(fd)
        except OSError as error:
            raise HalError(f"{path}: {error.strerror or error}; GFXOFF stays as it is") from error

    def close(self) -> None:
        """A second call does nothing."""
        for each in (self.registers, self.vram, self._memory):
            if each is not None:
                each.close()
