"""The decoders that come with the tool, from the headers that they are generated from.

    python -m tools.ioctl_sniff.builtin --check         # are they what the headers say?
    python -m tools.ioctl_sniff.builtin                 # write them anew

Linux's user API headers are those that ``tools.fetch_sources`` fetches (trixie's linux-libc-dev, Linux 6.12);
NVIDIA's are those of its open kernel modules (``--nvidia FOLDER``; Debian's source package
nvidia-open-gpu-kernel-modules has them).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tools.ioctl_sniff.generate import GenerateError, Source, generate, write

__all__ = ["DECODERS", "linux_sources", "main"]

DECODERS = Path(__file__).parent / "decoders"

_LINUX = {
    "kfd": (["linux/kfd_ioctl.h"], ["/dev/kfd"]),
    "drm": (["drm/drm.h"], ["/dev/dri/*"]),
    "amdgpu": (["drm/amdgpu_drm.h"], ["/dev/dri/*"]),
    "vfio": (["linux/vfio.h"], ["/dev/vfio/*", "anon_inode:\\[vfio-device\\]", "anon_inode:*vfio*"]),
    "iommufd": (["linux/iommufd.h"], ["/dev/iommu"]),
    "loop": (["linux/loop.h"], ["/dev/loop*"]),
    "kvm": (["linux/kvm.h"], ["/dev/kvm", "anon_inode:kvm-*"]),
    "tty": (["asm-generic/ioctls.h", "asm-generic/termbits.h", "asm-generic/termios.h"],
            ["/dev/tty*", "/dev/pts/*", "/dev/console", "/dev/ptmx"]),
    "dma-buf": (["linux/dma-buf.h", "linux/udmabuf.h"], ["/dmabuf:*", "/dev/udmabuf"]),
    "sync": (["linux/sync_file.h"], ["anon_inode:sync_file"]),
}
_KEEP = {"drm": r"drm/drm(_mode)?\.h$"}


def linux_sources(root: Path) -> list[Source]:
    """:param root: the folder with ``linux/vfio.h``."""
    include = [root, root / "drm", root / "x86_64-linux-gnu"]
    return [Source(name, headers, include=include, devices=devices, keep=_KEEP.get(name, ""),
                   origin=", ".join(headers) + " of Linux 6.12")
            for name, (headers, devices) in _LINUX.items()]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.ioctl_sniff.builtin", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 where one differs")
    parser.add_argument("--uapi", type=Path, help="folder that holds linux/vfio.h (default: tools.fetch_sources')")
    parser.add_argument("--nvidia", type=Path, help="unpacked source of NVIDIA's open kernel modules")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    options = parser.parse_args(argv)
    from tools.fetch_sources import locate
    root = options.uapi or locate("uapi")
    if root is None:
        print("no uapi headers: run python -m tools.fetch_sources, or give --uapi", file=sys.stderr)
        return 1
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        source.name: partial(generate, source) for source in linux_sources(root)}
    if options.nvidia:
        from tools.ioctl_sniff import nvidia_headers
        tree = options.nvidia
        makers |= {"nvidia": partial(nvidia_headers.nvidia, tree), "nvidia-uvm": partial(nvidia_headers.uvm, tree)}
    different = 0
    for name, make in makers.items():
        if options.only and name not in options.only:
            continue
        target = DECODERS / f"{name}.json"
        try:
            decoder = make()
        except GenerateError as error:
            print(error, file=sys.stderr)
            return 1
        if options.check:
            with tempfile.NamedTemporaryFile() as file:
                write(decoder, Path(file.name))
                same = target.is_file() and Path(file.name).read_bytes() == target.read_bytes()
            different += not same
            print(f"{name}: {'as generated' if same else 'DIFFERS'}")
        else:
            write(decoder, target)
            print(f"{name}: {len(decoder['ioctls'])} ioctls, {len(decoder['records'])} records, "
                  f"{len(decoder['constants'])} constants")
    return int(different > 0)


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
