"""Vulkan compute shaders on RADV in the guest, and on lavapipe here: the same SPIR-V, the same buffers, equal results.

    python tests/vm/radv.py                         # all programs, a table on stdout
    python tests/vm/radv.py saxpy float64 --gpu gfx1100:vram=512M

Mesa (RADV, whose compiler is ACO, and lavapipe), the Vulkan loader and glslang are Debian's packages of trixie,
unpacked beside the caches; they run by their own loader and libraries, in the guest over 9p. ``vulkan/runner.c`` is
built here and runs the programs of :data:`PROGRAMS` on either. Shaders: ``vulkan/shaders``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from amdgpu_machine import CACHE, AmdgpuMachine
from debian_backports import Apt
from guest import Missing

__all__ = ["LOAD", "PROGRAMS", "Outcome", "Program", "Vulkan", "compare"]

HERE = Path(__file__).parent / "vulkan"
PACKAGES = ("mesa-vulkan-drivers", "libvulkan1", "libvulkan-dev", "glslang-tools", "vulkan-tools")
SUITE = "trixie"
LOAD = "amdgpu_load lockup_timeout=60000\n"       # milliseconds: the guest's processor is interpreted, and shared
VARIANTS = {"": {}, "wave32": {"RADV_PERFTEST": "cswave32"}, "noopt": {"ACO_DEBUG": "noopt,nosched,novn"}}
"""How RADV is asked to compile: waves of 64 lanes as it does by itself, of 32, and without ACO's optimizer."""
LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Program:
    """Buffers, shaders and steps (see runner.c). ``dtype`` and ``ulps``: how buffers are compared where not bit by bit;
    ``unordered``: a buffer whose words may come in any order."""

    name: str
    buffers: Sequence[np.ndarray | int]
    shaders: Sequence[str]
    steps: Sequence[str]
    dtype: type | None = None
    ulps: int = 0
    atol: float = 0.0
    expected: Mapping[int, bytes] = field(default_factory=dict)
    """Buffers whose contents are known otherwise, by exact arithmetic; lavapipe is not asked."""


@dataclass
class Outcome:
    """A program on one driver."""

    seconds: float
    ticks: int
    buffers: list[bytes] = field(default_factory=list)


def random(name: str) -> np.random.Generator:
    return np.random.default_rng(sum(name.encode()))


def words(name: str, count: int) -> np.ndarray:
    return random(name).integers(0, 1 << 32, count, dtype=np.uint32)


def reals(name: str, count: int, dtype: type = np.float32, scale: float = 8.0) -> np.ndarray:
    return (random(name).standard_normal(count) * scale).astype(dtype)


def push(*values: object) -> str:
    return "push " + b"".join(np.asarray(value).tobytes() for value in values).hex()


def sha_constants() -> np.ndarray:
    """The first 32 bits of the fractions of the cube roots of the first 64 primes."""
    primes = [n for n in range(2, 312) if all(n % d for d in range(2, n))]
    roots = []
    for prime in primes[:64]:
        low, high = 0, 1 << 40
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if middle ** 3 <= prime << 96 else (low, middle)
        roots.append(low & 0xFFFFFFFF)
    return np.array(roots, np.uint32)


def fused(rows: np.ndarray) -> np.ndarray:
    """x * y + z of each row, rounded once."""
    kind = rows.dtype.type
    out = np.empty(len(rows), kind)
    for i, (x, y, z, _) in enumerate(rows.tolist()):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        near = kind(float(exact))                   # for single precision perhaps rounded twice: look at its neighbours
        candidates = (np.nextafter(near, kind(-np.inf)), near, np.nextafter(near, kind(np.inf)))
        out[i] = min(candidates, key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view(
            np.uint32 if kind is np.float32 else np.uint64)) & 1))
    return out


def programs() -> dict[str, Program]:
    f32, u32 = np.float32, np.uint32
    n = 1024
    specials = np.array([0, -0.0, 1, -1, 0.5, 2.5, 3.5, -2.5, 1e-30, 1e30, 65504, 1e-5], f32)
    mixed = np.concatenate([np.repeat(specials, 12), np.tile(specials, 12)]).reshape(2, 144).T.ravel()
    floats = np.concatenate([mixed, reals("floats", 2 * 256 - len(mixed))]).astype(f32)
    singles, doubles = reals("singles", 4 * 256).reshape(-1, 4), reals("doubles", 4 * 256, np.float64).reshape(-1, 4)
    singles[:128, 2] = -(singles[:128, 0] * singles[:128, 1])       # only the product's lost digits are left
    doubles[:128, 2] = -(doubles[:128, 0] * doubles[:128, 1])
    found = [
        Program("saxpy", [reals("saxpy", n), 4 * n], ["saxpy"], [push(f32(2.5), f32(-1), u32(n - 5)),
                                                                "dispatch 0 16 1 1"]),
        Program("integers", [words("integers", 2 * 256), 4 * 32 * 256], ["integers"], ["dispatch 0 8 1 1"]),
        Program("floats", [floats, 4 * 24 * 256], ["floats"], ["dispatch 0 4 1 1"], np.float32),
        Program("fused", [singles, 4 * 256, doubles, 8 * 256], ["fused"], ["dispatch 0 4 1 1"],
                expected={1: fused(singles).tobytes(), 3: fused(doubles).tobytes()}),
        Program("transcendentals", [reals("trans", 2 * 256, scale=2.0), 4 * 16 * 256], ["transcendentals"],
                ["dispatch 0 4 1 1"], np.float32, ulps=64, atol=2e-5),
        Program("reduce", [words("reduce", 4096), 64], ["reduce"], ["dispatch 0 16 1 1"]),
        Program("bitonic", [words("bitonic", 2048)], ["bitonic"], ["dispatch 0 8 1 1"]),
        Program("matmul", [reals("a", 64 * 64), reals("b", 64 * 64), 4 * 64 * 64], ["matmul 0=64"],
                ["dispatch 0 4 4 1"]),
        Program("histogram", [words("histogram", 2048), 256], ["histogram"], ["dispatch 0 16 1 1"]),
        Program("atomics", [words("atomics", 256), np.array([0, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0, 0, 0, 0, 0x7FFFFFFF,
                                                             1 << 31, *[0] * 256], u32)], ["atomics"],
                ["dispatch 0 4 1 1"]),
        Program("atomics64", [words("atomics64", 512), np.array([0, 2**64 - 1, 0, 2**64 - 1, 0, 0], np.uint64)],
                ["atomics64"], ["dispatch 0 4 1 1"]),
        Program("int64", [words("int64", 4 * 128), 8 * 16 * 128], ["int64"], ["dispatch 0 4 1 1"]),
        Program("float64", [reals("float64", 2 * 128, np.float64), 8 * 16 * 128], ["float64"], ["dispatch 0 4 1 1"],
                np.float64),
        Program("double_division", [reals("division", 2 * 128, np.float64), 8 * 4 * 128], ["double_division"],
                ["dispatch 0 4 1 1"], np.float64, ulps=2, atol=1e-13),
        Program("float16", [reals("float16", 2 * 256, np.float16), 2 * 12 * 256], ["float16"], ["dispatch 0 4 1 1"],
                np.float16),
        Program("small", [words("i8", 128), 8 * 256, words("i16", 256), 16 * 256], ["small"], ["dispatch 0 4 1 1"]),
        Program("subgroups", [words("subgroups", 1024) >> 8, 4 * 12 * 1024,
                              np.array([0, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0], u32)], ["subgroups"], ["dispatch 0 4 1 1"]),
        Program("control", [words("control", 512), 4 * 1024], ["control"], ["dispatch 0 8 1 1"]),
        Program("private_arrays", [words("private", 256), 4 * 256], ["private_arrays"], ["dispatch 0 4 1 1"]),
        Program("groups", [32 * 12 * 6 * 4 * 3], ["groups"], ["dispatch 0 3 2 2"]),
        Program("indirect", [16, 128], ["counts", "counted"], ["dispatch 0 1 1 1", "barrier", "indirect 1 0 0"]),
        Program("pointers", [words("pointers", 128), 4 * 128], ["pointers"], ["push", "addresses 0 2",
                                                                              "dispatch 0 4 1 1"]),
        Program("sha256", [words("sha256", 16 * 128), 32 * 128, sha_constants()], ["sha256"], ["dispatch 0 4 1 1"]),
        Program("mandelbrot", [4 * 64 * 64], ["mandelbrot"], [push(f32(-2), f32(-1.25), f32(0.04), u32(64)),
                                                              "dispatch 0 8 8 1"]),
        Program("many_dispatches", [words("many", 256) & 1, 1024], ["step"], [
            step for turn in range(20)
            for step in (push(u32(turn % 2 == 0), u32(256)), "dispatch 0 4 1 1", "barrier")]),
        Program("transfers", [words("transfers", 4096), 16384, 16384], ["saxpy"], [
            "copy 0 0 1 0 16384", "fill 2 0 16384 3735928559", "barrier", "copy 0 256 2 1024 4096", "fill 1 64 128 7"]),
        Program("compute_queue", [reals("saxpy", n), 4 * n], ["saxpy"], [push(f32(2.5), f32(-1), u32(n - 5)),
                                                                        "dispatch 0 16 1 1"]),
        Program("compute_queue_indirect", [16, 128], ["counts", "counted"], ["dispatch 0 1 1 1", "barrier",
                                                                             "indirect 1 0 0"]),
    ]
    return {program.name: program for program in found}


PROGRAMS = programs()


def ordered(data: bytes, dtype: type) -> np.ndarray:
    """Floats as integers in their order, that differ by how many values lie between."""
    values = np.frombuffer(data, dtype)
    signed = values.view(f"i{values.itemsize}").astype(object if values.itemsize == 8 else np.int64)
    lowest = -(1 << 8 * values.itemsize - 1)
    return np.where(signed < 0, lowest - signed, signed)


def compare(program: Program, ours: Outcome, theirs: Outcome) -> str:
    """What differs, "" when nothing does."""
    for number, (a, b) in enumerate(zip(ours.buffers, theirs.buffers, strict=True)):
        if number in program.expected:
            b = program.expected[number]
        if a == b:
            continue
        if program.dtype is None or len(a) % np.dtype(program.dtype).itemsize:
            x, y = (np.frombuffer(data[:len(a) // 4 * 4], np.uint32) for data in (a, b))
            at = int(np.flatnonzero(x != y)[0])
            return (f"buffer {number}: {np.count_nonzero(x != y)} of {x.size} words, the first at {at}: {x[at]:#x}, "
                    f"lavapipe's {y[at]:#x}")
        x, y = np.frombuffer(a, program.dtype), np.frombuffer(b, program.dtype)
        with np.errstate(all="ignore"):
            far = np.abs(ordered(a, program.dtype) - ordered(b, program.dtype)) > program.ulps
            wrong = far & ~(np.isnan(x) & np.isnan(y)) & ~(np.abs(x.astype(float) - y.astype(float)) <= program.atol)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            return (f"buffer {number}: {np.count_nonzero(wrong)} of {x.size}, the first at {at}: {x[at]!r}, lavapipe's "
                    f"{y[at]!r}")
    return ""


class Vulkan:
    """The packages, the built runner, and the shaders' code. A context: its folder goes with it (beside the caches: the
    guest has a /tmp of its own). :raises Missing:"""

    def __init__(self) -> None:
        if shutil.which("cc") is None:
            raise Missing("a C compiler, for the program that submits the shaders, is not here: apt-get install gcc")
        self.root = CACHE.parent / "vulkan" / "root"
        if not (self.root / "done").exists():
            Apt(CACHE.parent / "vulkan" / "apt").unpack_closure(PACKAGES, self.root, SUITE)
            (self.root / "done").touch()
        self.libraries = self.root / LIBRARIES
        self.start = [str(self.root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(self.libraries)]
        self._folder = tempfile.TemporaryDirectory(prefix="run-", dir=self.root.parent)
        self.folder = Path(self._folder.name)
        self.runner = self.folder / "runner"
        self._call(["cc", "-O1", "-Wall", f"-I{self.root}/usr/include", str(HERE / "runner.c"), "-o", str(self.runner),
                    f"-L{self.libraries}", "-l:libvulkan.so.1", "-Wl,--allow-shlib-undefined"])

    def __enter__(self) -> Vulkan:
        return self

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()

    def _call(self, command: Sequence[str], **environment: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", **environment})
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def environment(self, driver: str) -> dict[str, str]:
        return {"VK_DRIVER_FILES": str(self.root / f"usr/share/vulkan/icd.d/{driver}_icd.json"),
                "MESA_SHADER_CACHE_DISABLE": "true"}

    def write_plan(self, chosen: Sequence[Program], queue: Callable[[Program], int]) -> Path:
        """The runner's plan, with shaders compiled and buffers' contents beside it."""
        lines = []
        for shader in {name.split()[0] for program in chosen for name in program.shaders}:
            self._call([*self.start, str(self.root / "usr/bin/glslangValidator"), "-V", "--target-env", "vulkan1.3",
                        "-o", str(self.folder / f"{shader}.spv"), str(HERE / "shaders" / f"{shader}.comp")])
        for program in chosen:
            lines += [f"program {program.name}", f"queue {queue(program)}"]
            for number, buffer in enumerate(program.buffers):
                if isinstance(buffer, int):
                    lines.append(f"buffer {buffer} -")
                else:
                    path = self.folder / f"{program.name}.{number}.in"
                    path.write_bytes(buffer.tobytes())
                    lines.append(f"buffer {buffer.nbytes} {path}")
            for shader in program.shaders:
                name, *constants = shader.split()
                lines.append(f"shader {self.folder / name}.spv {' '.join(constants)}")
            lines += [*program.steps, "end"]
        plan = self.folder / f"plan-{queue(chosen[0])}-{len(list(self.folder.glob('plan-*')))}"
        plan.write_text("\n".join(lines) + "\n")
        return plan

    def lavapipe(self, chosen: Sequence[Program]) -> dict[str, Outcome]:
        output = self.folder / "lavapipe"
        output.mkdir(exist_ok=True)
        plan = self.write_plan(chosen, lambda program: 0)
        text = self._call([*self.start, str(self.runner), "llvmpipe", str(plan), str(output)],
                          **self.environment("lvp"))
        return outcomes(text, {path.name: path.read_bytes() for path in output.iterdir()})

    def guest_script(self, chosen: Sequence[Program], variants: Sequence[str] = tuple(VARIANTS)) -> str:
        """Runs the programs on RADV in the guest, and prints results as text: the guest's disk is read-only."""
        plan = self.write_plan(chosen, lambda program: int(program.name.startswith("compute_queue")))
        exports = "".join(f"export {key}={value}\n" for key, value in self.environment("radeon").items())
        runs = ""
        for name in variants:
            label, settings = name or "default", " ".join(f"{key}={value}" for key, value in VARIANTS[name].items())
            runs += (f"mkdir /tmp/out/{label}\n"
                     f"{settings} {' '.join(self.start)} {self.runner} RADV {plan} /tmp/out/{label} > /tmp/said 2>&1\n"
                     f"code=$((code + $?)); sed 's/^/{label}:/' /tmp/said\n")
        return f"""{exports}mkdir /tmp/out; code=0
{runs}
echo RESULTS; cd /tmp/out; tar cz . | base64; echo END
exit $code
"""

    def sniffed_script(self, program: Program) -> str:
        """Runs one program under ioctl-sniff in the guest, and prints what it understood."""
        plan = self.write_plan([program], lambda program: 0)
        settings = " ".join(f"{key}={value}" for key, value in self.environment("radeon").items())
        return f"""mkdir /tmp/one
env PYTHONPATH=. {settings} $PYTHON -m tools.ioctl_sniff -q --calls --json -o /tmp/sniffed \\
    {' '.join(self.start)} {self.runner} RADV {plan} /tmp/one > /tmp/said 2>&1 || cat /tmp/said
PYTHONPATH=. $PYTHON tests/vm/inside/drive_kfd.py --read /tmp/sniffed
"""


def outcomes(text: str, files: dict[str, bytes], variant: str = "") -> dict[str, Outcome]:
    """The runner's lines and files, of the guest's runs those of a variant."""
    found = {}
    prefix = f"{variant or 'default'}:"
    folder = f"{variant or 'default'}/" if any("/" in name for name in files) else ""
    for line in text.splitlines():
        parts = line.removeprefix(prefix).split()
        if len(parts) == 3 and parts[0] in PROGRAMS:
            name = parts[0]
            count = len(PROGRAMS[name].buffers)
            found[name] = Outcome(float(parts[1]), int(parts[2]), [
                files[f"{folder}{name}.{n}"] for n in range(count) if f"{folder}{name}.{n}" in files])
    return found


def unpack(text: str) -> dict[str, bytes]:
    """The files of a guest's output."""
    import base64
    import io
    import tarfile
    begin, end = text.find("RESULTS\n"), text.rfind("\nEND")
    if begin < 0 or end < begin:
        return {}
    data = base64.b64decode("".join(text[begin + 8:end].split()))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name.removeprefix("./"): archive.extractfile(member).read()        # type: ignore[union-attr]
                for member in archive if member.isfile()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Compute shaders on RADV over the mock, against lavapipe.")
    parser.add_argument("names", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}")
    parser.add_argument("--gpu", default="gfx1100:vram=256M", help="as in AMDRV_MOCK (default: %(default)s)")
    parser.add_argument("--log", type=Path, metavar="DIR", help="where the console's log goes")
    given = parser.parse_args()
    from mock.machine import parse
    chosen = [PROGRAMS[name] for name in given.names or PROGRAMS]
    folder = given.log or Path(tempfile.mkdtemp(prefix="radv-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Vulkan() as vulkan, AmdgpuMachine(parse(given.gpu)[0]) as machine:
            theirs = vulkan.lavapipe(chosen)
            result = machine.run(LOAD + vulkan.guest_script(chosen), folder)
            notes = [f"  {note.rule}: {note.text}" for note in machine.board.log]
    except Missing as error:
        print(f"radv: {error}", file=sys.stderr)
        return 2
    files = unpack(result.output)
    ours = {variant: outcomes(result.output, files, variant) for variant in VARIANTS}
    bad = 0
    heads = " | ".join(f"{variant or 'RADV'}, s" for variant in VARIANTS)
    lines = [f"| shader | result | {heads} | lavapipe, s |", "|---" * (3 + len(VARIANTS)) + "|"]
    for program in chosen:
        results = [ours[variant].get(program.name) for variant in VARIANTS]
        whys = ["no result" if result is None or program.name not in theirs
                else compare(program, result, theirs[program.name]) for result in results]
        why = "; ".join(f"{variant or 'RADV'}: {why}" for variant, why in zip(VARIANTS, whys, strict=True) if why)
        bad += bool(why)
        times = " | ".join(f"{result.seconds:.3f}" if result else "" for result in results)
        known = theirs.get(program.name)
        lines.append(f"| {program.name} | {why or 'equal'} | {times} | {f'{known.seconds:.3f}' if known else ''} |")
    print("\n".join(lines))
    if bad:
        print(result.output[max(result.output.find("GUEST UP"), 0):][:6000], *notes[-40:], sep="\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
