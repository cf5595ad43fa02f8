"""Arrays of NumPy's own, reached by the engines where they are."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_boot import Fence, copy, words

import hcq
import mock
from amdrv.backend import AmBackend
from amdrv.device import Device
from amdrv.errors import GpuFault, MappingError
from amdrv.hal.mock import MockHal
from amdrv.wait import wait_until

Boot = Callable[[], Device]


@pytest.fixture(scope="module")
def card() -> Iterator[Device]:
    with mock.Machine([mock.Gpu(vram="128M")]) as machine, Device.open(MockHal(machine)) as device:
        yield device


def array_of(shape: tuple[int, ...], dtype: np.dtype, offset: int, steps: tuple[int, ...]) -> np.ndarray:
    """Any array: within larger memory, at any offset, with gaps and negative strides."""
    larger = tuple(n * abs(step) for n, step in zip(shape, steps, strict=True))
    nbytes = offset + int(np.prod(larger)) * dtype.itemsize + 64
    memory = np.random.default_rng(offset).integers(0, 256, nbytes, np.uint8)
    whole = np.ndarray(larger, dtype, memory.data, offset)
    return whole[tuple(slice(None, None, step) for step in steps)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
       dtype=st.sampled_from(["u1", "<i2", "<f4", "<f8", "<c16"]).map(np.dtype), offset=st.integers(0, 9000),
       data=st.data())
def test_any_array_is_where_the_card_sees_it(card: Device, shape: tuple[int, ...], dtype: np.dtype, offset: int,
                                             data: st.DataObject) -> None:
    steps = tuple(data.draw(st.sampled_from([1, 2, -1, -3])) for _ in shape)
    array = array_of(shape, dtype, offset, steps)
    before, fence = array.copy(), Fence(card)
    with card.register(array) as registered:
        assert registered.view.ctypes.data <= array.ctypes.data
        assert registered.nbytes == registered.view.nbytes >= array.nbytes
        back = card.alloc(registered.nbytes, kind="system")
        fence.sdma(card.sdma_rings[0], copy(back.address, registered.address, registered.nbytes))
        assert back.view is not None and (back.view == registered.view).all()
        back.view[:] ^= 0xFF
        fence.sdma(card.sdma_rings[1], copy(registered.address, back.address, registered.nbytes))
        inverted = np.ascontiguousarray(array).view(np.uint8)
        assert (inverted == ~np.ascontiguousarray(before).view(np.uint8)).all()
        card.free(back)
    card.free(fence.memory)
    registered.close()


def test_two_arrays_of_one_page_do_not_disturb_each_other(card: Device) -> None:
    memory = np.zeros(8192, np.uint8)
    first, second = memory[:100], memory[100:200]
    fence = Fence(card)
    with card.register(second) as two:
        with card.register(first) as one:
            second[:] = 7
            fence.sdma(card.sdma_rings[0], copy(one.address, two.address, 100))
            assert (first == 7).all()
        first[:] = 9
        second[:] = 8
        fence.sdma(card.sdma_rings[0], copy(two.address + 50, two.address, 50))
    assert (second == 8).all() and (first == 9).all()


def test_a_read_only_array_is_read_only_for_the_card(boot: Boot) -> None:
    device = boot()
    array = np.arange(1024, dtype=np.uint32)
    array.flags.writeable = False
    registered, fence = device.register(array, name="constants"), Fence(device)
    back = device.alloc(4096, kind="system")
    fence.sdma(device.sdma_rings[0], copy(back.address, registered.address, 4096))
    assert back.view is not None and (back.view.view(np.uint32) == array).all()
    device.sdma_rings[0].submit(words(copy(registered.address, back.address, 16)))

    def reported() -> bool:
        device.check()
        return False
    with pytest.raises(GpuFault, match=r"write by .*not writable.* inside constants buffer"):
        wait_until(reported, 5, "the fault")
    assert (array == np.arange(1024)).all()


def test_what_is_no_array_of_bytes(card: Device) -> None:
    for array, message in ((np.array([object()]), "holds this process's pointers"), (np.empty((3, 0)), r"\(3, 0\)")):
        with pytest.raises(MappingError, match=message):
            card.register(array)
    with pytest.raises(TypeError, match=r"a NumPy array can be registered, not a list; np.asarray makes one"):
        card.register([1, 2])       # type: ignore[arg-type]


def test_the_array_lives_as_long_as_the_card_reaches_it(card: Device) -> None:
    array = np.zeros(10_000, np.uint8)
    alive = weakref.ref(array)
    registered = card.register(array)
    allocation = registered.allocation
    del array, registered
    gc.collect()
    assert alive() is not None
    card.free(allocation)
    gc.collect()
    assert alive() is None


# -- through hcq -------------------------------------------------------------------------------------------------------


@pytest.fixture
def dev(boot: Boot) -> Iterator[hcq.Device]:
    with hcq.Device(AmBackend(boot())) as dev:
        yield dev


def test_a_registered_array_is_a_buffer(dev: hcq.Device) -> None:
    array = np.arange(50_000, dtype=np.float32)
    buffer, other = dev.register(array), dev.alloc(array.nbytes)
    assert buffer.nbytes == array.nbytes and buffer.host
    other.copy_from(buffer)
    assert (other.copyout(np.empty_like(array)) == np.arange(50_000)).all()
    other.copyin(array * 2)
    buffer.copy_from(other)
    dev.synchronize()
    assert (array == 2 * np.arange(50_000)).all()       # without a copy back
    buffer.free()
    with pytest.raises(hcq.UseAfterFreeError):
        buffer.copyout()


def test_letting_go_waits_for_the_engines(dev: hcq.Device) -> None:
    device = dev.backend.device     # type: ignore[attr-defined]
    before = device.require_memory().allocated["system"]
    for _ in range(3):
        array = np.full(1 << 20, 3, np.uint8)
        alive = weakref.ref(array)
        target = dev.alloc(1 << 20)
        target.copy_from(dev.register(array))           # the buffer is gone at once, the work is not
        del array
        assert (target.copyout() == 3).all()
    dev.alloc(4096)
    dev.trim()
    gc.collect()
    assert alive() is None
    assert device.require_memory().allocated["system"] - before < 1 << 20


def test_what_hcq_refuses(dev: hcq.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for array, message in ((np.array([None]), "plain bytes; this is object"), (np.empty(0), r"float64\[0\]")):
        with pytest.raises(hcq.BufferError, match=message):
            dev.register(array)
    with pytest.raises(hcq.BufferError, match="not a str"):
        dev.register("abc")         # type: ignore[arg-type]
    constant = np.zeros(16, np.uint8)
    constant.flags.writeable = False
    with pytest.raises(hcq.BufferError, match="registered array that is read-only"):
        dev.register(constant).copyin(np.ones(16, np.uint8))
    monkeypatch.delattr(AmBackend, "register")
    with pytest.raises(hcq.HcqError, match="the driver of AM:0 cannot register memory; copyin copies it"):
        dev.register(np.zeros(4))
