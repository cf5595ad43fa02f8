"""What ``VIZ`` keeps: graphs, rewrites, schedules, kernels, and who ran when; bounded, and as plain data.

Nodes go into one table, each once, by what they are: operation, type, argument, sources. So a graph after any number
of rewrites can be made from the graph before and the list of what fired (:func:`replayed`; the page does the same), and
no node of the compiler, and no memory that one stands for, is kept alive.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from compiler import watch
from compiler.choices import Choice
from compiler.debug import uops
from compiler.disassembly import disassembly
from compiler.engine import Program
from compiler.places import Place, called, file_of, line_of, source_of
from compiler.runtime import runtime
from compiler.schedule import CopyItem, KernelItem, Schedule
from compiler.uop import Ops, UOp
from compiler.viz.engines import Engines
from compiler.work import label, shapes, what, work

__all__ = ["FORMAT", "LIMITS", "VERSION", "Recorder", "graph_of", "replayed"]

FORMAT, VERSION = "compiler recording", 1

LIMITS = {
    "nodes": 100_000,           # of the table
    "passes": 5_000,            # rewrites of a graph, each of many steps
    "steps": 2_000,             # rules fired, in one pass; later ones are not kept
    "schedules": 500,
    "kernels": 1_000,
    "spans": 50_000,            # on the time line
    "text": 1_000_000,          # characters of one listing
}
_ARG = 240                      # characters of an argument
_RULE_LINES = 12
_OURS = ("watch.", "match.", "viz.")
_CONTEXT = 3                    # callers that a pass's name has


class Recorder(watch.Watcher):
    """Listens to the compiler until :meth:`stop`. ``limits`` overrides some of :data:`LIMITS`."""

    def __init__(self, *, limits: dict[str, int] | None = None, profile: bool = True) -> None:
        self.limits = LIMITS | (limits or {})
        self.left_out = dict.fromkeys(self.limits, 0)
        self.notes: list[str] = []
        self.nodes: list[list[Any]] = []
        self.places: list[dict[str, Any]] = []
        self.rules: list[dict[str, Any]] = []
        self.passes: list[dict[str, Any]] = []
        self.schedules: list[dict[str, Any]] = []
        self.kernels: list[dict[str, Any]] = []
        self.spans: list[list[Any]] = []
        self.begin = time.perf_counter_ns()
        self.started = time.strftime("%Y-%m-%d %H:%M:%S")
        self._known: weakref.WeakKeyDictionary[UOp, int] = weakref.WeakKeyDictionary()
        self._by_content: dict[Any, int] = {}
        self._place_ids: dict[Any, int] = {}
        self._rule_ids: dict[Any, int] = {}
        self._kernel_ids: dict[tuple[str, str], int] = {}       # by device and name
        self._by_sink: dict[tuple[int, str], int] = {}          # kernels by the node that was scheduled
        self._programs: dict[int, Program] = {}                 # whose instructions nobody has asked for
        self._scope: dict[str, Any] | None = None
        self._since = 0
        self._trying = False
        self._lock = threading.RLock()
        self.engines = Engines(self.limits["spans"], self.notes.append) if profile else None

    # the tables

    def node(self, root: UOp) -> int:
        """The number of a node; its sources are in the table, too. -1 where the table is full."""
        found = self._known.get(root)
        if found is not None:
            return found
        for node in root.toposort(lambda n: n not in self._known):
            if node in self._known:
                continue
            text = _argument(node)
            src = [self._known[s] for s in node.src]
            key = (node.op, node.dtype.name, text, tuple(src))
            number = self._by_content.get(key)
            if number is None:
                if len(self.nodes) >= self.limits["nodes"]:
                    self.left_out["nodes"] += 1
                    return -1
                number = self._by_content[key] = len(self.nodes)
                shape = [str(n) if not isinstance(n, int) else n for n in node.shape]
                self.nodes.append([node.op.name, node.dtype.name, text, shape, src, self.place(node.place)])
            self._known[node] = number
        return self._known[root]

    def together(self, roots: Sequence[UOp]) -> int:
        """One node above several."""
        numbers = [self.node(r) for r in roots]
        if len(numbers) == 1 or -1 in numbers:
            return numbers[0] if -1 not in numbers else -1
        key = ("VALUES", "", "", tuple(numbers))
        if key not in self._by_content:
            if len(self.nodes) >= self.limits["nodes"]:
                self.left_out["nodes"] += 1
                return -1
            self._by_content[key] = len(self.nodes)
            self.nodes.append(["VALUES", "", "", [], numbers, -1])
        return self._by_content[key]

    def place(self, place: Place | None) -> int:
        """The number of a line of the user's; -1 for none."""
        if place is None:
            return -1
        key = (file_of(place), line_of(place), called(place))
        if key not in self._place_ids:
            self._place_ids[key] = len(self.places)
            self.places.append({"file": key[0], "line": key[1], "called": key[2], "name": place[0].co_name,
                                "text": source_of(place)})
        return self._place_ids[key]

    def rule(self, function: Callable[..., Any]) -> int:
        """The number of a rule, by its function's place."""
        code = function.__code__        # type: ignore[attr-defined]
        key = (code.co_filename, code.co_firstlineno, code.co_name)
        if key not in self._rule_ids:
            self._rule_ids[key] = len(self.rules)
            try:
                text = textwrap.dedent("\n".join(inspect.getsource(function).splitlines()[:_RULE_LINES]))
            except (OSError, TypeError):
                text = ""
            name = function.__name__
            self.rules.append({"name": "rule" if name == "<lambda>" else name, "file": _ours(code.co_filename),
                               "line": code.co_firstlineno, "text": text})
        return self._rule_ids[key]

    # what the compiler tells

    def rewrote(self, root: UOp, result: UOp, fired: Sequence[watch.Firing]) -> None:
        if not self._trying:
            with self._lock:
                names = [n for n in watch.callers(3) if not n.startswith(_OURS) and not n.endswith(">")]
                name = "legalize" if names[:1] == ["engine.build_program"] else \
                    f"{names[0].rpartition('.')[2] if names else 'graph_rewrite'}"
                self._pass(name, names[:_CONTEXT], [root], [result], fired)

    def step(self, name: str, before: Sequence[UOp], after: Sequence[UOp]) -> None:
        if not self._trying:
            with self._lock:
                self._pass(name, [], before, after, ())

    def _pass(self, name: str, path: list[str], before: Sequence[UOp], after: Sequence[UOp],
              fired: Sequence[watch.Firing]) -> None:
        if len(self.passes) >= self.limits["passes"]:
            self.left_out["passes"] += 1
            return
        kept = fired[:self.limits["steps"]]
        numbers = [self.together(before), self.together(after)]
        steps = [[self.node(old), self.node(new), self.rule(f)] for old, new, f in kept]
        if -1 in numbers or any(-1 in s[:2] for s in steps):
            self.left_out["passes"] += 1
            return
        self.left_out["steps"] += len(fired) - len(kept)
        entry = {"name": name, "path": path, "before": numbers[0], "after": numbers[1], "steps": steps,
                 "cut": len(fired) - len(kept)}
        if self._scope is not None:
            self._scope["passes"].append(len(self.passes))
        self.passes.append(entry)

    def scheduling(self, roots: Sequence[UOp], device: str) -> None:
        with self._lock:
            self._since = time.perf_counter_ns()
            self._scope = {"device": device, "graph": self.together(roots), "passes": [], "items": [], "buffers": [],
                           "roots": [], "wanted": len(roots), "error": ""}
            if len(self.schedules) < self.limits["schedules"]:
                self.schedules.append(self._scope)
            else:
                self.left_out["schedules"] += 1

    def scheduled(self, roots: Sequence[UOp], device: str, plan: Schedule) -> None:
        with self._lock:
            scope, self._scope = self._scope, None
            if scope is None:
                return
            sizes = {n.arg[0]: n for r in roots for n in r.toposort() if n.op is Ops.BUFFER}
            scope["buffers"] = [
                {"made": False, "device": n.device or device, "dtype": n.dtype.name, "size": str(n.size)}
                if (n := sizes.get(s)) is not None else {"made": False, "device": device, "dtype": "", "size": "?"}
                for s in range(plan.inputs)] + [
                {"made": True, "device": s.device, "dtype": s.dtype.name, "size": str(s.size)} for s in plan.made]
            for item in plan.items:
                if isinstance(item, CopyItem):
                    scope["items"].append({"kind": "copy", "reads": [item.src], "writes": [item.dst],
                                           "name": "copy", "sink": -1, "places": [], "device": ""})
                else:
                    scope["items"].append(self._item(item))
            scope["roots"] = list(plan.roots)
            self._span("compiler", "scheduling", self._since, f"schedule {len(plan.items)} items", -1)

    def _item(self, item: KernelItem) -> dict[str, Any]:
        return {"kind": "kernel", "reads": [s for s in item.slots if s not in item.writes],
                "writes": list(item.writes), "name": label(item.sink, item.places), "sink": self.node(item.sink),
                "places": [self.place(p) for p in item.places], "device": item.device}

    def searching(self, sink: UOp, device: str, on: bool) -> None:
        self._trying = on
        if on:
            self._since = time.perf_counter_ns()
        else:
            with self._lock:
                self._span("compiler", "searching", self._since, f"search {what(sink)} {shapes(sink)}", -1)

    def building(self, sink: UOp, device: str) -> None:
        with self._lock:
            self._since = time.perf_counter_ns()
            self._scope = {"passes": [], "error": "", "sink": self.node(sink), "device": device}

    def built(self, sink: UOp, device: str, program: Program, choices: Sequence[Choice] | None) -> None:
        with self._lock:
            scope, self._scope = self._scope, None
            key = (device, program.source.name)
            if scope is None:
                return
            if key in self._kernel_ids:         # another graph that comes to the same code
                self._by_sink[scope["sink"], device] = self._kernel_ids[key]
                return
            if len(self.kernels) >= self.limits["kernels"]:
                self.left_out["kernels"] += 1
                return
            on = runtime(device)
            if choices is None:
                from compiler.heuristics import choose
                from compiler.optimize import merge_ranges
                choices, by = choose(merge_ranges(sink), on.target.gpu), "heuristics"
            else:
                by = "a search"
            source = program.source
            number = self._kernel_ids[key] = self._by_sink[scope["sink"], device] = len(self.kernels)
            self.kernels.append(scope | {
                "name": source.name, "label": label(sink), "legal": self.node(program.legal),
                "choices": [f"{c.kind} {c.axis}: {'x'.join(map(str, c.amounts))}" for c in choices], "by": by,
                "target": f"{on.target.cpu} ({on.target.triple})", "grid": list(source.grid),
                "block": list(source.block), "gpu": on.target.gpu, "outer": source.outer, "bytes": len(program.code),
                "uops": self._listing(uops(program.instructions)), "ir": self._listing(source.text), "asm": "",
                "places": []})
            self._programs[number] = program
            self._span("compiler", "building", self._since, f"build {label(sink)}", number)
        if self.engines is not None and device != "CPU":
            self.engines.watch(device)

    def failed(self, error: BaseException) -> None:
        with self._lock:
            if self._scope is not None:
                self._scope["error"] = f"{type(error).__name__}: {error}"
                if "sink" in self._scope:
                    self.notes.append(f"a kernel could not be built: {self._scope['error']}")
                self._scope = None
            else:
                self.notes.append(f"{type(error).__name__}: {error}")

    def ran(self, ran: watch.Ran) -> None:
        with self._lock:
            for each in ran.parts or [ran]:
                number = -1
                if each.program is not None:
                    number = self._kernel_ids.get((each.device, each.program.source.name), -1)
                    if number >= 0 and each.places and not self.kernels[number]["places"]:
                        kernel = self.kernels[number]
                        kernel["places"] = [self.place(p) for p in each.places]
                        kernel["label"] = label(each.program.sink, each.places)
                if ran.parts:
                    continue
                facts: dict[str, Any] = {}
                if each.program is not None:
                    done = work(each.program.sink, each.sizes, each.values)
                    facts = {"operations": done.operations, "bytes": done.bytes}
                elif each.sizes:
                    facts = {"bytes": each.sizes[0]}
                name = self.kernels[number]["label"] if number >= 0 else each.kind
                row = ("CPU", "kernels") if each.device == "CPU" else ("host", f"launches for {each.device}")
                self._span(*row, each.begin, name, number, each.end, facts)
            if ran.parts:
                self._span("host", f"launches for {ran.device}", ran.begin, f"jit replay of {len(ran.parts)}", -1,
                           ran.end, {})
        if self.engines is not None:
            self.engines.check()

    def _span(self, group: str, row: str, begin: int, name: str, kernel: int, end: int = 0,
              facts: dict[str, Any] | None = None) -> None:
        if len(self.spans) >= self.limits["spans"]:
            self.left_out["spans"] += 1
            return
        self.spans.append([group, row, begin - self.begin, (end or time.perf_counter_ns()) - self.begin, name, kernel,
                           facts or {}])

    def _listing(self, text: str) -> str:
        limit = self.limits["text"]
        if len(text) <= limit:
            return text
        self.left_out["text"] += 1
        return text[:limit].rpartition("\n")[0] + f"\n... {len(text) - limit} characters more are left out"

    # the result

    def stop(self) -> None:
        """No more; the engines' profiles end, too."""
        if self in watch.watchers:
            watch.watchers.remove(self)
        if self.engines is not None:
            self.engines.stop()

    def data(self) -> dict[str, Any]:
        """The recording as far as it goes: what :mod:`json` can write."""
        with self._lock:
            for number, program in list(self._programs.items()):
                try:
                    text = disassembly(program, runtime(self.kernels[number]["device"]).target)
                except Exception as error:      # a listing is not worth a program's end
                    text = f"; no listing: {type(error).__name__}: {error}"
                self.kernels[number]["asm"] = self._listing(text)
                del self._programs[number]
            spans = list(self.spans)
            if self.engines is not None:
                room = max(self.limits["spans"] - len(spans), 0)
                found = self.engines.spans(self.begin)
                self.left_out["spans"] += max(len(found) - room, 0) if len(found) > room else 0
                for group, row, begin, end, name, facts in found[:room]:
                    number = self._kernel_ids.get((group, name), -1)
                    spans.append([group, row, begin, end, self.kernels[number]["label"] if number >= 0 else name,
                                  number, facts])
            for schedule in self.schedules:
                for item in schedule["items"]:
                    item["kernel"] = self._by_sink.get((item["sink"], item["device"]), -1) if item["sink"] >= 0 else -1
            return {"format": FORMAT, "version": VERSION, "program": " ".join(sys.argv) or "python",
                    "python": sys.version.split()[0], "started": self.started, "limits": self.limits,
                    "left_out": {k: v for k, v in self.left_out.items() if v}, "notes": self.notes[:100],
                    "uncertainty": self.engines.uncertainty if self.engines is not None else 0,
                    "nodes": self.nodes, "places": self.places, "rules": self.rules, "passes": self.passes,
                    "schedules": self.schedules, "kernels": self.kernels, "spans": spans}

    def json(self) -> str:
        """:meth:`data` as text."""
        with self._lock:
            return json.dumps(self.data(), separators=(",", ":"), default=str)


def _argument(node: UOp) -> str:
    if node.arg is None:
        return ""
    if node.op is Ops.BUFFER:       # no memory is named, nor kept
        slot = node.arg[0] if isinstance(node.arg[0], int) else "memory"
        return f"{slot}, {node.arg[2]} elements"
    text = repr(node.arg)
    if len(text) > _ARG:
        text = f"{text[:_ARG]}... #{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text


def _ours(file: str) -> str:
    """A file of this package as the repository has it."""
    _, found, rest = file.replace("\\", "/").rpartition("/compiler/")
    return f"compiler/{rest}" if found else file


def graph_of(data: dict[str, Any], root: int) -> list[int]:
    """The numbers of all nodes below a node, and it, sources first."""
    done: dict[int, None] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        more = [s for s in data["nodes"][node][4] if s not in done] if node not in done else []
        if more:
            stack += more
        else:
            done[stack.pop()] = None
    return list(done)


def replayed(data: dict[str, Any], number: int, steps: int) -> tuple[int, list[list[Any]]]:
    """The graph of pass ``number`` after so many steps: its root, and the table with the nodes that it adds.

    What the page draws. Nodes are built again from their sources; one that a step so far has replaced is what the step
    made of it, looked at in the same way.
    """
    nodes = list(data["nodes"])
    by_content = {(n[0], n[1], n[2], tuple(n[4])): i for i, n in enumerate(nodes)}
    instead = {old: new for old, new, _ in data["passes"][number]["steps"][:steps]}
    done: dict[int, int] = {}
    waiting: set[int] = set()           # nodes whose replacements are being looked at
    root = data["passes"][number]["before"]
    stack = [root]
    while stack:
        node = stack[-1]
        if node in done:
            stack.pop()
            continue
        op, dtype, arg, shape, src, place = nodes[node]
        if more := [s for s in src if s not in done]:
            stack += more
            continue
        key = (op, dtype, arg, tuple(done[s] for s in src))
        now = by_content.get(key)
        if now is None:
            now = by_content[key] = len(nodes)
            nodes.append([op, dtype, arg, shape, list(key[3]), place])
        new = instead.get(now, now)
        if new != now and new not in waiting and new != node:
            if new not in done:
                waiting.add(node)
                stack.append(new)
                continue
            now = done[new]
        waiting.discard(node)
        done[node] = now
    return done[root], nodes
