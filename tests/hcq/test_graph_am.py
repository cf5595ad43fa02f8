"""Graphs on software cards: dependencies, engines, changes in place, several devices, against a model in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from two_cards import cards, compiled, notes

import hcq

N = 4096                    # int32 a buffer
GRID, BLOCK = N // 64, 64
LONG = 12                   # kernels of a branch that is worth a queue, with what follows it


@pytest.fixture(scope="module")
def pair() -> Iterator[list[hcq.Device]]:
    with cards(2) as devices:
        yield devices


@pytest.fixture(scope="module")
def add(pair: list[hcq.Device]) -> dict[hcq.Device, hcq.Program]:
    return {device: device.program(compiled(), "add") for device in pair}


def ints(buffer: hcq.Buffer) -> np.ndarray:
    return buffer.copyout(np.empty(buffer.nbytes // 4, np.int32))


def filled(device: hcq.Device, start: int) -> hcq.Buffer:
    return device.alloc(4 * N).copyin(np.arange(start, start + N, dtype=np.int32))


def test_a_pipeline_over_two_cards(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    one, other = pair
    a, b, c, d = filled(one, 0), one.alloc(4 * N), other.alloc(4 * N), other.alloc(4 * N)
    back = one.alloc(4 * N)
    with one.graph() as g:
        k = g.input("k", np.int32(1))
        add[one](b, a, k, grid=GRID, block=BLOCK)
        c.copy_from(b)                                      # to the other card
        add[other](d, c, np.int32(100), grid=GRID, block=BLOCK)
        back.copy_from(d)                                   # and here again
        add[one](a, back, np.int32(1000), grid=GRID, block=BLOCK)
    expected = np.arange(N, dtype=np.int32)
    for step in range(1, 8):
        g.replay(k=np.int32(step))
        expected = expected + np.int32(step + 1100)
    assert np.array_equal(ints(a), expected)
    assert np.array_equal(ints(d), expected - 1000)
    engines = {step.lane.name for step in g.schedule.steps if step.what == "copy"}
    assert any("AM:0 copy" in name for name in engines) and any("AM:1 copy" in name for name in engines)
    other.synchronize()
    assert not notes(one) and not notes(other)


@pytest.mark.parametrize(("options", "seed"), [({}, 7), ({"queues": 1}, 8), ({"kind": "aql"}, 9)])
def test_random_graphs_do_what_a_model_does(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program],
                                            options: dict[str, Any], seed: int) -> None:
    """Commands at random over buffers of both cards, replayed with other constants and sizes in between."""
    random = np.random.default_rng(seed)
    for _ in range(6):
        buffers = [filled(device, 1000 * n) for n, device in enumerate(pair * 3)]
        model = [ints(buffer).copy() for buffer in buffers]
        commands: list[tuple[str, int, int, int]] = []
        with pair[int(random.integers(2))].graph(**options) as g:
            k, groups = g.input("k", np.int32(3)), g.input("groups", GRID)
            for _ in range(int(random.integers(3, 26))):
                to, origin = (int(i) for i in random.choice(len(buffers), 2, replace=False))
                kind = str(random.choice(["kernel", "copy", "fill", "part"]))
                device = buffers[to].device
                if kind == "kernel":
                    origin = (to + 2 * int(random.integers(3))) % len(buffers)      # of the same card, or itself
                    add[device](buffers[to], buffers[origin], k, grid=(groups,), block=BLOCK)
                elif kind == "copy":
                    buffers[to].copy_from(buffers[origin])
                elif kind == "part":
                    buffers[to][1024:9216].copy_from(buffers[origin][2048:10240])
                else:
                    buffers[to][4:260].fill(77)
                commands.append((kind, to, origin, 0))
        for round_ in range(4):
            amount, size = np.int32(round_ * 11), [GRID, 3, 1, GRID][round_]
            g.replay(k=amount, groups=size)
            for kind, to, origin, _ in commands:
                if kind == "kernel":
                    model[to][:64 * size] = model[origin][:64 * size] + amount
                elif kind == "copy":
                    model[to][:] = model[origin]
                elif kind == "part":
                    model[to][256:2304] = model[origin][512:2560].copy()
                else:
                    model[to][1:65] = 77
        for number, (buffer, wanted) in enumerate(zip(buffers, model, strict=True)):
            assert np.array_equal(ints(buffer), wanted), (number, commands, str(g.schedule))
    assert not notes(pair[0]) and not notes(pair[1])


def lanes(graph: hcq.Graph) -> list[tuple[str, int]]:
    """Names of the compute queues, and how many steps each has."""
    return [(lane.name, len(lane.steps)) for lane in graph.schedule.lanes if lane.kind != "copy"]


@pytest.mark.parametrize("kind", ["compute", "aql"])
def test_branches_go_on_several_queues(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program], kind: Any) -> None:
    one = pair[0]
    branches = [filled(one, 100 * n) for n in range(3)]
    sums = [one.alloc(4 * N) for _ in range(3)]
    expected = [ints(branch) for branch in branches]
    with one.graph(kind=kind) as g:
        k, x = g.input("k", np.int32(1)), g.input("x", branches[0])
        for number, branch in enumerate(branches):          # one branch behind the other
            for _ in range(LONG):
                here = x if number == 0 else branch
                add[one](here, here, k, grid=GRID, block=BLOCK)
        for number, total in enumerate(sums):               # each of these comes after two branches
            add[one](total, branches[number], np.int32(5), grid=GRID, block=BLOCK)
            add[one](branches[number], branches[(number + 1) % 3], np.int32(0), grid=GRID, block=BLOCK)
    used = lanes(g)
    counts = [steps for _, steps in used]
    assert len(used) == 3 and sum(counts) == 3 * LONG + 6 and min(counts) >= LONG
    assert all(f"AM:0 {kind} " in name for name, _ in used)
    across = [step for step in g.schedule.steps if any(other.lane is not step.lane for other in step.waits)]
    assert across and all(step.barrier for step in across)  # what other queues stored is not in the caches
    for amount in (1, 7, 2):
        g.replay(k=np.int32(amount))
        for number in range(3):
            expected[number] = expected[number] + np.int32(LONG * amount)
        totals = []
        for number in range(3):
            totals.append(expected[number] + 5)
            expected[number] = expected[(number + 1) % 3].copy()
    for total, wanted in zip(sums, totals, strict=True):
        assert np.array_equal(ints(total), wanted)
    for branch, wanted in zip(branches, expected, strict=True):
        assert np.array_equal(ints(branch), wanted)
    other = filled(one, 9000)
    g.replay(x=other)                                       # this branch runs on another buffer
    assert np.array_equal(ints(other), np.arange(9000, 9000 + N) + LONG) and not notes(one)


@pytest.mark.parametrize("kind", ["compute", "aql"])
def test_a_replay_rings_each_doorbell_once(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program], kind: Any,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pair
    branches, far = [filled(one, n) for n in range(2)], other.alloc(4 * N)
    with one.graph(kind=kind) as g:
        for branch in branches:
            for _ in range(40):
                add[one](branch, branch, g.input(f"k{len(g.nodes)}", np.int32(1)), grid=2, block=BLOCK)
        far.copy_from(branches[0])
    rung: list[str] = []

    def counted(ring: Any) -> None:
        store = ring._ring_doorbell
        monkeypatch.setattr(ring, "_ring_doorbell", lambda *where: rung.append(ring.name) or store(*where))  # type: ignore[func-returns-value]
    for device in pair:
        driver = device.backend.device                      # type: ignore[attr-defined]
        for ring in (*driver.compute_rings, *driver.sdma_rings):
            counted(ring)
    for amount in (1, 5):
        for device in pair:
            device.synchronize()
        rung.clear()
        g.replay(**{name: amount for name in list(g.inputs)[::3]})
        used = [lane.timeline.queue.ring.name for lane in g.schedule.lanes]     # type: ignore[attr-defined]
        assert sorted(rung) == sorted(used) and len(used) == 4
    assert ints(far)[0] == ints(branches[0])[0] == 2 * 40 + 4 * len(list(g.inputs)[:40:3])


def test_one_queue_where_others_gain_nothing(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    one = pair[0]
    a, b, *many = (filled(one, n) for n in range(12))

    def recorded(pattern: list[tuple[hcq.Buffer, hcq.Buffer]], **options: Any) -> int:
        with one.graph(**options) as g:
            for to, origin in pattern:
                add[one](to, origin, np.int32(1), grid=GRID, block=BLOCK)
        return len(lanes(g))
    chain = [(a, a)] * 12
    assert recorded(chain) == 1
    assert recorded([(each, each) for each in many]) == 1           # they run together as it is
    assert recorded([(a, a), (b, b)] * 6) == 1                      # so do these, two by two
    assert recorded([(a, a)] * 2 + [(b, b)] * 2) == 1               # too short
    branches = [(each, each) for each in many[:8] for _ in range(8)]
    assert recorded(branches) == 4 and recorded(branches, queues=2) == 2 and recorded(branches, queues=1) == 1
    assert recorded(branches, queues=20) <= 8                       # as many as the card has
    for message, options in [("at least 1, not 0", {"queues": 0}), ("at least 1, not 1.5", {"queues": 1.5}),
                             ("not 'copy'", {"kind": "copy"})]:
        with pytest.raises(hcq.GraphError, match=message):
            one.graph(**options)


def test_queues_that_there_is_no_scratch_for() -> None:
    """The second queue's scratch does not fit: the first one does all of it."""
    from test_aql import KERNELS
    with cards(1, "256M") as (card,):
        scratch, add = card.program(compiled(KERNELS), "scratch"), card.program(compiled(), "add")
        index = np.arange(N, dtype=np.int32) % 200
        branches = [card.alloc(4 * N).copyin(index) for _ in range(3)]
        keep = card.alloc(64 << 20)
        with card.graph() as g:
            for branch in branches:
                scratch(branch, np.int32(2), grid=GRID, block=BLOCK)
                for _ in range(6):
                    add(branch, branch, np.int32(1), grid=GRID, block=BLOCK)
        assert [name for name, _ in lanes(g)] == ["AM:0 compute 0"]
        g.replay()
        for branch in branches:
            assert np.array_equal(ints(branch), 2 * index + np.arange(N) + 6)
        del keep


def test_graphs_leave_the_numbers_of_queues_alone() -> None:
    with cards(1, "256M") as (card,):
        add = card.program(compiled(), "add")
        buffers = [card.alloc(4 * N).copyin(np.zeros(N, np.int32)) for _ in range(4)]

        def record(kind: Any, most: int | None = None) -> hcq.Graph:
            with card.graph(kind=kind, queues=most) as g:
                for buffer in buffers:
                    for _ in range(8):
                        add(buffer, buffer, np.int32(1), grid=1, block=BLOCK)
            return g
        assert len(lanes(record("compute"))) == 4
        urgent = hcq.ComputeQueue(card, 1, priority="high")     # the first that is asked for by its number
        assert urgent.timeline.priority == "high"
        assert urgent.timeline.queue.name not in dict(lanes(record("compute")))
        aql = record("aql", 2)
        assert len(lanes(aql)) == 2
        mine = hcq.AqlQueue(card, priority="high")              # the last of eight
        with pytest.raises(hcq.QueueError, match="there are no more"):
            hcq.ComputeQueue(card, 2)
        assert len(lanes(record("aql", 4))) == 2 and mine.timeline.queue.name not in dict(lanes(record("aql", 4)))
        for graph in (record("compute"), aql):
            graph.replay()
        with card.profile() as profile:
            record("compute").replay()
            mine.signal(card.signal(), 1).submit()
        assert len({span.queue for span in profile.spans if span.what == "kernel"}) == 4
        assert (ints(buffers[0])[:BLOCK] == 24).all() and not notes(card)


def test_an_array_that_was_let_go_of_since_it_was_seen(pair: list[hcq.Device],
                                                       add: dict[hcq.Device, hcq.Program]) -> None:
    one = pair[0]
    a, b, array = filled(one, 0), filled(one, 0), np.full(N, 7, np.int32)
    with one.graph() as g:
        add[one](a, g.input("x", b), np.int32(1), grid=GRID, block=BLOCK)
    mine = one.register(array)
    for _ in range(2):
        g.replay(x=mine)
    assert (ints(a) == 8).all()
    mine.free()
    with pytest.raises(hcq.UseAfterFreeError):
        g.replay(x=mine)
    g.replay()
    assert np.array_equal(ints(a), np.arange(1, N + 1))


def test_an_aql_graph_longer_than_its_ring(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    one = pair[1]
    a = filled(one, 0)
    with pytest.raises(hcq.GraphError, match=r"packets for AM:1 aql 0 are \d+ words; a submission to it has at most"), \
            one.graph(kind="aql") as g:
        for _ in range(2200):
            add[one](a, a, np.int32(1), grid=1, block=BLOCK)
    with pytest.raises(hcq.GraphError, match="cannot be replayed"):
        g.replay()


def test_a_profile_of_several_queues(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    one = pair[0]
    branches = [filled(one, n) for n in range(2)]
    for kind in ("compute", "aql"):
        with one.graph(kind=kind) as g:
            for branch in branches:
                for _ in range(8):
                    add[one](branch, branch, np.int32(1), grid=GRID, block=BLOCK)
        with one.profile() as profile:
            g.replay()
        kernels = [span for span in profile.spans if span.what == "kernel"]
        assert [span.name for span in kernels] == ["add"] * 16
        assert {span.queue for span in kernels} == {name for name, _ in lanes(g)} and len(lanes(g)) == 2


def test_many_kernels_go_by_an_indirect_buffer(
        pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    one = pair[0]
    a, b = filled(one, 0), filled(one, 0)
    with one.graph() as g:
        ks = [g.input(f"k{n}", np.int32(1)) for n in range(20)]
        for k in ks:
            for _ in range(10):
                add[one](a, a, k, grid=2, block=BLOCK)
    one.synchronize()
    before = one.backend.device.statistics.copy()           # type: ignore[attr-defined]
    g.replay()
    g.replay(k7=np.int32(5), k19=np.int32(-3))
    wanted = np.arange(N, dtype=np.int32)
    wanted[:128] += 200 + 200 + 10 * 4 - 10 * 4
    assert np.array_equal(ints(a), wanted)
    one.backend.check()
    statistics, counters = one.backend.device.statistics, one.backend.device.pci.board.counters   # type: ignore
    assert statistics["kernels"] - before["kernels"] == 400
    assert statistics["pm4_packets"] == counters["pm4_packets"] and statistics["kernels"] == counters["kernels"]
    assert "DISPATCH_DIRECT" in g.dump()
    assert np.array_equal(ints(b), np.arange(N))


def test_independent_kernels_have_no_barrier_and_copies_take_both_engines(
        pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    one = pair[0]
    a, b, c, d, e, f = (filled(one, 0) for _ in range(6))
    with one.graph() as g:
        add[one](b, a, np.int32(1), grid=GRID, block=BLOCK)
        add[one](d, c, np.int32(1), grid=GRID, block=BLOCK)
        e.copy_from(b)
        f.copy_from(d)
        add[one](b, b, np.int32(1), grid=GRID, block=BLOCK)
    first, second, *copies, last = g.schedule.steps
    assert first.barrier and not second.barrier             # nothing in common
    assert {step.lane.name for step in copies} == {"AM:0 copy 0", "AM:0 copy 1"}
    assert [step.what for step in copies] == ["copy", "copy"] and all(step.waits for step in copies)
    assert last.after[0] is first and copies[0] in last.waits       # the copy has read before it writes again
    text = str(g.schedule)
    assert "AM:0 compute 0 1: add; barrier; signals" in text and "waits for AM:0 compute 0 1" in text
    for _ in range(3):
        g.replay()
    assert np.array_equal(ints(f), np.arange(N) + 1)


def test_pictures(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program], tmp_path) -> None:  # type: ignore
    import xml.etree.ElementTree as ET
    one, other = pair
    a, b, c = filled(one, 0), one.alloc(4 * N), other.alloc(4 * N)
    with one.graph() as g:
        add[one](b, a, np.int32(1), grid=GRID, block=BLOCK)
        c.copy_from(b)
    dot = g.dot()
    assert dot.startswith("digraph") and '"AM:0 compute 0"' in dot and dot.count("->") >= 3 and "add" in dot
    root = ET.fromstring(g.svg())
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert "AM:1 compute 0" in texts and "add" in texts and "arrival" in texts
    g.save(tmp_path / "g.svg")
    g.save(tmp_path / "g.dot")
    assert (tmp_path / "g.dot").read_text() == dot and "<svg" in (tmp_path / "g.svg").read_text()
    with pytest.raises(hcq.GraphError, match=r"saved as .dot, .gv or .svg, not as 'g.png'"):
        g.save("g.png")
    assert [node.name for node in g.nodes] == ["add", "copy 16384 bytes"]
    assert [len(g.nodes[0].reads), len(g.nodes[0].writes)] == [0, 2]    # the IR says nothing, so both are written


def test_other_buffers_that_overlap(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    """A replay whose buffers depend on each other where the recording's did not."""
    one = pair[0]
    a, b, c, d = (filled(one, 0) for _ in range(4))
    with one.graph() as g:
        x = g.input("x", a)
        add[one](b, b, np.int32(1), grid=GRID, block=BLOCK)
        g.copy(d, x)                                        # independent of the kernel as recorded
        add[one](c, x, np.int32(5), grid=GRID, block=BLOCK)
    for _ in range(3):
        g.replay(x=b)                                       # now it is not
        g.replay()
    assert np.array_equal(ints(b), np.arange(N) + 6)
    g.replay(x=b)
    assert np.array_equal(ints(d), np.arange(N) + 7) and np.array_equal(ints(c), np.arange(N) + 12)
    e, f = filled(one, 100), filled(one, 200)
    with one.graph() as g2:
        x, y = g2.input("x", a), g2.input("y", e)
        add[one](x, x, np.int32(1), grid=GRID, block=BLOCK)
        g2.copy(f, y)
    g2.replay(x=d, y=d)
    assert np.array_equal(ints(f), np.arange(N) + 8)


def test_a_replay_takes_python_numbers(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    """They become what the recorded NumPy scalar is, though the code object does not name the type."""
    one = pair[0]
    a, b = filled(one, 0), one.alloc(4 * N)
    with one.graph() as g:
        add[one](b, g.input("x", a), g.input("n", np.int32(1)), grid=GRID, block=BLOCK)
    g.replay(x=a, n=17)
    assert np.array_equal(ints(b), np.arange(N) + 17)
    g.replay(n=-3)
    assert np.array_equal(ints(b), np.arange(N) - 3)
    g.replay(n=5.0)
    assert np.array_equal(ints(b), np.arange(N) + 5)
    for wrong in (1.5, 1 << 31, -(1 << 40), float("nan"), float("inf")):
        with pytest.raises(hcq.ArgumentTypeError, match=r"input 'n' is recorded as int32, which cannot hold "):
            g.replay(n=wrong)
    g.replay()
    assert np.array_equal(ints(b), np.arange(N) + 1)


def test_what_a_replay_refuses(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    one, other = pair
    a, b, c = filled(one, 0), filled(one, 0), filled(one, 0)
    with one.graph() as g:
        x, k, n, value = g.input("x", a), g.input("k", np.int32(1)), g.input("n", 4), g.input("value", 7)
        add[one](b, x, k, grid=n, block=BLOCK)
        g.copy(c, x)
        g.fill(b[:64], value)
    g.replay()
    for error, message, change in [
            (hcq.LaunchError, "is a buffer of AM:1; the kernel runs on AM:0", {"x": filled(other, 0)}),
            (hcq.LaunchError, "has 4 bytes; np.int64 has 8", {"k": np.int64(1)}),
            (hcq.ArgumentTypeError, "takes a Buffer, not an array", {"x": np.zeros(4)}),
            (hcq.LaunchError, "grid is one to three sizes of at least 1, not 0", {"n": 0}),
            (hcq.LaunchError, "grid is one to three sizes", {"n": "4"}),
            (hcq.BufferError, "recorded with 16384 bytes; the buffer given for it has 128", {"x": a[:128]}),
            (hcq.QueueError, "a fill pattern is 0 to 2", {"value": -1}),
            (hcq.GraphError, "no input 'z' in the graph; it has: x, k, n, value", {"z": 1})]:
        with pytest.raises(error, match=message):
            g.replay(**change)
    g.replay()                                              # none of it left a trace
    freed = one.alloc(4 * N)
    freed.free()
    with pytest.raises(hcq.UseAfterFreeError):
        g.replay(x=freed)
    spare = filled(one, 50)
    a.free()
    with pytest.raises(hcq.UseAfterFreeError):
        g.replay()
    g.replay(x=spare)                                       # the default is not needed then
    assert np.array_equal(ints(c), np.arange(50, 50 + N))
    b.free()
    with pytest.raises(hcq.UseAfterFreeError):
        g.replay(x=spare)
    one.synchronize()
    with one.graph() as empty:
        pass
    with pytest.raises(hcq.GraphError, match="without commands"):
        empty.replay()


def test_threads_record_by_themselves(pair: list[hcq.Device], add: dict[hcq.Device, hcq.Program]) -> None:
    import threading
    one = pair[0]
    a, b = filled(one, 0), filled(one, 0)
    with one.graph() as g:
        add[one](a, a, np.int32(1), grid=GRID, block=BLOCK)
        worker = threading.Thread(target=lambda: add[one](b, b, np.int32(9), grid=GRID, block=BLOCK))
        worker.start()
        worker.join()
    assert len(g) == 1 and np.array_equal(ints(b), np.arange(N) + 9) and np.array_equal(ints(a), np.arange(N))
