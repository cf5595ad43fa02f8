"""Profiles: every packet has its time, on the host's clock; the trace keeps the format's rules; counters count."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backend import FakeBackend
from trace_format import Malformed, check_trace
from two_cards import cards, compiled, notes

import hcq
from hcq.profile import Profile

ITEMS = 64 * 16


@pytest.fixture(scope="module")
def pair() -> Iterator[list[hcq.Device]]:
    with cards() as both:
        yield both


def test_every_packet_on_both_cards(pair: list[hcq.Device], tmp_path: Path) -> None:
    one, other = pair
    add = one.program(compiled(), "add")
    a, there = one.alloc(4 * ITEMS).fill(1), other.alloc(4 * ITEMS)
    with one.graph() as graph:
        add(a, a, np.uint32(1), grid=16, block=64)
        add(a, a, np.uint32(1), grid=16, block=64)
    graph.replay()
    before = time.perf_counter_ns()
    with one.profile(other) as profile:
        for _ in range(3):
            add(a, a, np.uint32(1), grid=16, block=64)
        graph.replay()
        hcq.ComputeQueue(one).memory_barrier().exec(add, (a, a, np.uint32(1)), 16, 64).submit()
        there.copy_from(a)
        result = there.copyout().view(np.uint32)
    after = time.perf_counter_ns()
    assert (result == 1 + 2 + 3 + 2 + 1).all()
    kernels = [span for span in profile.spans if span.what == "kernel"]
    assert [span.name for span in kernels] == ["add"] * 6 and {span.queue for span in kernels} == {"AM:0 compute 0"}
    copies = [span for span in profile.spans if span.what == "copy"]
    assert [(span.device, span.facts["bytes"]) for span in copies] == [("AM:0", 4 * ITEMS), ("AM:1", 4 * ITEMS)]
    slack = profile.uncertainty * 1e9 + 1
    for span in profile.spans:                      # the card's clock, on the host's time line
        assert before - slack <= span.submission.begin - slack <= span.begin <= span.end <= after + slack
    for queue in {span.queue for span in profile.spans}:
        mine = [span for span in profile.spans if span.queue == queue]
        assert all(first.end <= second.begin + 1 for first, second in pairwise(mine))
    check_trace(profile.trace(), profile.uncertainty * 1e6)
    arrows = {(event["pid"]) for event in profile.trace()["traceEvents"]
              if event["ph"] == "f" and event["cat"] == "signal"}
    assert arrows == {2, 3}                         # each card waited for the other
    profile.save(str(tmp_path / "trace.json"))
    assert json.loads((tmp_path / "trace.json").read_text()) == profile.trace()
    text = profile.summary()
    assert "kernel add" in text and "AM:1 copy 0" in text and "the clocks agree within" in text
    for device in pair:                             # what the profile adds is counted too, on both sides
        device.synchronize()
        device.backend.check()
        driver = device.backend.device              # type: ignore[attr-defined]
        for key in ("pm4_packets", "sdma_packets", "kernels", "copied_bytes"):
            assert driver.statistics[key] == driver.pci.board.counters[key], key
        assert not notes(device)


def test_a_queue_made_inside_is_seen_too() -> None:
    with cards(1) as (card,):
        with card.profile() as profile:
            add = card.program(compiled(), "add")
            buffer = card.alloc(4 * ITEMS).fill(5)
            card.synchronize()
            hcq.ComputeQueue(card, 1).memory_barrier().exec(add, (buffer, buffer, np.uint32(1)), 16, 64).submit()
            assert (buffer.copyout().view(np.uint32) == 6).all()
        queues = [span.queue for span in profile.spans if span.name == "add"]
        assert queues == [card._timelines["compute"][1].queue.name]
        check_trace(profile.trace(), profile.uncertainty * 1e6)


def test_long_graphs_are_opened_packet_by_packet(pair: list[hcq.Device]) -> None:
    """A graph that is submitted as an indirect buffer: its packets are seen all the same."""
    one, _ = pair
    add = one.program(compiled(), "add")
    a = one.alloc(4 * ITEMS).fill(0)
    b = one.alloc(4 * ITEMS).fill(0)
    with one.graph() as graph:
        for _ in range(40):
            add(a, a, np.uint32(1), grid=16, block=64)
        for _ in range(80):
            b.copy_from(a)
    graph.replay()
    with one.profile() as profile:
        graph.replay()
        graph.replay()
        assert (b.copyout().view(np.uint32) == 120).all()
    assert [sum(span.what == what for span in profile.spans) for what in ("kernel", "copy")] == [80, 161]
    check_trace(profile.trace(), profile.uncertainty * 1e6)


def test_counters_count_what_was_launched_inside(pair: list[hcq.Device]) -> None:
    one, _ = pair
    add = one.program(compiled(), "add")
    a = one.alloc(4 * ITEMS).fill(0)
    add(a, a, np.uint32(1), grid=16, block=64)
    with one.profile(counters=["SQ_WAVES", "SQ_ITEMS", "GRBM_COUNT", "SQ_INSTS_ALL"]) as profile:
        for _ in range(5):
            add(a, a, np.uint32(1), grid=16, block=64)
    add(a, a, np.uint32(1), grid=16, block=64)
    found = profile.counters["AM:0"]
    assert found["SQ_WAVES"] == 5 * 16 * 2 and found["SQ_ITEMS"] == 5 * ITEMS
    assert found["SQ_INSTS_ALL"] % found["SQ_WAVES"] == 0 and found["GRBM_COUNT"] > 0
    assert f"AM:0 SQ_WAVES {found['SQ_WAVES']:>31}"[-10:] in profile.summary()
    assert [event["args"]["value"] for event in profile.trace()["traceEvents"]
            if event["ph"] == "C" and event["name"] == "SQ_ITEMS"] == [0, 5 * ITEMS]
    check_trace(profile.trace(), profile.uncertainty * 1e6)
    assert not notes(one)
    with pytest.raises(hcq.HcqError, match=r"AM:0: no counter 'SQ_TEA'; there are GRBM_COUNT, .*SQ_INSTS_ALL"):
        one.profile(counters=["SQ_TEA"])
    with pytest.raises(hcq.HcqError, match="GRBM counts 2 events at a time; GRBM_CP_BUSY is one more"):
        one.profile(counters=["GRBM_COUNT", "GRBM_GUI_ACTIVE", "GRBM_CP_BUSY"])


def test_counters_of_the_caches_and_copy_engines(pair: list[hcq.Device]) -> None:
    """Lines that a copy asks for, of every channel of GL2 together; packets and lines of one engine and the other."""
    one, _ = pair
    nbytes = 1 << 18
    source, target = one.alloc(nbytes).fill(1), one.alloc(nbytes)
    lines, words = nbytes // 128, nbytes // 64
    found: dict[str, int] = {}
    for names in (["GL2C_REQ", "GL2C_READ", "GL2C_WRITE", "GL2C_HIT"],
                  ["GL2C_MISS", "GL2C_UC_REQ", "GL2C_MC_RDREQ", "GL2C_MC_WRREQ"],
                  ["GL2C_WRITEBACK", "GL2C_CYCLE", "CPC_ALWAYS_COUNT", "GRBM_SPI_BUSY"],
                  ["SDMA0_MC_RD_COUNT", "SDMA0_MC_WR_COUNT", "SDMA1_MC_RD_COUNT", "SDMA1_NUM_PACKET"],
                  ["SDMA0_NUM_PACKET", "SDMA0_DOORBELL", "SDMA1_DOORBELL", "SDMA1_INT_REQ_COUNT"]):
        one.synchronize()
        with one.profile(counters=names) as profile:
            hcq.CopyQueue(one, 0).copy(target, source).submit()
            hcq.CopyQueue(one, 1).fill(target[:64], 7).submit()
        assert list(profile.counters["AM:0"]) == names
        found |= profile.counters["AM:0"]
    assert found["GL2C_READ"] >= lines and found["GL2C_WRITE"] >= lines
    assert abs(found["GL2C_READ"] + found["GL2C_WRITE"] - found["GL2C_REQ"]) == 0
    # the same work was done twice: what was asked for was there, was not, or is kept out of GL2
    asked = found["GL2C_HIT"] + found["GL2C_MISS"] + found["GL2C_UC_REQ"]
    assert 0.9 * found["GL2C_REQ"] <= asked <= 1.1 * found["GL2C_REQ"]
    assert found["GL2C_MC_RDREQ"] + found["GL2C_HIT"] >= lines and found["GL2C_CYCLE"] == found["CPC_ALWAYS_COUNT"] > 0
    assert found["SDMA0_MC_RD_COUNT"] >= words and found["SDMA0_MC_WR_COUNT"] >= words > found["SDMA1_MC_RD_COUNT"]
    assert found["SDMA0_NUM_PACKET"] >= 2 and found["SDMA1_NUM_PACKET"] >= 2
    assert found["SDMA0_DOORBELL"] == 2 == found["SDMA1_DOORBELL"]      # ours, and the end of the profile's
    assert "AM:0 SDMA1_DOORBELL" in profile.summary() and not notes(one)
    with pytest.raises(hcq.HcqError, match="GL2C counts 4 events at a time; GL2C_MISS is one more"):
        one.profile(counters=["GL2C_REQ", "GL2C_READ", "GL2C_WRITE", "GL2C_HIT", "GL2C_MISS"])


def test_the_events_of_the_counters_are_the_ones_of_the_card() -> None:
    """What the driver selects and what the card counts were written apart, from one header."""
    from amdrv.counters import COUNTERS, SLOTS
    from mock.perfcounters import COUNTERS as BUILT
    from mock.perfcounters import EVENTS
    assert SLOTS == BUILT
    for name, (block, number) in COUNTERS.items():
        assert number in EVENTS[block[:4]], name
    assert {(block[:4], number) for block, number in COUNTERS.values()} == {
        (block, number) for block, events in EVENTS.items() for number in events}       # and nothing is left out


def break_(trace: dict[str, Any], how: str) -> None:
    """One fault, of the kind that a viewer stumbles over."""
    events = trace["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    flow = next(event for event in events if event["ph"] == "f")
    if how == "overlap":
        row = [each for each in slices if (each["pid"], each["tid"]) == (slices[0]["pid"], slices[0]["tid"])]
        row.sort(key=lambda each: each["ts"])
        row[0]["dur"] = row[1]["ts"] - row[0]["ts"] + row[1]["dur"] / 2
    elif how == "no duration":
        del slices[0]["dur"]
    elif how == "negative":
        slices[0]["dur"] = -1.0
    elif how == "text for time":
        slices[0]["ts"] = "12.5"
    elif how == "not a number":
        slices[0]["ts"] = float("inf")
    elif how == "no name":
        events.remove(next(event for event in events if event["name"] == "thread_name"))
    elif how == "two names":
        events.append(next(event for event in events if event["name"] == "thread_name"))
    elif how == "half a flow":
        events.remove(flow)
    elif how == "backwards":
        flow["ts"] = -1e9
    elif how == "beside the slices":
        flow["ts"] += 1e9
    elif how == "two ends":
        events.append(flow)
    elif how == "unknown phase":
        slices[0]["ph"] = "Q"
    elif how == "unknown field":
        slices[0]["duration"] = 1
    elif how == "counter of text":
        next(event for event in events if event["ph"] == "C")["args"]["value"] = "many"
    elif how == "counter back in time":
        events.append({**next(event for event in events if event["ph"] == "C"), "ts": -5.0})


def test_the_reader_of_traces_is_strict(pair: list[hcq.Device]) -> None:
    one, _ = pair
    add = one.program(compiled(), "add")
    a = one.alloc(4 * ITEMS).fill(0)
    with one.profile(counters=["SQ_WAVES"]) as profile:
        for _ in range(3):
            add(a, a, np.uint32(1), grid=16, block=64)
        a.copyout()
    limit = profile.uncertainty * 1e6
    check_trace(profile.trace(), limit)
    for how in ("overlap", "no duration", "negative", "text for time", "not a number", "no name", "two names",
                "half a flow", "backwards", "beside the slices", "two ends", "unknown phase", "unknown field",
                "counter of text", "counter back in time"):
        broken = json.loads(json.dumps(profile.trace()))
        break_(broken, how)
        with pytest.raises((Malformed, ValueError)):
            check_trace(broken, limit)
            pytest.fail(f"nothing was found: {how}")


# ---- any backend


def test_a_backend_that_only_has_timestamps(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    program = dev.program(code, "add")
    out, a = dev.alloc(4096), dev.alloc(4096).copyin(np.zeros(1024, np.int32))
    dev.synchronize()
    with dev.profile() as profile:
        backend.delay = 2e-3
        program(out, a, 5, grid=4, block=256)
        assert (out.copyout().view(np.int32) == 5).all()
        backend.delay = 0
    kernel, *_ = (span for span in profile.spans if span.queue == "FAKE:0 compute 0")
    copy, *_ = (span for span in profile.spans if span.queue == "FAKE:0 copy 0")
    assert kernel.what == copy.what == "work"
    assert kernel.seconds >= 4e-3               # its commands slept for longer
    assert kernel.end <= copy.end
    check_trace(profile.trace(), profile.uncertainty * 1e6)
    assert "work" in profile.summary()


def test_nothing_is_left_behind(dev: hcq.Device, backend: FakeBackend) -> None:
    queues = [timeline.queue for timeline in dev._all]
    with pytest.raises(KeyError), dev.profile() as profile:
        dev.alloc(4096).fill(1)
        raise KeyError("the user's own")
    assert [timeline.queue for timeline in dev._all] == queues
    with pytest.raises(hcq.HcqError, match="a profile is taken once"):
        profile.__enter__()
    with dev.profile():
        with pytest.raises(hcq.HcqError, match="FAKE:0 is being profiled already; profiles do not nest"):
            dev.profile().__enter__()
    assert [timeline.queue for timeline in dev._all] == queues
    with dev.profile(yields=True) as polite:
        dev.alloc(4096).fill(1)
        with dev.profile() as inner:
            assert polite.done and polite.recorded
            dev.alloc(4096).fill(2)
    assert polite.spans and inner.spans and polite.spans[-1].begin <= inner.spans[0].begin
    assert [timeline.queue for timeline in dev._all] == queues
    with pytest.raises(hcq.HcqError, match="the driver of FAKE:0 has no hardware counters"):
        dev.profile(counters=["SQ_WAVES"])


def test_the_summary_is_printed_meanwhile(dev: hcq.Device) -> None:
    out = io.StringIO()
    buffer = dev.alloc(4096)
    with Profile([dev], live=0.01, file=out):
        deadline = time.monotonic() + 20
        while "copy 0" not in out.getvalue() and time.monotonic() < deadline:
            buffer.fill(1)
            time.sleep(0.005)
    assert "work" in out.getvalue() and "FAKE:0 copy 0" in out.getvalue()
