"""``report``: one archive with everything that the commands show of a card, and every command on such an archive.

A zip file: ``manifest.json`` (what it is), ``documents/COMMAND.json`` (what ``COMMAND --json`` said, or why it could
not), ``card.txt`` (registers, page tables and rings, in the form of :mod:`amdrv.dump`) and ``discovery.bin``.

What is not in it: the bytes of buffers, names of processes, users and machines, serial numbers. Packets in rings are:
they hold addresses, and the data words of packets that carry such.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amdrv.dump import Dump, parse
from amdrv.errors import AmdrvError
from tools.amdrv_info.source import Live, virtual

__all__ = ["FORMAT", "Report", "ReportError", "dump_text", "is_archive", "scrub", "write"]

FORMAT = "amdrv-report/1"
LARGEST_MEMBER = 256 << 20
SIDE_EFFECTS = re.compile(r"(_SEM|_DATA2?|_DATA_LO|_DATA_HI|MP0_SMN_C2PMSG_33|_FIFO.*|RLC_GPM_UCODE.*|.*UCODE_DATA.*)$")
"""Registers whose reads change something, or read on elsewhere: index/data pairs, semaphores, FIFOs."""
ROW = 64
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError,
           KeyError, IndexError)
"""What zipfile raises for files that were cut short or changed."""


class ReportError(AmdrvError):
    """An archive that is none, is damaged, or lacks what was asked of it."""


def is_archive(path: str) -> bool:
    """A zip file, by its first bytes. :raises ReportError: it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from error


class Report:
    """An archive that :func:`write` made."""

    def __init__(self, path: str) -> None:
        """:raises ReportError: no archive of this kind; truncated; of a version that is not known."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
                if damaged is not None:
                    raise ReportError(f"{path}: {damaged} in it is damaged; copy the file again")
                names = {info.filename: info.file_size for info in archive.infolist()}
                if any(size > LARGEST_MEMBER for size in names.values()):
                    raise ReportError(f"{path}: holds files of more than {LARGEST_MEMBER >> 20} MiB; amdrv-info did "
                                      "not make it")
                if "manifest.json" not in names:
                    raise ReportError(f"{path}: is a zip file without manifest.json; amdrv-info report did not make it")
                self._members = {name: archive.read(name) for name in names}
        except _DAMAGE as error:
            raise ReportError(f"{path}: is no whole zip file ({error}); was it cut short?") from error
        except OSError as error:
            raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.manifest = self._json("manifest.json")
        found = self.manifest.get("format")
        if found != FORMAT:
            raise ReportError(f"{path}: its format is {found!r}, this program reads {FORMAT!r}")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            said = json.loads(self._members[name])
        except ValueError as error:
            raise ReportError(f"{self.path}: {name} in it is no JSON: {error}") from error
        if not isinstance(said, dict):
            raise ReportError(f"{self.path}: {name} in it is no object")
        return said

    def document(self, command: str) -> dict[str, Any]:
        """What a command said when the report was made. :raises ReportError: it could not, or was not asked."""
        name = f"documents/{command}.json"
        if name not in self._members:
            known = ", ".join(sorted(Path(n).stem for n in self._members if n.startswith("documents/")))
            raise ReportError(f"{self.path}: has nothing of {command!r}; it has {known}")
        said = self._json(name)
        if set(said) == {"error"}:
            raise ReportError(f"{self.path}: {command} could not be had when the report was made: "
                              f"{said['error'].get('message')}")
        return said

    def dump(self) -> Dump:
        """Registers and memory. :raises ReportError: none were readable."""
        if "card.txt" not in self._members:
            raise ReportError(f"{self.path}: has no registers and page tables: {self.manifest.get('without_card_txt')}")
        found = parse(self._members["card.txt"].decode("utf-8", "replace"), self.path)
        found.vram_size = int(self.manifest.get("vram_bytes") or 0)
        if "buffers.json" in self._members:
            try:
                found.owners = [(str(b["name"]), int(b["address"]), int(b["size"]), str(b["kind"]))
                                for b in self._json("buffers.json")["buffers"]]
            except (KeyError, TypeError, ValueError) as error:
                raise ReportError(f"{self.path}: buffers.json in it is damaged: {error!r}") from error
        return found

    def bytes_of(self, name: str) -> bytes:
        """A member. :raises ReportError: not there."""
        if name not in self._members:
            raise ReportError(f"{self.path}: has no {name}")
        return self._members[name]


# ---- writing

def write(path: str, gather: Mapping[str, Callable[[], dict[str, Any]]], source: Live | None, why_not: str = "",
          discovery: bytes = b"") -> dict[str, Any]:
    """Make the archive; what fails goes into it as an error. Returns ``report --json``.

    :param gather: {command: what makes its document}.
    :param source: of registers and memory; None with the reason ``why_not``.
    :raises ReportError: it cannot be written there. Nothing is left of a half-written one.
    """
    documents: dict[str, dict[str, Any]] = {}
    for name, make in gather.items():
        try:
            documents[name] = make()
        except AmdrvError as error:
            documents[name] = {"error": {"type": type(error).__name__, "message": str(error)}}
    text = ""
    if source is not None:
        try:
            text = dump_text(source)
        except AmdrvError as error:
            why_not = str(error)
    manifest: dict[str, Any] = {
        "format": FORMAT, "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "system": f"{platform.system()} {platform.release()} {platform.machine()}",
                "python": platform.python_version(), "vram_bytes": source.vram_size if source else 0,
                "without_card_txt": None if text else (why_not or "no card could be looked at"),
                "contains": sorted(documents),
                "without": sorted(name for name, document in documents.items() if set(document) == {"error"})}
    unfinished = f"{path}.part"
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("manifest.json", json.dumps(scrub(manifest), indent=2))
            for name, document in documents.items():
                archive.writestr(f"documents/{name}.json", json.dumps(scrub(document), indent=1))
            if text:
                archive.writestr("card.txt", text)
            if discovery:
                archive.writestr("discovery.bin", discovery)
            if source is not None and source.buffers is not None:
                archive.writestr("buffers.json", json.dumps(scrub(
                    {"buffers": [asdict(buffer) for buffer in source.buffers]}), indent=1))
        os.replace(unfinished, path)
    except OSError as error:
        Path(unfinished).unlink(missing_ok=True)
        raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from error
    return {"file": path, "bytes": Path(path).stat().st_size, "contains": manifest["contains"],
            "without": {name: documents[name]["error"]["message"] for name in manifest["without"]},
            "registers_and_memory": bool(text)}


SECRET_KEYS = frozenset({"pid", "unique_id", "serial", "local_cpus"})


def scrub(value: Any) -> Any:
    """A document without what names people and machines: home directories, user, host, process names."""
    names = [(name, stand_in) for name, stand_in in ((socket.gethostname(), "HOST"), (_user(), "USER"))
             if len(name) > 2 and name not in ("root", "localhost")]
    return _scrub(value, names)


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("LOGNAME") or ""


def _scrub(value: Any, names: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {key: ([] if key == "processes" else None if key in SECRET_KEYS else _scrub(each, names))
                for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub(each, names) for each in value]
    if isinstance(value, str):
        home = os.path.expanduser("~")
        if len(home) > 1:
            value = value.replace(home, "~")
        value = re.sub(r"/(home|Users)/[^/\s]+", r"/\1/USER", value)
        for name, stand_in in names:
            value = re.sub(rf"\b{re.escape(name)}\b", stand_in, value)
    return value


def dump_text(source: Live) -> str:
    """Registers, page tables and rings of a card in umr's form (:mod:`amdrv.dump`).

    Registers that a read would change are left out; so are those whose block has no power (a read that fails).
    """
    from tools.amdrv_info.engines import queues
    from tools.amdrv_info.space import tables_of

    lines = ["; amdrv-info report", f"; {source.name}"]
    seen: set[int] = set()
    for bound in source.registers:
        if bound.address in seen or 4 * bound.address >= source.register_bytes or SIDE_EFFECTS.search(bound.name):
            continue                        # twice; beyond the BAR, behind an index; not to be read
        seen.add(bound.address)
        lines.append(f"MMIO@{4 * bound.address:#x}={{{int(bound.read()):#x}}} ; {bound.name}")
    memory: dict[str, dict[int, bytes]] = {"VRAM": {}, "SYSRAM": {}}
    for hub in ("gc", "mm"):
        for vmid in range(16):
            if source.register(f"{hub.upper()}VM_CONTEXT{vmid}_CNTL").enable_context:
                for system, address, data in tables_of(source, hub, vmid):
                    memory["SYSRAM" if system else "VRAM"][address] = data
    for queue in queues(source)[0]:
        try:
            data = virtual(source, "gc", queue["vmid"], queue["ring_address"], 4 * queue["ring_words"])
        except AmdrvError as error:
            lines.append(f"; {queue['name']}: {error}")
            continue
        words = [int.from_bytes(data[at:at + 4], "little") for at in range(0, len(data), 4)]
        if not any(line.startswith("RINGDATA") for line in lines) and queue["engine"] == "compute":
            head = [queue["read"], queue["write"], queue["write"], *words]
            lines += ["RINGDATA={", ",\n".join(",".join(f"{word:#x}" for word in head[i:i + 16])
                                              for i in range(0, len(head), 16)), "}"]
    for space, blocks in memory.items():
        for address, data in sorted(blocks.items()):
            lines += [f"{space}@{address:#x}={{", *(data[at:at + ROW].hex() for at in range(0, len(data), ROW)), "}"]
    return "\n".join(lines) + "\n"

