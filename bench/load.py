"""How fast files come into device memory and go out, beside fio: python -m bench.load [--docs] [--json FILE]

fio (Debian's) reads the same file from the same disk with the same pattern: one sequential reader, O_DIRECT, reads of
4 MiB, eight under way, io_uring, into memory of large pages as ours is (a disk fills small ones in many requests, at
half the speed). Both take turns, several rounds in one run, since a disk's speed changes from one second to the next: a
round is ours beside fio's, and the median of the rounds' ratios counts. The card is the mock's in
null execution (``mock.nullexec``): copy engines fetch and signal, but the copying, which a card does by itself, is left
out; two rows have it. Without fio the rows have no peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

import hcq
import mock
from amdrv.backend import open_backend
from amdrv.hal.mock import MockHal
from bench import write_json, write_section
from hcq.load.engines import open_engine
from hcq.load.transfer import CHUNK, DEPTH
from mock.nullexec import NullExecution

__all__ = ["Row", "main", "measure"]

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- bench.load -->\n", "<!-- end of bench.load -->\n"
FIO_TIMEOUT = 120
FIO_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}     # malloc asks for large pages, as our staging memory does


@dataclass
class Row:
    """GB/s, medians; ``ratio`` is the median of what the rounds have, ours by fio's, ``limit`` the least that the
    project asks for."""

    what: str
    ours: float
    fio: float | None = None
    ratio: float | None = None
    limit: float | None = None

    def __str__(self) -> str:
        peer = "" if self.fio is None else f"   fio {self.fio:6.3f}   ours / fio {self.ratio:.3f}"
        limit = "" if self.limit is None else f"   (at least {self.limit:g})"
        return f"{self.what:52} {self.ours:6.3f} GB/s{peer}{limit}"


def _fio(path: Path, nbytes: int, kind: str) -> float | None:
    """Bytes a second that fio reads or writes, by its own account; None without fio."""
    tool = shutil.which("fio")
    if tool is None:
        return None
    done = subprocess.run(
        [tool, "--name=load", f"--filename={path}", f"--rw={kind}", f"--bs={CHUNK}", f"--iodepth={DEPTH}", "--direct=1",
         "--ioengine=io_uring", f"--size={nbytes}", "--output-format=json", "--end_fsync=1"],
        capture_output=True, text=True, timeout=FIO_TIMEOUT, check=False, env={**os.environ, **FIO_MEMORY})
    if done.returncode:
        print(f"fio: {done.stderr.strip() or done.stdout.strip()[-300:]}", file=sys.stderr)
        return None
    job = json.loads(done.stdout)["jobs"][0][kind]
    return float(job["io_bytes"] / (job["runtime"] / 1e3)) if job["runtime"] else None


def _rate(nbytes: int, act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return nbytes / (time.perf_counter() - start)


@contextmanager
def _engine(name: str) -> Iterator[str]:
    """One file engine for a while; "" where it cannot be had."""
    before = os.environ.get("HCQ_IO")
    os.environ["HCQ_IO"] = name
    try:
        try:
            engine = open_engine(2)
            engine.close()
            yield engine.name
        except hcq.LoadError as error:
            print(error, file=sys.stderr)
            yield ""
    finally:
        os.environ.pop("HCQ_IO")
        if before is not None:
            os.environ["HCQ_IO"] = before


def _compare(what: str, nbytes: int, rounds: int, act: Callable[[], object], peer: Callable[[], float | None],
             limit: float | None = None, before: Callable[[], object] = lambda: None) -> Row:
    """Turn and turn about, the order changing; the first round is a rehearsal."""
    ours, theirs = [], []
    for number in range(rounds + 1):
        before()
        if number % 2:
            mine, other = _rate(nbytes, act), peer()
        else:
            other, mine = peer(), _rate(nbytes, act)
        if number:
            ours.append(mine)
            if other is not None:
                theirs.append(other)
    row = Row(what, median(ours) / 1e9, limit=limit)
    if len(theirs) == len(ours):
        row.fio = median(theirs) / 1e9
        row.ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
    print(row, flush=True)
    return row


def measure(folder: Path, nbytes: int, rounds: int) -> list[Row]:
    """Every row, files in ``folder``."""
    path, out = folder / "in.bin", folder / "out.bin"
    with path.open("wb") as file:
        rng = np.random.default_rng(1)
        for _ in range(nbytes >> 20):
            file.write(rng.integers(0, 256, 1 << 20, np.uint8).data)
        file.flush()
        os.fsync(file.fileno())

    def fio_writes() -> float | None:
        return _fio(folder / "fio.bin", nbytes, "write")

    def no_files() -> None:
        for old in (folder / "fio.bin", out):                   # both write a new file; freeing the old takes time, too
            old.unlink(missing_ok=True)
        os.sync()

    def fio_reads() -> float | None:
        return _fio(path, nbytes, "read")

    machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram=f"{max(256, (nbytes >> 20) + 192)}M")])
    rows = []
    with hcq.Device(open_backend(hal=MockHal(machine))) as device:
        buffer = device.alloc(nbytes)
        with NullExecution(machine.gpus[0]):
            def load(**more: object) -> Callable[[], object]:
                return lambda: device.load(path, 0, nbytes, buffer, via="staging", **more)      # type: ignore[arg-type]
            for engine in ("uring", "threads"):
                with _engine(engine) as name:
                    if name:
                        rows.append(_compare(f"file to memory, {name}", nbytes, rounds, load(), fio_reads,
                                             0.9 if engine == "uring" else None))
            digest = hcq.Manifest.of(path).entries[path.name].blake3
            rows.append(_compare("the same, BLAKE3 checked", nbytes, rounds, load(blake3=digest), fio_reads))
            count = 32
            parts = [hcq.Part(path, at, nbytes // count, buffer[at:at + nbytes // count])
                     for at in range(0, nbytes, nbytes // count)][:count]
            rows.append(_compare(f"{count} parts at once", nbytes, rounds,
                                 lambda: hcq.load_files(parts, via="staging"), fio_reads))
            rows.append(_compare("memory to file, on the disk (fsync)", nbytes, rounds,
                                 lambda: device.store(out, buffer), fio_writes, before=no_files))
        def other_bytes() -> None:                              # so that a flush finds all of it changed
            buffer.fill(0x5A5A5A5A)
            device.synchronize()

        rows.append(_compare("file to memory, the mock copying", nbytes, rounds, load(), fio_reads, before=other_bytes))
        rows.append(_compare("file to memory, by the mock's window", nbytes, rounds,
                             lambda: device.load(path, 0, nbytes, buffer, via="window"), fio_reads, before=other_bytes))
    machine.close()
    return rows


def _write_docs(rows: list[Row], nbytes: int, rounds: int, path: Path) -> None:
    table = ["| what | GB/s | fio, same pattern | ours / fio | wanted |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        peer = ("", "") if row.fio is None or row.ratio is None else (f"{row.fio:.2f}", f"{row.ratio:.2f}")
        table.append(f"| {row.what} | {row.ours:.2f} | {peer[0]} | {peer[1]} | "
                     f"{'' if row.limit is None else f'{row.limit:g}'} |")
    about = (f"`python -m bench.load --docs`, {os.cpu_count()} cores, {platform.machine()}, Python "
             f"{platform.python_version()}, {nbytes >> 20} MiB. fio takes turns with ours on one file: sequential, "
             f"O_DIRECT, {CHUNK >> 20} MiB a read, {DEPTH} under way, io_uring, memory of large pages; medians of "
             f"{rounds} rounds, the ratio that of the rounds' ratios. The mock is in null execution but for the last "
             f"two rows. Load average at the end: {os.getloadavg()[0]:.0f}; "
             f"niceness of both: {os.nice(0)}.")
    part = BEGIN + "## Files\n\n" + about + "\n\n" + "\n".join(table) + "\n" + END
    write_section(path, BEGIN, END, part)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/performance.md, too")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the file (default: 512)")
    parser.add_argument("--folder", help="on the disk to measure (default: the temporary folder's)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-load-") as folder:
        rows = measure(Path(folder), options.size << 20, options.rounds)
    if options.json:
        write_json(options.json, {"rows": [asdict(row) for row in rows]})
    if options.docs:
        _write_docs(rows, options.size << 20, options.rounds, ROOT / "docs" / "performance.md")
    return 0


if __name__ == "__main__":
    from tools.piped import piped
    raise SystemExit(piped(main)())
