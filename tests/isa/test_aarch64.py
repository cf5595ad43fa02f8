"""Compiled code for another processor: objects for aarch64, linked and run by qemu, against the interpreter."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from programs import ALLOCATED, Outcome, Program, Registers, find, opcodes

import mock.isa as isa
from mock.isa.access import HostMemory
from mock.isa.interpreter import Machine
from mock.isa.jit import library
from mock.isa.jit.context import FIELDS, YIELD, support_ir, symbol
from mock.isa.jit.executor import _Box, _boxes, _Launch, _Runner
from mock.isa.jit.registers import Layout
from mock.isa.jit.segments import CAREFUL
from mock.isa.jit.translate import Translation, discover, translate

pytestmark = pytest.mark.slow
TRIPLE, CHUNK, PAGE = "aarch64-unknown-linux-gnu", 4, 4096
COMPILERS, EMULATORS = ("aarch64-linux-gnu-gcc",), ("qemu-aarch64-static", "qemu-aarch64")
EXECS = ("full", "some", "one", "zero")
POINTERS = ("lds", "states", "sgprs", "lane_ids", "exec_masks")


def first(names: tuple[str, ...]) -> str:
    for name in names:
        if shutil.which(name):
            return name
    pytest.skip(f"none of {', '.join(names)} is installed")


class Arm:
    """Objects, programs and runs for aarch64."""

    def __init__(self, folder: Path) -> None:
        self.compiler, self.emulator, self.folder = first(COMPILERS), first(EMULATORS), folder
        self.llvm = pytest.importorskip("llvmlite.binding")
        self.llvm.initialize_all_targets()
        self.llvm.initialize_all_asmprinters()
        self._made: dict[str, Path] = {}

    def object_file(self, name: str, text: str, optimise: bool = True) -> Path:
        """LLVM assembly -> an object file, each name once."""
        if name not in self._made:
            machine = self.llvm.Target.from_triple(TRIPLE).create_target_machine(
                cpu="generic", features="+neon", opt=1, reloc="static", codemodel="small")
            module = self.llvm.parse_assembly(text)
            module.triple, module.data_layout = TRIPLE, str(machine.target_data)
            module.verify()
            if optimise:
                options = self.llvm.create_pipeline_tuning_options(speed_level=1)
                builder = self.llvm.create_pass_builder(machine, options)
                builder.getModulePassManager().run(module, builder)
            path = self.folder / f"{name}.o"
            path.write_bytes(machine.emit_object(module))
            self._made[name] = path
        return self._made[name]

    def program(self, made: Translation, lanes: int, optimise: bool) -> Path:
        """The driver, the kernel and everything that it calls, in one file."""
        number = len(self._made)
        parts = [self.object_file(f"kernel{number}", str(made.module), optimise),
                 self.object_file(f"support{lanes}", support_ir(lanes))]
        for name in made.shared:
            text = library.named(name)
            assert text is not None, name
            parts.append(self.object_file(name, text))
        names = {"RUN": symbol("run", lanes), "MISS": FIELDS["miss"], "FUNCTION": FIELDS["function"],
                 "WAVE": FIELDS["wave"], "PC": FIELDS["pc"], "YIELD": YIELD}
        program = self.folder / f"program{number}"
        driver = Path(__file__).with_name("aarch64_driver.c")
        subprocess.run([self.compiler, "-static", "-O1", "-Wall", *(f"-D{k}={v}" for k, v in names.items()),
                        str(driver), *map(str, parts), "-lm", "-o", str(program)], check=True)
        return program

    def run(self, program: Path, runner: _Runner, pages: dict[int, bytes]) -> dict[int, bytes]:
        """Run to the end; the runner's arrays and the pages as they are then."""
        blocks = [runner.lds.memory, runner.states, runner.sgprs, runner.box.lane_ids, runner.box.masks]
        data = [block.reshape(-1).view(np.uint8) for block in blocks]
        context = runner.context._bytes
        image = struct.pack("<Q", len(context)) + context.tobytes()
        image += struct.pack("<Q", len(POINTERS)) + b"".join(struct.pack("<QQ", FIELDS[name], i)
                                                             for i, name in enumerate(POINTERS))
        image += struct.pack("<Q", len(data)) + b"".join(struct.pack("<Q", len(d)) + d.tobytes() for d in data)
        image += struct.pack("<Q", len(pages)) + b"".join(struct.pack("<Q", at) + page for at, page in pages.items())
        before, after = self.folder / "before", self.folder / "after"
        before.write_bytes(image)
        done = subprocess.run([self.emulator, str(program), str(before), str(after)], capture_output=True, text=True,
                              check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        result, at = after.read_bytes(), 0
        for array in (context, *data):
            array[:] = np.frombuffer(result, np.uint8, len(array), at)
            at += len(array)
        found = {}
        for place in range(at, len(result), PAGE + 8):
            found[struct.unpack_from("<Q", result, place)[0]] = result[place + 8:place + 8 + PAGE]
        return found


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    return Arm(tmp_path_factory.mktemp("aarch64"))


def prepare(arm: Arm, dispatch: isa.Dispatch, box: _Box, optimise: bool,
            targets: Iterable[int] = ()) -> tuple[Path, _Runner]:
    """``targets``: PCs that are jumped to by registers, which else the host would be asked for."""
    launch = _Launch(dispatch, HostMemory(), check_hazards=False)
    points = [(pc, launch.mode) for pc in sorted({0, *targets} - discover(launch.code, {0}).leaders | {0})]
    points.append((0, launch.mode | CAREFUL))       # then code repeats its segments by itself
    flow = discover(launch.code, {pc for pc, _ in points})
    made = translate(flow, points, lanes=launch.lanes, chunk=CHUNK, vgprs=launch.vgprs, optimise=optimise)
    assert not made.interpreted, f"left to the host: {made.interpreted}"
    launch.compiled = SimpleNamespace(points=made.points)        # type: ignore[assignment]
    return arm.program(made, launch.lanes, optimise), _Runner(launch, box, 0)


@pytest.mark.parametrize(("lanes", "mode", "optimise"), [(32, 0x3f0, False), (32, 0x1c5, True), (64, 0x1fa, False)])
def test_random_programs(arm: Arm, lanes: int, mode: int, optimise: bool) -> None:
    """Every instruction of the table, in long programs from random registers."""
    rng = random.Random(lanes + mode)
    every = [i for i in (find(name, op, rng, lanes) for name, op in opcodes()) if i is not None]
    rng.shuffle(every)
    assert len(every) > 900
    size = 150
    if optimise:        # takes LLVM long
        every, size = every[:200], 40
    for at in range(0, len(every), size):
        start = Registers(lanes, at, mode, EXECS[at // size % len(EXECS)])
        program = Program(every[at:at + size], start)
        box = _Box(program.dispatch, (0, 0, 0), (1, 1, 1), program.dispatch.block)
        binary, runner = prepare(arm, program.dispatch, box, optimise)
        wave = runner.states
        wave[:Layout.VGPRS] = runner.sgprs
        wave[:128], wave[Layout.SCC] = start.sgpr, start.scc
        vgprs = wave[Layout.VGPRS:].reshape(-1, lanes)
        vgprs[:ALLOCATED] = start.vgpr[:len(vgprs)]
        for name, value in {"group": 0, "end": 1, "fresh": 0, "wave": 0, "alive": 1}.items():
            runner.context[name] = value
        arm.run(binary, runner, {})
        there = Outcome(wave[:128].copy(), vgprs[:ALLOCATED].copy(), int(wave[Layout.SCC]))
        different = program.interpreted().differences(there)
        assert not different, f"{different[:6]} after\n" + "\n".join(map(str, program.instructions))


class Recording(HostMemory):
    """Knows which pages were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: set[int] = set()

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        for address in np.unique(addresses >> np.uint64(12)):
            self.pages.add(int(address) << 12)
        return super().translate(addresses, nbytes, write)


def host_bytes(address: int) -> bytes:
    import ctypes
    return ctypes.string_at(address, PAGE)


class TwoMachines:
    """Launches as :func:`mock.isa.run` does: the interpreter's memory afterwards against aarch64's."""

    def __init__(self, arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arm, self.optimise = arm, False
        self._patch = monkeypatch

    def __call__(self, code: bytes, arrays: list[np.ndarray], **launch: Any) -> None:
        before = [array.copy() for array in arrays]

        def execute(dispatch: isa.Dispatch, memory: Recording, **options: Any) -> isa.Counts:
            machine = Machine(dispatch, memory)
            counts = machine.run()
            expected = [array.copy() for array in arrays]
            for array, old in zip(arrays, before, strict=True):
                array[...] = old
            box, = _boxes(dispatch)
            program, runner = prepare(self.arm, dispatch, box, self.optimise, machine._blocks)
            for name, value in {"group": 0, "end": box.groups, "fresh": 1}.items():
                runner.context[name] = value
            pages = {at: host_bytes(at) for at in sorted(memory.pages)}
            after = self.arm.run(program, runner, pages)
            for array, wanted in zip(arrays, expected, strict=True):
                first_page = int(array.ctypes.data) & -PAGE
                last = int(array.ctypes.data) + array.nbytes
                whole = b"".join(after.get(at) or host_bytes(at) for at in range(first_page, last, PAGE))
                start = int(array.ctypes.data) - first_page
                got = np.frombuffer(whole, array.dtype, array.size, start).reshape(array.shape)
                np.testing.assert_array_equal(got, wanted)
            if launch["kernel"] != "atomics":       # whose loops of compare and swap depend on who comes when
                assert runner.context["instructions"] == counts.instructions
            return counts
        self._patch.setattr(isa, "execute", execute)
        isa.run(code, memory=Recording(), **launch)


@pytest.mark.parametrize(("level", "optimise"), [("O0", False), ("O2", True), ("O2 wave64", False)])
def test_compiled_kernels(arm: Arm, compile_kernels: Any, monkeypatch: pytest.MonkeyPatch, level: str,
                          optimise: bool) -> None:
    from test_kernels import pack
    level, _, wide = level.partition(" ")
    code = compile_kernels("ordinary.cl", level, *(["-mwavefrontsize64"] if wide else []))
    launch, rng, n = TwoMachines(arm, monkeypatch), np.random.default_rng(4), 500
    launch.optimise = optimise

    def floats(kind: Any = np.float32, *shape: int) -> np.ndarray:
        return (rng.standard_normal(shape or (n,)) * 100).astype(kind)

    def ints(*shape: int) -> np.ndarray:
        return rng.integers(-10 ** 9, 10 ** 9, shape or (n,)).astype(np.int32)
    cases: list[tuple[str, list[Any], tuple[int, ...], tuple[int, ...]]] = [
        ("saxpy", [floats(), floats(), 2.5, n], (2,), (256,)),
        ("collatz", [rng.integers(1, 3000, n, np.uint32), np.zeros(n, np.uint32), n], (2,), (256,)),
        ("divide_f32", [floats(), floats(), floats(), n], (2,), (256,)),
        ("root_f64", [np.abs(floats(np.float64)), floats(np.float64), n], (2,), (256,)),
        ("half_math", [floats(np.float16), floats(np.float16), np.zeros((n, 3), np.float16), n], (2,), (256,)),
        ("double_math", [floats(np.float64), floats(np.float64), np.zeros((n, 2)), n], (2,), (256,)),
        ("conversions", [floats(), ints(), ints().view(np.uint32), floats(), floats(np.float64), np.zeros(n, np.uint8),
                         n], (2,), (256,)),
        ("reduce", [floats(np.float32, 1024), np.zeros(4, np.float32)], (4,), (256,)),
        ("matmul", [floats(np.float32, 32, 32), floats(np.float32, 32, 32), np.zeros((32, 32), np.float32), 32], (2, 2),
         (16, 16)),
        ("histogram", [rng.integers(0, 256, n, np.uint8), np.zeros(256, np.uint32), n], (2,), (256,)),
        ("atomics", [ints(), np.array([0, 0, 0, 0, -1, 0], np.int32), np.zeros(1, np.uint64), n], (2,), (256,)),
        ("scratch_sort", [ints(n, 16), np.zeros((n, 16), np.int32), n], (2,), (256,)),
        ("generic_pointers", [np.zeros(64, np.int32), ints(64)], (1,), (64,)),
        ("bits", [ints().view(np.uint32), np.zeros((n, 8), np.uint32), n], (2,), (256,))]
    for name, arguments, grid, block in cases:
        arrays = [x for x in arguments if isinstance(x, np.ndarray)]
        launch(code, arrays, kernel=name, kernarg=pack(*arguments), grid=grid, block=block)
