"""Gets the sources that facts are generated from and checked against, on a Debian system, without touching its apt.

    eval "$(python -m tools.fetch_sources)"     # sets AMDRV_LINUX_SOURCE, AMDRV_MESA_SOURCE, AMDRV_UAPI_SOURCE and
                                                # AMDRV_FIRMWARE_TEST

Linux's AMD headers come from the package linux-source-6.1 (bookworm), Mesa's register data from the source package
mesa of trixie, the VFIO user API from trixie's linux-libc-dev, and AMD's firmware files, which tests read where they
are, from firmware-amd-graphics of bookworm-backports. The mirror and the keyring are those of the system's own
apt sources; suites that the system lacks are added in a private apt configuration inside the cache directory
(``--cache``, default ``~/.cache/amdrv/sources``). Only what the generators and tests read is unpacked, and what is
there already is not fetched again.

Other code asks :func:`locate`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["FetchError", "SOURCES", "Source", "fetch", "locate", "main", "system_mirrors"]


class FetchError(Exception):
    """The sources cannot be fetched here."""


@dataclass(frozen=True)
class Source:
    """One source tree: how the environment names it, where it comes from, and what is wanted of it."""

    name: str
    variable: str
    suite: str
    package: str
    form: Literal["source package", "tarball in a package", "files in a package"]
    wanted: tuple[str, ...]             # folders of the tree; of a package's files: the tree itself
    proof: str                          # a file that says that the tree is there
    component: str = "main"             # of the archive


SOURCES = {
    "linux": Source("linux", "AMDRV_LINUX_SOURCE", "bookworm", "linux-source-6.1", "tarball in a package",
                    ("drivers/gpu/drm/amd", "include/uapi/linux", "include/uapi/drm"),
                    "drivers/gpu/drm/amd/amdgpu/nvd.h"),
    "mesa": Source("mesa", "AMDRV_MESA_SOURCE", "trixie", "mesa", "source package",
                   ("src/amd", "src/util", "include"), "src/amd/common/ac_parse_ib.c"),
    "uapi": Source("uapi", "AMDRV_UAPI_SOURCE", "trixie", "linux-libc-dev", "files in a package", ("usr/include",),
                   "linux/iommufd.h"),
    "firmware": Source("firmware", "AMDRV_FIRMWARE_TEST", "bookworm-backports", "firmware-amd-graphics",
                       "files in a package", ("lib/firmware",), "amdgpu/gc_11_0_0_mec.bin", "non-free-firmware"),
}


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amdrv" / "sources"


def locate(name: str, cache: Path | None = None) -> Path | None:
    """A source tree's root: the one that its environment variable names, or the cache's; None where there is none."""
    source = SOURCES[name]
    named = os.environ.get(source.variable)
    root = Path(named) if named else (cache or default_cache()) / name
    return root if (root / source.proof).is_file() else None


def system_mirrors(etc: Path = Path("/etc/apt")) -> list[tuple[str, str]]:
    """(mirror's address, keyring or "") of the Debian archives that the system's apt uses, security archives left out.

    Reads both forms of sources: one-line ``.list`` and deb822 ``.sources``.
    """
    found: list[tuple[str, str]] = []
    lists = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    for path in filter(Path.is_file, lists):
        for line in path.read_text().splitlines():
            if match := re.match(r"deb(?:-src)?\s+(?:\[([^]]*)\]\s+)?(\S+)\s+\S+", line.strip()):
                key = re.search(r"signed-by=(\S+)", match[1] or "")
                found.append((match[2], key[1] if key else ""))
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        for paragraph in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(\S.*)$", paragraph, re.M))
            if "deb" in fields.get("Types", "") and fields.get("Enabled", "yes") != "no":
                found += [(address, fields.get("Signed-By", "")) for address in fields.get("URIs", "").split()]
    return [(address.rstrip("/"), key) for address, key in dict.fromkeys(found)
            if address.rstrip("/").endswith("/debian")]


def _run(command: Sequence[str], cwd: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FetchError(f"`{' '.join(command)}` failed: {last}")
    return done.stdout


def _variables() -> str:
    return " and ".join(source.variable for source in SOURCES.values())


def _private_apt(cache: Path, sources: Sequence[Source]) -> dict[str, str]:
    """An apt of our own: its configuration, lists and cache in ``cache``, the system's mirror and keyring."""
    if shutil.which("apt-get") is None:
        raise FetchError("apt-get is not here; on other systems unpack Linux 6.1, Mesa 25, the uapi headers of Linux "
                         "6.12 and AMD's firmware yourself and name them in " + _variables())
    mirrors = system_mirrors()
    if not mirrors:
        raise FetchError("apt's sources name no Debian mirror (an address that ends in /debian); name the trees in "
                         + _variables())
    mirror, key = mirrors[0]
    for folder in ("etc", "lists/partial", "archives/partial", "dpkg"):
        (cache / "apt" / folder).mkdir(parents=True, exist_ok=True)
    apt = cache / "apt"
    (apt / "dpkg/status").touch()
    signed = f" [signed-by={key}]" if key else ""
    lines = [f"{kind}{signed} {mirror} {where}"
             for where in dict.fromkeys(f"{source.suite} {source.component}" for source in sources)
             for kind in ("deb", "deb-src")]
    (apt / "etc/sources.list").write_text("\n".join(lines) + "\n")
    (apt / "apt.conf").write_text(f'''Dir::Etc::sourcelist "{apt}/etc/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "{apt}/lists";
Dir::State::status "{apt}/dpkg/status";
Dir::Cache "{apt}";
Dir::Cache::archives "{apt}/archives";
APT::Sandbox::User "";
Acquire::Languages "none";
''')
    environment = {"APT_CONFIG": str(apt / "apt.conf")}
    _run(["apt-get", "-q", "update"], cache, environment)
    return environment


def _members(archive: tarfile.TarFile, wanted: Sequence[str]) -> Iterator[tarfile.TarInfo]:
    """The wanted folders' files, with the tree's own top folder taken off their names; links are left out."""
    for member in archive:
        parts = member.name.lstrip("./").split("/", 1)
        if len(parts) == 2 and member.isfile() and any(parts[1].startswith(folder + "/") for folder in wanted):
            if ".." in parts[1].split("/"):
                raise FetchError(f"{member.name} would be unpacked outside of the cache")
            member.name = parts[1]
            yield member


def _unpack(folder: Path, pattern: str, target: Path, source: Source) -> None:
    tarball = next(iter(sorted(folder.glob(pattern))), None)
    if tarball is None:
        raise FetchError(f"the package {source.package} of {source.suite} holds no source tarball {pattern}")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(tarball) as archive:
        for member in _members(archive, source.wanted):
            archive.extract(member, partial)
    if not (partial / source.proof).is_file():
        raise FetchError(f"{tarball.name} holds no {source.proof}")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def fetch(names: Sequence[str], cache: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Fetch what is missing. Returns the trees by name. :raises FetchError: not possible here, and what to do."""
    cache.mkdir(parents=True, exist_ok=True)
    missing = [SOURCES[name] for name in names if locate(name, cache) is None]
    if missing:
        environment = _private_apt(cache, missing)
        for source in missing:
            work = cache / "download" / source.name
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            say(f"{source.package} from {source.suite} ...")
            exact = f"{source.package}/{source.suite}"
            if source.form == "source package":
                _run(["apt-get", "-q", "source", "--download-only", exact], work, environment)
                _unpack(work, f"{source.package}_*.orig.tar.*z", cache / source.name, source)
            else:
                _run(["apt-get", "-q", "download", exact], work, environment)
                _run(["dpkg-deb", "-x", next(work.glob("*.deb")).name, "unpacked"], work)
                if source.form == "tarball in a package":
                    _unpack(work / "unpacked/usr/src", f"{source.package}.tar.*z", cache / source.name, source)
                else:
                    shutil.rmtree(cache / source.name, ignore_errors=True)
                    (work / "unpacked" / source.wanted[0]).rename(cache / source.name)
            shutil.rmtree(work)
    trees: dict[str, Path] = {}
    for name in names:
        tree = locate(name, cache)
        if tree is None:
            raise FetchError(f"{SOURCES[name].variable} names a directory without {SOURCES[name].proof}")
        trees[name] = tree
    return trees


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fetch_sources", description="Fetch the Linux and Mesa "
                                     "sources that the facts come from, and AMD's firmware, on Debian; prints "
                                     "lines for the shell.")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR")
    parser.add_argument("--only", choices=sorted(SOURCES), action="append", metavar="NAME")
    options = parser.parse_args(argv)
    try:
        trees = fetch(options.only or list(SOURCES), options.cache, lambda text: print(text, file=sys.stderr))
    except FetchError as error:
        print(f"fetch_sources: {error}", file=sys.stderr)
        return 1
    for name, tree in trees.items():
        print(f"export {SOURCES[name].variable}={tree}")
    return 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
