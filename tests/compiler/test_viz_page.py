"""The page of VIZ in headless Chromium: what it draws against what Python says, keys, mouse, search, both schemes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from viz_program import recorded, recording

from compiler import viz
from compiler.viz.recording import graph_of, replayed
from tools.chromium import BrowserError, Chromium, Page, executable

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    if executable() is None:
        if os.environ.get("AMDRV_CHROMIUM_REQUIRED") == "1":
            pytest.fail("no Chromium, and AMDRV_CHROMIUM_REQUIRED=1")
        pytest.skip("no Chromium: on Debian, apt install chromium")
    with Chromium(timeout=200) as browser:
        yield browser


def opened(chromium: Chromium, directory: Path, text: str, at: str = "", dark: bool = False) -> Page:
    file = directory / "page.html"
    file.write_text(viz.page(text), encoding="utf-8")
    page = chromium.open(file.as_uri() + at, dark=dark)
    page.wait("document.body.dataset.ready")
    return page


@pytest.fixture
def page(chromium: Chromium, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Of a recording on the CPU, or on ``device`` where a test asks for that."""
    device = request.getfixturevalue("device") if "device" in request.fixturenames else "CPU"
    found = opened(chromium, tmp_path, recorded(device))
    assert found.run("document.body.dataset.ready") == "yes"
    yield found
    assert found.errors() == []


def go(page: Page, at: str) -> None:
    page.run(f"location.hash = '{at}'")
    page.wait(f"location.hash.startsWith('#{at}') && app.tab === '{at.partition('/')[0]}'")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


VIEW = "app.views.at(-1)"


def middle(page: Page, item: str) -> tuple[float, float]:
    """Where on the screen a node is drawn."""
    x, y = page.run(f"""(() => {{ const v = {VIEW}, it = v.layout.items.get({item});
        const b = v.canvas.getBoundingClientRect();
        return [b.x + v.dx + v.scale * (it.x + it.w / 2), b.y + v.dy + v.scale * (it.y + it.h / 2)]; }})()""")
    return x, y


def test_every_tab_by_its_key(page: Page) -> None:
    for key, tab, selector in (("1", "rewrites", ".views canvas"), ("2", "schedule", ".table tr"),
                               ("3", "kernels", ".listing div"), ("4", "timeline", ".views canvas"),
                               ("5", "about", ".page table")):
        page.key(key)
        page.wait(f"app.tab === '{tab}'")
        page.wait(f"document.querySelectorAll('{selector}').length > 0")
        assert page.run("document.querySelector('#tabs [aria-selected=true]').id") == f"tab-{tab}"


def test_the_page_replays_rewrites_as_python_does(page: Page, device: str) -> None:
    data = recording(device)
    for n, p in enumerate(data["passes"]):
        steps = len(p["steps"])
        for k in sorted({0, min(1, steps), steps // 2, steps}) if steps else ():
            root, nodes = replayed(data, n, k)
            mine = sorted((nodes[i][0], nodes[i][2], len(nodes[i][4])) for i in graph_of({"nodes": nodes}, root))
            theirs = page.run(f"""(() => {{ const g = app.r.replay({n}, {k});
                return [...Recording.below(g)].map(i => [g.node(i)[0], g.node(i)[2], g.node(i)[4].length]); }})()""")
            assert sorted(map(tuple, theirs)) == mine, (n, k)


def longest(data: dict[str, Any]) -> int:
    return max(range(len(data["passes"])), key=lambda n: len(data["passes"][n]["steps"]))


def test_stepping_shows_the_rule_and_what_it_changed(page: Page) -> None:
    data = recording("CPU")
    number = longest(data)
    steps = data["passes"][number]["steps"]
    go(page, f"rewrites/{number}")
    for k in range(1, min(3, len(steps)) + 1):
        old, new, rule = steps[k - 1]
        said = data["rules"][rule]
        assert page.run("document.getElementById('step').textContent").startswith(f"step {k} of {len(steps)}")
        assert page.run("document.getElementById('where').textContent") == f"{said['file']}:{said['line']}"
        assert page.run("document.querySelector('.rule').textContent").find(said["text"].strip()[:30]) > 0
        assert page.run(f"app.views[0].marks.get({old})") == "old"
        assert page.run(f"app.views[1].marks.get({new}) ?? 'gone on'") in ("new", "gone on")
        page.key("ArrowRight")
    assert page.run("location.hash") == f"#rewrites/{number}/{min(4, len(steps))}"
    page.key("End")
    assert page.run("document.getElementById('step').textContent").startswith(f"step {len(steps)} of")
    page.key("ArrowRight")      # there is an end
    assert page.run("app.stepper.step") == len(steps)
    page.key("ArrowLeft")
    assert page.run("app.stepper.step") == max(len(steps) - 1, 1)
    page.key("b")
    assert page.run("app.views.length") == 1
    page.key("b")
    assert page.run("document.querySelectorAll('#details ol a').length") == len(steps)
    page.run("document.querySelectorAll('#details ol a')[1].click()")
    assert page.run("app.stepper.step") == 2


def test_layouts_are_in_layers_without_overlaps(page: Page) -> None:
    for at in ("rewrites", "schedule/0", "schedule/0/graph", "kernels/0/graph", "kernels/0/before"):
        go(page, at)
        boxes, edges = page.run(f"""(() => {{ const l = {VIEW}.layout;
            return [[...l.items.values()].map(i => [i.x, i.y, i.w, i.h]),
                l.edges.map(e => [e.from.y + e.from.h, e.to.y])]; }})()""")
        assert boxes and edges and all(bottom < top for bottom, top in edges)
        ordered = sorted(boxes)
        for n, (x, y, w, h) in enumerate(ordered):
            for u, v, _, z in ordered[n + 1:]:
                if u >= x + w:
                    break
                assert v >= y + h or y >= v + z, (at, (x, y, w, h), (u, v))


def test_a_click_shows_a_node_and_two_fold_it(page: Page) -> None:
    go(page, "schedule/0/graph")
    root = page.run("app.r.schedules[0].graph")
    x, y = middle(page, str(root))
    page.click(x, y)
    assert page.run("document.getElementById('node').textContent") == page.run(f"app.r.nodes[{root}][0]")
    details = page.run("document.getElementById('details').textContent")
    assert "viz_program.py" in details and "softmax(-1)" in details
    page.run("document.querySelector('#details dd a').click()")       # its first source
    source = page.run(f"{VIEW}.chosen")
    assert source in page.run(f"app.r.nodes[{root}][4]")
    everything = page.run(f"{VIEW}.layout.items.size")
    page.click(*middle(page, str(root)), count=2)
    page.wait(f"{VIEW}.layout.items.size === 1")
    assert page.run(f"{VIEW}.hidden.get({root})") == everything - 1
    page.key("u")
    assert page.run(f"{VIEW}.layout.items.size") == everything


def test_dragging_and_the_wheel_move_and_zoom(page: Page) -> None:
    go(page, "schedule/0/graph")
    before = page.run(f"[{VIEW}.dx, {VIEW}.dy, {VIEW}.scale]")
    page.drag(320, 600, 60, 25)
    after = page.run(f"[{VIEW}.dx, {VIEW}.dy, {VIEW}.scale]")
    assert [round(b - a) for a, b in zip(before, after, strict=True)] == [60, 25, 0]
    under = f"({VIEW}.canvas.getBoundingClientRect(), [(600 - 290 - {VIEW}.dx) / {VIEW}.scale])"
    point = page.run(under)
    page.wheel(600, 400, -100)
    page.wait(f"{VIEW}.scale > {after[2]}")
    assert page.run(under)[0] == pytest.approx(point[0], abs=1)       # what is under the pointer stays there
    page.key("f")
    assert page.run(f"{VIEW}.scale") == pytest.approx(before[2], rel=0.6)


def test_search_finds_marks_and_walks(page: Page, device: str) -> None:
    for at, words, kind in (("schedule/0/graph", "reduce_axis", "graph"), ("kernels/0/uops", "load", "listing"),
                            ("kernels/0/asm", "s_load" if page.run("app.r.kernels[0].gpu") else "mov", "listing")):
        go(page, at)
        page.key("/")
        page.run("document.getElementById('search').select()")
        page.write(words)
        count = page.run("app.results.length")
        assert count > 0 and page.run("document.getElementById('found').textContent") == f"{count} found"
        page.key("Enter")
        assert page.run("document.getElementById('found').textContent") == f"1 of {count}"
        if kind == "graph":
            assert page.run(f"{VIEW}.chosen === app.results[0]")
            assert page.run(f"app.r.nodes[{VIEW}.chosen][0]") == "REDUCE_AXIS"
        else:
            assert words in page.run("document.querySelector('.listing .now').textContent").lower()
            assert page.run("document.querySelectorAll('.listing .hit').length") == count
        page.key("Escape")
        assert page.run("app.results.length") == 0


def test_listings_are_the_recordings(page: Page, device: str) -> None:
    data = recording(device)
    for view in ("uops", "ir", "asm"):
        go(page, f"kernels/1/{view}")
        shown = page.run("[...document.querySelectorAll('.listing div')].map(d => d.textContent).join('\\n')")
        assert shown == data["kernels"][1][view]
    details = page.run("document.getElementById('details').textContent")
    assert data["kernels"][1]["name"] in details and "your lines, nearest first" in details


def test_lists_filter_and_lead_on(page: Page) -> None:
    page.key("3")
    page.wait("app.tab === 'kernels'")
    every = page.run("document.querySelectorAll('#items a').length")
    assert every == len(recording("CPU")["kernels"])
    page.run("document.getElementById('filter').focus()")
    page.write("matmul")
    few = page.run("[...document.querySelectorAll('#items a')].map(a => a.textContent)")
    assert 0 < len(few) < every and all("matmul" in t for t in few)
    page.run("document.querySelectorAll('#items a')[0].click()")
    page.wait("document.querySelector('#items a.on') !== null")
    page.run("document.getElementById('filter').blur()")
    if len(few) > 1:
        page.key("ArrowDown")
        page.wait("document.querySelectorAll('#items a')[1].classList.contains('on')")


def test_the_schedules_table_leads_to_kernels(page: Page) -> None:
    go(page, "schedule/0")
    rows = page.run("[...document.querySelectorAll('.table tbody tr')].map(r => r.cells[1].textContent)")
    assert rows == [i["name"] for i in recording("CPU")["schedules"][0]["items"]]
    page.run("document.querySelector('.table tbody tr').click()")
    assert "x @ w.T" in page.run("document.getElementById('details').textContent")
    page.run("document.querySelector('#details a').click()")
    page.wait("app.tab === 'kernels'")
    assert page.run("app.current") == recording("CPU")["schedules"][0]["items"][0]["kernel"]


def test_the_time_line_zooms_moves_and_tells(page: Page, device: str) -> None:
    go(page, "timeline")
    whole = page.run(f"{VIEW}.to - {VIEW}.from")
    for _ in range(3):
        page.wheel(700, 150, -100)
    page.wait(f"{VIEW}.to - {VIEW}.from < {whole} * 0.6")
    start = page.run(f"{VIEW}.from")
    page.drag(700, 150, 100, 0)
    assert page.run(f"{VIEW}.from") < start
    page.key("f")
    assert page.run(f"{VIEW}.to - {VIEW}.from") == pytest.approx(whole)
    page.key("w")
    assert page.run(f"{VIEW}.to - {VIEW}.from") == pytest.approx(whole * 0.7)
    page.key("/")
    page.write("matmul")
    count = page.run("app.results.length")
    page.key("Enter")
    assert count > 0 and "matmul" in page.run("document.getElementById('span').textContent")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    x, y = page.run(f"""(() => {{ const v = {VIEW}, s = v.chosen, b = v.canvas.getBoundingClientRect();
        return [b.x + (v.x(s.begin) + v.x(s.end)) / 2, b.y + 26 + v.rows.indexOf(s.row) * 26 + 13]; }})()""")
    page.run(f"{VIEW}.chosen = null; document.getElementById('details').replaceChildren()")
    page.click(x, y)
    assert "matmul" in page.run("document.getElementById('span').textContent")
    assert page.run(f"{VIEW}.drawn") > 0


def test_dark_and_light_by_the_system(page: Page) -> None:
    image = pytest.importorskip("matplotlib.image")
    brightness = []
    go(page, "schedule/0")
    for dark in (False, True):
        page.dark(dark)
        brightness.append(float(image.imread(io.BytesIO(page.picture()), "png")[..., :3].mean()))
    assert brightness[0] > 0.8 and brightness[1] < 0.3


def test_limits_are_said(chromium: Chromium, tmp_path: Path) -> None:
    data = recording("CPU")
    data["left_out"] = {"passes": 1234}
    data["notes"] = ["something was so"]
    page = opened(chromium, tmp_path, json.dumps(data), "#about")
    text = page.run("document.querySelector('.page').textContent")
    assert "1,234" in text and "Something was left out" in text and "something was so" in text and "100,000" in text


def test_nothing_of_a_recording_is_taken_for_the_page(chromium: Chromium, tmp_path: Path) -> None:
    """A recording of somebody else's program: all of its texts are texts."""
    evil = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
    data = recording("CPU")
    data["program"] = evil
    data["notes"] = [evil]
    for table, keys in (("kernels", ("label", "uops", "ir", "asm", "name", "target")), ("places", ("file", "text")),
                        ("rules", ("name", "text")), ("passes", ("name",))):
        for entry in data[table]:
            for key in keys:
                entry[key] = evil + entry[key]
    page = opened(chromium, tmp_path, json.dumps(data))
    assert page.run("document.body.dataset.ready") == "yes"
    for at in ("rewrites", "schedule/0", "kernels/0/uops", "kernels/0/graph", "timeline", "about"):
        go(page, at)
    assert page.run("window.pwned ?? 'nobody'") == "nobody" and page.errors() == []
    assert page.run("document.querySelectorAll('img').length") == 0


def test_thousands_of_nodes(chromium: Chromium, tmp_path: Path) -> None:
    data = recording("CPU")
    base = len(data["nodes"])
    count = 4000
    data["nodes"].append(["CONST", "int32", "1", [], [], -1])
    for n in range(count - 1):
        first = base + max(0, n - 40)
        data["nodes"].append(["ADD", "int32", str(n), [], [base + n, first] if n % 3 else [first], -1])
    last = base + count - 1
    data["nodes"].append(["VALUES", "", "", [], [n for n in range(base, last + 1)], -1])
    data["schedules"][0]["graph"] = last + 1
    page = opened(chromium, tmp_path, json.dumps(data), "#schedule/0/graph")
    page.run("app.options.constants = false")
    go(page, "schedule/0")
    go(page, "schedule/0/graph")
    assert page.run(f"{VIEW}.layout.items.size") == count + 1
    page.key("/")
    page.write("3998")
    page.key("Enter")
    assert page.run(f"app.r.nodes[{VIEW}.chosen][2]") == "3998" and page.errors() == []


def test_a_page_that_is_damaged_says_so(chromium: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    text = viz.page(recorded("CPU"))
    at = text.index('id="recording">') + len('id="recording">')
    file.write_text(text[:at] + "AAAA" + text[at:])
    page = chromium.open(file.as_uri())
    page.wait("document.body.dataset.ready === 'failed'")
    assert "cannot be shown" in page.run("document.getElementById('main').textContent")


def test_served_pages_and_empty_recordings(chromium: Chromium) -> None:
    with viz.record() as recorder:
        pass
    server = viz.Server(lambda: viz.page(recorder.json()), recorder.json, 0)
    server.start()
    try:
        page = chromium.open(server.url)
        page.wait("document.body.dataset.ready === 'yes'")
        for key in "12345":
            page.key(key)
        page.wait("app.tab === 'about'")
        assert page.errors() == []
    finally:
        server.close()


def test_the_browser_says_what_is_wrong(chromium: Chromium, monkeypatch: pytest.MonkeyPatch) -> None:
    page = chromium.open("about:blank")
    with pytest.raises(BrowserError, match=r"nothing\.here: ReferenceError: nothing is not defined"):
        page.run("nothing.here")
    with pytest.raises(BrowserError, match=r"No\.such: .*wasn't found"):
        page.call("No.such")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BrowserError, match=r"no browser: none of chromium, .* apt install chromium"):
        Chromium()
