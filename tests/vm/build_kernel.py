"""Builds the guest kernel with iommufd and no-IOMMU from Debian's linux-source, once; ``make vm-kernel``.

    python tests/vm/build_kernel.py             # prints the bzImage's path: the ready one, or the one it builds
    python tests/vm/build_kernel.py --rebuild   # builds it, whatever is there

The options are in ``kernel.config``. The source and what a kernel build needs beside a C compiler (flex, bison, m4,
libelf's headers) are packages of the system's own apt, downloaded and unpacked into the cache: nothing is installed.
The result is kept in ``~/.cache/amdrv/vm`` under a name made of the source's version and of the options, so that it is
built again only when one of them changes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["BuildError", "CACHE", "built", "build", "missing_options", "options"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amdrv" / "vm"
CONFIG = Path(__file__).with_name("kernel.config")
SOURCE = "linux-source-6.12"
BUILD_TOOLS = ("flex", "bison", "m4", "libsigsegv2", "libfl2", "libelf-dev", "libelf1 libelf1t64", "zlib1g-dev")
"""Packages; where a suite has one under another name, both."""


class BuildError(Exception):
    """The kernel cannot be built here; the message says what failed and what to do."""


def options(text: str) -> dict[str, str]:
    """{name: value} of a kernel configuration; what "is not set" is n."""
    found = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.M))
    return found | dict.fromkeys(re.findall(r"^# (CONFIG_\w+) is not set$", text, re.M), "n")


def missing_options(wanted: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
    """Options that the kernel's own rules changed or dropped, with what they became."""
    return [f"{name}={value} became {got.get(name, 'n')}" for name, value in wanted.items()
            if got.get(name, "n") != value]


def _stamp() -> str:
    """Names a kernel by its options."""
    return hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:12]


def built() -> Path | None:
    """The kernel that was built from these options, if there is one."""
    found = sorted(CACHE.glob(f"bzImage-*-{_stamp()}"))
    return found[-1] if found else None


def _run(command: list[str], cwd: Path, log: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """The command's standard output; with ``log``, all of it goes there. :raises BuildError: with its last lines."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
                          errors="replace", check=False)
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-12:])
        raise BuildError(f"`{' '.join(command)}` failed{f' (all of it: {log})' if log else ''}:\n{last}")
    return done.stdout


def _download(names: tuple[str, ...], where: Path) -> list[Path]:
    where.mkdir(parents=True, exist_ok=True)
    if shutil.which("apt-get") is None:
        raise BuildError("the kernel's source comes from Debian's packages, and apt-get is not here; name a bzImage "
                         "with AMDRV_VM_KERNEL")
    try:
        _run(["apt-get", "-q", "download", *names], where)
    except BuildError as error:
        raise BuildError(f"{error}\nDoes apt know its packages? apt-get update; {SOURCE} is in bookworm's and trixie's "
                         "archives") from error
    return sorted(where.glob("*.deb"))


def _known(names: str) -> str:
    """The first of several names that apt has a package for."""
    for name in names.split():
        done = subprocess.run(["apt-cache", "show", "--no-all-versions", name], capture_output=True, text=True,
                              check=False)
        if re.search(r"^Filename:", done.stdout, re.M):
            return name
    return names.split()[0]


def _tools(cache: Path) -> Path:
    """A folder with flex, bison and libelf's headers, for a machine that has not got them."""
    root = cache / "build-tools"
    if not (root / "usr/include/libelf.h").exists() or not (root / "usr/bin/flex").exists():
        for package in _download(tuple(map(_known, BUILD_TOOLS)), cache / "download"):
            _run(["dpkg", "-x", str(package), str(root)], cache)
            package.unlink()
    return root


def _source(cache: Path) -> tuple[Path, str]:
    """(the unpacked source, the package's version)."""
    version = re.search(r"^Version: (?:\d+:)?(\S+)", _run(["apt-cache", "show", "--no-all-versions", SOURCE], cache),
                        re.M)
    if version is None:
        raise BuildError(f"apt knows no {SOURCE}: run apt-get update")
    tree = cache / f"{SOURCE}-{version[1]}"
    if not (tree / "Makefile").exists():
        package, = _download((SOURCE,), cache / "download-source")
        _run(["dpkg", "-x", str(package), "unpacked"], package.parent)
        tarball = next((package.parent / "unpacked/usr/src").glob("linux-source-*.tar.*"))
        partial = tree.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(tarball) as archive:      # drivers of devices that the guest has not got stay packed
            archive.extractall(partial, filter="tar", members=[m for m in archive if not _unneeded(m.name)])
        next(partial.iterdir()).rename(tree)
        shutil.rmtree(partial)
        shutil.rmtree(package.parent)
    return tree, version[1]


def _unneeded(name: str) -> bool:
    """Sources and headers of AMD's graphics driver, half a gigabyte that Kconfig does not read."""
    return bool(re.search(r"/drivers/gpu/drm/amd/.*\.[ch]$|/Documentation/.*\.rst$|/tools/testing/", name))


def build(say: Callable[[str], None] = print, jobs: int | None = None) -> Path:
    """Build the kernel; returns its bzImage in the cache. :raises BuildError:"""
    CACHE.mkdir(parents=True, exist_ok=True)
    for program in ("make", "gcc", "ld", "bc", "perl"):
        if shutil.which(program) is None:
            raise BuildError(f"{program} is not here: apt-get install --no-install-recommends make gcc bc perl")
    tools = _tools(CACHE)
    tree, version = _source(CACHE)
    work, log = CACHE / "build", CACHE / "build.log"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    log.write_text("")
    libraries = tools / "usr/lib/x86_64-linux-gnu"
    environment = {"PATH": f"{tools}/usr/bin:{os.environ['PATH']}", "BISON_PKGDATADIR": f"{tools}/usr/share/bison",
                   "M4": str(tools / "usr/bin/m4"), "LD_LIBRARY_PATH": str(libraries)}
    include = f"-I{tools}/usr/include -I{tools}/usr/include/x86_64-linux-gnu"
    make = ["make", "-C", str(tree), f"O={work}", f"-j{jobs or os.cpu_count() or 1}", f"HOSTCFLAGS={include}",
            f"LIBELF_FLAGS={include}", f"LIBELF_LIBS=-L{libraries} -L{tools}/lib/x86_64-linux-gnu -lelf",
            "KBUILD_BUILD_USER=amdrv", "KBUILD_BUILD_HOST=amdrv", "LOCALVERSION=-amdrv"]
    _run([*make, "allnoconfig"], tree, log, {**environment, "KCONFIG_ALLCONFIG": str(CONFIG)})
    lost = missing_options(options(CONFIG.read_text()), options((work / ".config").read_text()))
    if lost:
        raise BuildError(f"{SOURCE} {version} does not take these options: {', '.join(lost)}")
    say(f"building the guest's kernel from {SOURCE} {version}; log: {log}")
    start = time.monotonic()
    _run([*make, "bzImage"], tree, log, environment)
    image = CACHE / f"bzImage-{version}-{_stamp()}"
    shutil.copyfile(work / "arch/x86/boot/bzImage", image)
    say(f"built in {(time.monotonic() - start) / 60:.1f} min: {image}")
    shutil.rmtree(work)
    return image


def main() -> int:
    parser = argparse.ArgumentParser(description="Find or build the guest kernel with iommufd and no-IOMMU.")
    parser.add_argument("--rebuild", action="store_true", help="build it even where one is ready")
    parser.add_argument("--jobs", type=int, metavar="N", help="of make (default: the number of processors)")
    given = parser.parse_args()
    from guest import Missing, hal_kernel
    try:
        if not given.rebuild:
            try:
                print(hal_kernel().image)
                return 0
            except Missing:
                pass
        print(build(lambda text: print(text, file=sys.stderr, flush=True), given.jobs))
        return 0
    except BuildError as error:
        print(f"build_kernel: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
