"""tar and zip archives: their files as uint8 tensors, slices of the archive wherever its bytes are.

Headers are read by Python's own ``tarfile`` and ``zipfile``. What is compressed, or lies in pieces, is unpacked on the
host and sent to the device.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

from compiler import dtypes
from compiler.files.source import File, FileFormatError, Source, SourceFile, open_source
from compiler.tensor import Tensor

__all__ = ["members", "tar_extract", "zip_extract"]

COMPRESSED: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ\x00", lzma.decompress))
LOCAL_HEADER = struct.Struct("<4s5H3I2H")       # PKWARE, APPNOTE.TXT, 4.3.7
# What the standard library raises for archives that are no archives.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, struct.error, EOFError, ValueError, OverflowError, zlib.error,
           lzma.LZMAError, OSError, NotImplementedError, RuntimeError, IndexError, UnicodeError)


def tar_extract(file: File, device: str | None = None) -> dict[str, Tensor]:
    """{path: uint8 tensor} of a tar archive's regular files; plain, or packed by gzip, bzip2 or xz.

    :raises FileFormatError: this is no tar archive, or it is damaged.
    """
    source = open_source(file)
    head = source.read(0, min(6, source.size))
    for magic, unpack in COMPRESSED:
        if head.startswith(magic):
            name = source.name
            try:
                source = open_source(unpack(source.read(0, source.size)))
            except DAMAGED as error:
                raise FileFormatError(f"{name}: cannot be unpacked: {error}") from None
            source.name = name
    found: dict[str, Tensor] = {}
    try:
        with tarfile.open(fileobj=SourceFile(source), mode="r:") as archive:        # type: ignore[call-overload]
            for entry in archive:
                if not entry.isreg():
                    continue
                if entry.sparse:
                    content = archive.extractfile(entry)
                    assert content is not None
                    found[entry.name] = Tensor(content.read(), device=device)
                else:
                    found[entry.name] = source.tensor(entry.offset_data, dtypes.uint8, (entry.size,), device)
            # tarfile takes a header that is damaged, or cut off, for the end
            if any(source.read(archive.offset, tarfile.BLOCKSIZE)):
                raise source.error(f"a damaged tar archive: no header at byte {archive.offset}")
    except FileFormatError:
        raise
    except DAMAGED as error:
        raise source.error(f"no tar archive, or a damaged one: {error}") from None
    return found


def zip_extract(file: File, device: str | None = None) -> dict[str, Tensor]:
    """{path: uint8 tensor} of a zip archive's files. Checksums are compared where a file is unpacked; of files that are
    stored as they are nothing but their place is read.

    :raises FileFormatError: this is no zip archive, it is damaged, encrypted, or packed in an unknown way.
    """
    source = open_source(file)
    found = {}
    for name, place in members(source).items():
        if isinstance(place, bytes):
            found[name] = Tensor(place, device=device)
        else:
            found[name] = source.tensor(place[0], dtypes.uint8, (place[1],), device)
    return found


def members(source: Source) -> dict[str, bytes | tuple[int, int]]:
    """A zip archive's files: (offset, size) where they are stored as they are, otherwise their bytes."""
    found: dict[str, bytes | tuple[int, int]] = {}
    try:
        with zipfile.ZipFile(io.BufferedReader(SourceFile(source))) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                if entry.filename in found:
                    raise source.error(f"{entry.filename!r} is in the archive twice")
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    found[entry.filename] = archive.read(entry)
                    continue
                header = LOCAL_HEADER.unpack(source.read(entry.header_offset, LOCAL_HEADER.size))
                if header[0] != b"PK\x03\x04":
                    raise source.error(f"{entry.filename!r}: no header where the directory says")
                place = entry.header_offset + LOCAL_HEADER.size + header[-2] + header[-1]
                source._check(place, entry.file_size)
                found[entry.filename] = place, entry.file_size
    except FileFormatError:
        raise
    except DAMAGED as error:
        raise source.error(f"no zip archive, or one that cannot be read: {error}") from None
    return found
