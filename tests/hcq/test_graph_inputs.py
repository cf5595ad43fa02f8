"""What a replay is given, many inputs at once, against a model; and each thing that it must not take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend
from fake_kernels import FUNCTIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hcq
from hcq.blocks import Table

N = 16


def ints(buffer: hcq.Buffer) -> np.ndarray:
    return buffer.copyout(np.empty(N, np.int32))


def filled(device: hcq.Device, value: int) -> hcq.Buffer:
    return device.alloc(4 * N).copyin(np.full(N, value, np.int32))


def record(device: hcq.Device, code: bytes, count: int = 6) -> hcq.Graph:
    """``out`` n becomes ``in`` n plus ``k`` n, all of them inputs."""
    add = device.program(code, "add")
    outs, ins = ([filled(device, number) for number in range(count)] for _ in range(2))
    with device.graph() as g:
        for n, (out, origin) in enumerate(zip(outs, ins, strict=True)):
            add(g.input(f"out{n}", out), g.input(f"in{n}", origin), g.input(f"k{n}", np.int32(1)), grid=1, block=N)
    return g


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_names_in_any_order(dev: hcq.Device, code: bytes, data: st.DataObject) -> None:
    """Buffers new and old, views, the same buffer for several inputs, and memory given back in between."""
    count = 4
    add = dev.program(code, "add")
    outs, ins = ([filled(dev, base + n) for n in range(count)] for base in (-9, 100))
    with dev.graph() as g:
        for n in range(count):
            add(g.input(f"out{n}", outs[n]), g.input(f"in{n}", ins[n]), g.input(f"k{n}", np.int32(n)), grid=1, block=N)
    pool = [*ins, *(filled(dev, 1000 * n) for n in range(1, 5)), *(dev.alloc(8 * N)[4 * N:] for _ in range(2))]
    for buffer in pool[-2:]:
        buffer.copyin(np.full(N, 77, np.int32))
    for _ in range(data.draw(st.integers(1, 5))):
        names = data.draw(st.lists(st.sampled_from(list(g.inputs)), unique=True))
        changed: dict[str, Any] = {}
        for name in names:
            if name.startswith("k"):
                changed[name] = data.draw(st.sampled_from([5, np.int32(7)]))
            else:
                changed[name] = data.draw(st.sampled_from([*pool, *outs]))
        if data.draw(st.booleans()):
            filled(dev, 0).free()                       # what was known of buffers is looked at anew
        model = {id(buffer): int(ints(buffer)[0]) for buffer in [*pool, *outs]}
        for n in range(count):
            out, origin = changed.get(f"out{n}", outs[n]), changed.get(f"in{n}", ins[n])
            model[id(out)] = model[id(origin)] + int(changed.get(f"k{n}", n))
        g.replay(**changed)
        for buffer in [*pool, *outs]:
            assert (ints(buffer) == model[id(buffer)]).all()


def test_a_buffer_that_was_freed_since_it_was_seen(dev: hcq.Device, code: bytes) -> None:
    g = record(dev, code)
    whole = dev.alloc(8 * N)
    part, other = whole[4 * N:], filled(dev, 5)
    for _ in range(2):
        g.replay(out0=part, out1=other, out2=filled(dev, 0))
    g.replay()
    whole.free()                                        # the view goes with it
    for _ in range(2):
        with pytest.raises(hcq.UseAfterFreeError):
            g.replay(out0=part, out1=other, out2=filled(dev, 0))
    again = filled(dev, 3)                              # in the same memory, perhaps
    g.replay(out0=again, out1=other, out2=filled(dev, 0))
    assert (ints(again) == 1).all()
    other.free()
    with pytest.raises(hcq.UseAfterFreeError):
        g.replay(out0=again, out1=other, out2=filled(dev, 0))


def test_what_a_pointer_does_not_take(dev: hcq.Device, code: bytes) -> None:
    g = record(dev, code)
    good = {name: filled(dev, 1) for name in ("out0", "out1", "out2")}
    g.replay(**good)
    with hcq.Device(FakeBackend(FUNCTIONS, name="FAKE:1")) as far:
        theirs = filled(far, 1)
        elsewhere = record(far, code)
        elsewhere.replay(out0=theirs)                   # seen there
        with pytest.raises(hcq.LaunchError, match="is a buffer of FAKE:1; the kernel runs on FAKE:0"):
            g.replay(**good | {"out1": theirs})
    for wrong in (np.zeros(N, np.int32), 5, "out"):
        with pytest.raises(hcq.ArgumentTypeError, match="takes a Buffer, not"):
            g.replay(**good | {"out1": wrong})
    with pytest.raises(hcq.GraphError, match="no input 'a', 'z' in the graph; it has: out0, in0"):
        g.replay(**good, z=1, a=2)
    with pytest.raises(hcq.ArgumentTypeError, match=r"input 'k0' is recorded as int32, which cannot hold 0\.5"):
        g.replay(**good, k0=0.5)
    g.replay(**good, k0=4)                              # and nothing of that is left behind
    assert (ints(good["out0"]) == 4).all() and (ints(good["out1"]) == 2).all()


def test_words_that_make_up_a_wider_value() -> None:
    table = Table()
    for entry in [(4, 1, 8, 0), (5, 1, 8, 32), (7, 2, 0, 0), (8, 2, 0, 32), (10, 3, 0, 0), (11, 3, 1, 32),
                  (12, 4, 0, 0)]:
        table.add(*entry)
    wide, rest = table.paired()
    assert (wide.index, wide.symbol, wide.addend) == ([2], [1], [8])
    assert rest.index == [7, 8, 10, 11, 12]             # not at a multiple of 8, not of one sum, without a half
    symbols = np.array([0, 0x1_0000_0001, 0x2_0000_0002, 0x3_ffff_ffff, 4], np.uint64)
    plain, split = (np.zeros(16, np.uint32) for _ in range(2))
    table.freeze(4), wide.freeze(8), rest.freeze(4)
    table.scatter(plain, symbols)
    wide.scatter(split.view(np.uint64), symbols)
    rest.scatter(split, symbols)
    assert plain.any() and np.array_equal(plain, split)
