"""Packages of Debian's trixie and trixie-backports, unpacked beside the caches and not installed.

A private apt with the system's mirror and keyring; the system's own stays as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from guest import Missing

from tools.fetch_sources import system_mirrors

__all__ = ["SUITES", "BACKPORTS", "Apt"]

SUITES = ("trixie", "trixie-backports")
BACKPORTS = SUITES[-1]


class Apt:
    """An apt of our own in ``folder``. :raises Missing: there is none here, or no mirror to ask."""

    def __init__(self, folder: Path, components: str = "main") -> None:
        if shutil.which("apt-get") is None:
            raise Missing("packages come from Debian's archive: apt-get is not here")
        mirrors = system_mirrors()
        if not mirrors:
            raise Missing("apt's sources name no Debian mirror to fetch packages from")
        mirror, key = mirrors[0]
        self.folder = folder
        for name in ("lists/partial", "archives/partial", "dpkg"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "dpkg/status").write_text("")     # nothing is installed: the whole closure of packages comes
        signed = f" [signed-by={key}]" if key else ""
        (folder / "sources.list").write_text("".join(f"deb{signed} {mirror} {suite} {components}\n"
                                                     for suite in SUITES))
        (folder / "apt.conf").write_text(f'''Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/dpkg/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
''')
        self._environment: Mapping[str, str] = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"),
                                                "DEBIAN_FRONTEND": "noninteractive"}
        self.run("apt-get", "-q", "update")

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """A command's output. :raises Missing: it failed, with its last line."""
        done = subprocess.run(command, env=self._environment, cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Missing(f"{' '.join(command)} of {BACKPORTS}: {last}")
        return done.stdout

    def depends(self, package: str) -> list[str]:
        """Names that a package of the backports depends on."""
        text = self.run("apt-cache", "depends", f"{package}/{BACKPORTS}")
        return re.findall(r"Depends: (\S+)", text)

    def unpack(self, packages: Sequence[str], root: Path) -> None:
        """These packages of the backports, without what they depend on."""
        work = self.folder / "download"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        self.run("apt-get", "-q", "download", *(f"{name}/{BACKPORTS}" for name in packages), cwd=work)
        self._into(work, root)

    def unpack_closure(self, packages: Sequence[str], root: Path, suite: str = BACKPORTS) -> None:
        """These packages of a suite, and all that they depend on."""
        self.run("apt-get", "-q", "install", "-y", "-d", "-t", suite, *packages)
        self._into(self.folder / "archives", root)

    def _into(self, folder: Path, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for package in sorted(folder.glob("*.deb")):
            self.run("dpkg", "-x", str(package), str(root))
            package.unlink()
