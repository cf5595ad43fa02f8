"""Mesa's RADV computes on the mock, under Debian's own amdgpu: the same shaders give what lavapipe gives.

ACO, its compiler, is not LLVM: a second compiler against the mock's instruction set. The guest is one test, so that it
is started once; what compares its results is tested by itself.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import radv
from amdgpu_machine import AmdgpuMachine, errors
from guest import Missing, unavailable

from mock.rules import RULES

CALLS = {f"DRM_IOCTL_AMDGPU_{name}" for name in ("CTX", "INFO", "GEM_CREATE", "GEM_MMAP", "GEM_VA", "CS")}
INFO = "{start} {root}/usr/bin/vulkaninfo --summary\n"


@pytest.mark.vm
@pytest.mark.amdgpu
@pytest.mark.timeout(1800)
def test_shaders_give_what_lavapipe_gives(tmp_path: Path) -> None:
    """vulkaninfo names the card; every program in every variant is equal; neither the kernel nor the card saw an
    error; and ioctl-sniff understands all that RADV says to the kernel."""
    chosen = list(radv.PROGRAMS.values())
    try:
        with radv.Vulkan() as vulkan, AmdgpuMachine() as machine:
            theirs = vulkan.lavapipe(chosen)
            exports, run = vulkan.guest_script(chosen).split("mkdir /tmp/out", 1)
            info = INFO.format(start=" ".join(vulkan.start), root=vulkan.root)
            info += vulkan.sniffed_script(radv.PROGRAMS["saxpy"])
            result = machine.run(f"{radv.LOAD}{exports}{info}mkdir /tmp/out{run}".replace(
                "exit $code", "dmesg -r | sed 's/^/KERNEL /'; exit $code"), tmp_path)
            notes = [f"{note.rule}: {note.text}" for note in machine.board.log]
    except Missing as missing:
        unavailable(missing)
    assert "deviceName         = AMD Radeon Graphics (RADV NAVI31)" in result.output
    assert result.status == 0, result.output[-3000:]
    sniffed = json.loads(*re.findall(r"^SNIFFED (.*)$", result.output, re.M))
    assert set(sniffed["names"]) >= CALLS and sniffed["unknown"] == [], sniffed
    broken = {"queue-hang", "sdma-hang", "page-fault", "engine-failed", "bus-error", *RULES}
    broken.remove("gfxoff")             # which test_amdgpu.py explains
    assert [note for note in notes if note.split(":")[0] in broken] == []
    kernel = [line.removeprefix("KERNEL ") for line in result.output.splitlines() if line.startswith("KERNEL ")]
    assert len(kernel) > 100
    assert [line for line in errors("\n".join(kernel)) if "amdgpu" in line or "drm" in line] == []
    files = radv.unpack(result.output)
    differences = {}
    for variant in radv.VARIANTS:
        ours = radv.outcomes(result.output, files, variant)
        assert set(ours) == set(radv.PROGRAMS), f"variant {variant!r}"
        for name, program in radv.PROGRAMS.items():
            if why := radv.compare(program, ours[name], theirs[name]):
                differences[name, variant] = why
    assert differences == {}


# ---- what compares

def outcome(*buffers: np.ndarray) -> radv.Outcome:
    return radv.Outcome(0.0, 0, [buffer.tobytes() for buffer in buffers])


@given(st.floats(width=32, allow_nan=False, allow_infinity=False),
       st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_as_integers_keep_their_order(a: float, b: float) -> None:
    """And neighbours are one apart."""
    above = np.nextafter(np.float32(a), np.float32(np.inf))
    x, y, z = radv.ordered(np.array([a, b, above], np.float32).tobytes(), np.float32)
    assert (x < y) == (a < b) and z - x == 1


def test_a_single_bit_is_seen() -> None:
    program = radv.Program("x", [16], [], [])
    good, bad = np.arange(4, dtype=np.uint32), np.array([0, 1, 6, 3], np.uint32)
    assert radv.compare(program, outcome(good), outcome(good)) == ""
    assert radv.compare(program, outcome(bad), outcome(good)) == ("buffer 0: 1 of 4 words, the first at 2: 0x6, "
                                                                  "lavapipe's 0x2")


def test_places_and_tolerances() -> None:
    one = np.ones(3, np.float32)
    off = one.copy()
    off[1] = np.nextafter(np.nextafter(np.float32(1), np.float32(2)), np.float32(2))
    for ulps, equal in ((2, True), (1, False)):
        program = radv.Program("x", [12], [], [], np.float32, ulps=ulps)
        assert (radv.compare(program, outcome(off), outcome(one)) == "") == equal
    nan = np.array([np.nan, 1, 1], np.float32)
    program = radv.Program("x", [12], [], [], np.float32, ulps=4, atol=1e-3)
    assert radv.compare(program, outcome(nan), outcome(-nan)).startswith("buffer 0: 2 of 3")
    assert "lavapipe's" in radv.compare(program, outcome(nan), outcome(one))


def test_what_is_known_is_not_lavapipe_s() -> None:
    right, wrong = np.array([1], np.uint32), np.array([2], np.uint32)
    program = radv.Program("x", [4], [], [], expected={0: right.tobytes()})
    assert radv.compare(program, outcome(right), outcome(wrong)) == ""
    assert radv.compare(program, outcome(wrong), outcome(wrong)) != ""


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3))
def test_fused_sums_are_the_nearest(row: list[float]) -> None:
    [found] = radv.fused(np.array([[*row, 0]], np.float32))
    exact = Fraction(row[0]) * Fraction(row[1]) + Fraction(row[2])
    error = abs(Fraction(float(found)) - exact)
    for direction in (np.inf, -np.inf):
        assert error <= abs(Fraction(float(np.nextafter(found, np.float32(direction)))) - exact)


def test_sha256_s_constants() -> None:
    """FIPS 180-4, 4.2.2: the first and the last."""
    constants = radv.sha_constants()
    assert (hex(constants[0]), hex(constants[63]), len(constants)) == ("0x428a2f98", "0xc67178f2", 64)


def test_the_guest_s_lines_become_results() -> None:
    text = "default:device AMD\ndefault:saxpy 0.5 123\nwave32:saxpy 0.7 1\nwave32:runner: failed (3)\n"
    files = {f"{variant}/saxpy.{n}": struct.pack("<I", n) for variant in ("default", "wave32") for n in range(2)}
    found = radv.outcomes(text, files)
    assert set(found) == {"saxpy"} and (found["saxpy"].seconds, found["saxpy"].ticks) == (0.5, 123)
    assert found["saxpy"].buffers == [struct.pack("<I", 0), struct.pack("<I", 1)]
    assert radv.outcomes(text, files, "wave32")["saxpy"].seconds == 0.7
    assert radv.outcomes(text, files, "noopt") == {} and radv.unpack("no results here") == {}
