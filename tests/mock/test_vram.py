"""Video memory and the HDP flush: what is seen by whom, and when."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mock.vram as vram_module
from mock.vram import PAGE, POISON, Vram, parse_size

SIZE = 8 << 20


def test_untouched_memory_is_poison_on_both_sides() -> None:
    vram = Vram(SIZE)
    words = vram.view.view(np.uint32)
    assert (words & 1).all() and ((words & np.uint32(0xFFFF0000)) == POISON & 0xFFFF0000).all()
    assert np.isnan(vram.view.view(np.float32)).all() and np.isnan(vram.view.view(np.float16)[1::2]).all()
    assert bytes(vram.window(0x1000, 64)) == vram.view[0x1000:0x1040].tobytes()
    assert vram.cpu_read(0x2000, 4) == int(words[0x800])


def test_stores_through_the_bar_reach_memory_at_the_flush_only() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0x5000, 0x2000), np.uint8)
    before = vram.view[0x5000:0x7000].copy()
    window[0x10:0x20] = 7
    vram.cpu_write(0x9000, 4, 0x12345678)
    assert (vram.view[0x5000:0x7000] == before).all() and vram.cpu_read(0x9000, 4) == 0x12345678
    assert vram.view[0x9000:0x9004].view(np.uint32)[0] != 0x12345678
    assert vram.flush() == 2
    assert (vram.view[0x5010:0x5020] == 7).all() and (vram.view[0x5020:0x7000] == before[0x20:]).all()
    assert vram.view[0x9000:0x9004].view(np.uint32)[0] == 0x12345678
    assert vram.flush() == 0


def test_an_engine_and_the_cpu_share_a_page() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0, PAGE), np.uint32)
    window[0] = 1                               # posted
    vram.view.view(np.uint32)[1] = 2            # an engine's store, with exact knowledge
    vram.written(4, 4)
    assert window[1] == 2
    vram.view.view(np.uint32)[2] = 3            # a shader's store, page granular
    vram.publish(np.array([0]))
    assert window[2] == 3 and window[0] == 1
    vram.flush()
    assert list(vram.view.view(np.uint32)[:3]) == [1, 2, 3]


def test_publish_everywhere_needs_no_page_list() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0, SIZE), np.uint8)
    vram.view[0x123456:0x123460] = 9
    assert not (window[0x123456:0x123460] == 9).any()
    vram.publish()
    assert (window[0x123456:0x123460] == 9).all()
    assert vram.flush() == 0


def test_a_window_that_went_is_flushed_once_more_and_a_new_one_is_fresh() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0x4000, 64), np.uint8)
    window[:] = 5
    del window
    gc.collect()
    vram.flush()
    assert (vram.view[0x4000:0x4040] == 5).all()
    vram.view[0x4000:0x4040] = 6                # nobody looks: nothing needs publishing
    again = np.frombuffer(vram.window(0x4000, 64), np.uint8)
    assert (again == 6).all()
    assert vram.flush() == 0 and (vram.view[0x4000:0x4040] == 6).all()


def test_flush_tells_what_changed() -> None:
    vram = Vram(SIZE)
    seen: list[list[int]] = []
    vram.on_flush.append(lambda pages: seen.append(pages.tolist()))
    window = np.frombuffer(vram.window(0x10000, 0x200000), np.uint8)
    vram.cpu_write(0x3008, 8, 0xABCD)
    window[0x1234] = window[0x123456] = 0
    vram.flush()
    vram.flush()
    assert seen == [[3, 0x11, 0x133]]


def test_a_reset_loses_posted_stores() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0, PAGE), np.uint8)
    window[0] = 2
    vram.drop_posted()
    assert vram.flush() == 0 and window[0] == vram.view[0] != 2


def test_lost_memory_is_poison_for_all_and_windows_go_on() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0, 64 * PAGE), np.uint8)
    window[:] = 2
    vram.flush()
    window[0] = 4
    vram.lose()
    assert window[0] == vram.view[0] == 1 and vram.flush() == 0
    window[5000] = 9
    assert vram.flush() == 1 and vram.view[5000] == 9


def test_switched_off_the_cpu_stores_to_memory() -> None:
    vram = Vram(SIZE, strict=False, poison=False)
    np.frombuffer(vram.window(0, 4), np.uint32)[0] = 4
    vram.cpu_write(8, 4, 5)
    assert list(vram.view.view(np.uint32)[:3]) == [4, 0, 5]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([0, vram_module.FEW]))
def test_any_order_of_accesses_ends_as_a_model_says(data: st.DataObject, few: int) -> None:
    """Disjoint bytes of one CPU and one engine, flushed and published at random, through windows that come and go;
    both sides end equal. The pages stored to are found by comparing, or (``few`` is 0) by asking."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vram_module, "FEW", few)
        patch.setattr(vram_module, "KEEP_GONE", 1)
        _any_order(data)


def _any_order(data: st.DataObject) -> None:
    vram = Vram(16 * PAGE)
    window = np.frombuffer(vram.window(2 * PAGE, 6 * PAGE), np.uint8)
    model = vram.view.copy()
    for _ in range(data.draw(st.integers(1, 12))):
        at, size, value = (data.draw(st.integers(2 * PAGE, 8 * PAGE - 64)), data.draw(st.integers(1, 64)),
                           data.draw(st.integers(0, 255)))
        kind = data.draw(st.sampled_from(["window", "single", "engine", "exact", "flush", "reopen"]))
        even = np.arange(at, at + size)
        if kind == "window":
            even = even[even % 2 == 0]
            window[even - 2 * PAGE], model[even] = value, value
        elif kind == "single":
            vram.cpu_write(at & ~1, 1, value)
            model[at & ~1] = value
        elif kind in ("engine", "exact"):
            odd = even[even % 2 == 1]
            vram.view[odd], model[odd] = value, value
            if kind == "exact":
                for byte in odd:
                    vram.written(int(byte), 1)
            else:
                vram.publish(np.unique(odd // PAGE))
        elif kind == "reopen":
            del window
            window = np.frombuffer(vram.window(2 * PAGE, 6 * PAGE), np.uint8)
        else:
            vram.flush()
    vram.flush()
    vram.publish()
    assert (vram.view == model).all()
    assert (window == model[2 * PAGE:8 * PAGE]).all()


@pytest.mark.parametrize("text, value", [("1G", 1 << 30), ("256m", 256 << 20), ("64K", 65536), ("4096", 4096), (7, 7)])
def test_sizes(text: str | int, value: int) -> None:
    assert parse_size(text) == value


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"size '1Q' must be a number of bytes, or of K, M, G or T"):
        parse_size("1Q")
    with pytest.raises(ValueError, match=r"vram of 5000 bytes: must be a positive multiple of 4096"):
        Vram(5000)
    with pytest.raises(ValueError, match=r"window of 0x2000 bytes at 0x7ff000: video memory ends at 0x800000"):
        Vram(SIZE).window(SIZE - PAGE, 2 * PAGE)


def test_a_card_that_left_reads_as_ones_through_its_windows() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0, 2 * PAGE), np.uint8)
    window[:4] = 7
    vram.flush()
    vram.vanish()
    assert (window == 0xFF).all()
    window[:] = 1
    vram.view[100] = 9
    vram.written(100, 1)
    vram.publish()
    assert vram.flush() == 0 and window[100] == 1
    vram.return_()
    assert (window[:4] == 7).all() and window[100] == 9 and vram.flush() == 0 and (vram.view[:4] == 7).all()


def test_tracking_that_fails_is_replaced_by_comparing() -> None:
    vram = Vram(SIZE)
    window = np.frombuffer(vram.window(0, 64 * PAGE), np.uint8)
    if vram._tracker is None:
        pytest.skip("this system does not tell")
    window[0] = 7
    vram._tracker.written = lambda *_, **__: (_ for _ in ()).throw(OSError("no"))      # type: ignore[method-assign]
    assert vram.flush() == 1 and vram.view[0] == 7
    window[5000] = 9
    assert vram.flush() == 1 and vram.view[5000] == 9
