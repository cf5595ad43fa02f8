"use strict";

// The page: where one is stands in the address after #, so that every view can be linked to.

const $ = id => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (k === "class") e.className = v;
    else if (v !== null && v !== false) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.filter(c => c !== null && c !== undefined));
  return e;
}

const number = n => n >= 1e12 ? (n / 1e12).toFixed(2) + " T" : n >= 1e9 ? (n / 1e9).toFixed(2) + " G" : n >= 1e6 ? (n / 1e6).toFixed(2) + " M" : n >= 1e4 ? (n / 1e3).toFixed(1) + " k" : String(n);
const rate = x => x >= 100 ? x.toFixed(0) : x >= 1 ? x.toFixed(2) : x >= 0.001 ? x.toPrecision(2) : x.toExponential(1);
const TABS = [["rewrites", "Rewrites"], ["schedule", "Schedule"], ["kernels", "Kernels"], ["timeline", "Timeline"], ["about", "About"]];
const KERNEL_VIEWS = [["uops", "UOps"], ["graph", "Graph"], ["before", "Graph before"], ["ir", "LLVM IR"], ["asm", "Disassembly"]];

class App {
  constructor(recording) {
    this.r = recording;
    this.views = [];
    this.results = [];
    this.result = -1;
    this.options = { constants: true, indices: false, both: true };
    this.times = this.kernelTimes();
    const largest = (list, size) => list.reduce((best, x, n) => size(x, n) > size(list[best], best) ? n : best, 0);
    this.last = { rewrites: this.firstPass(), schedule: largest(recording.schedules, s => s.items.length), kernels: largest(recording.kernels, (k, n) => this.times.get(n)?.total ?? 0) };
    for (const [n, [id, name]] of TABS.entries()) $("tabs").append(make("button", { role: "tab", id: "tab-" + id, title: `key ${n + 1}`, onclick: () => this.go(id) }, name));
    $("search").addEventListener("input", () => this.search());
    $("search").addEventListener("keydown", e => { if (e.key === "Enter") this.next(e.shiftKey ? -1 : 1); if (e.key === "Escape") { $("search").value = ""; this.search(); $("search").blur(); } });
    $("filter").addEventListener("input", () => this.list());
    $("panel").addEventListener("click", () => this.panel());
    addEventListener("hashchange", () => this.route());
    addEventListener("keydown", e => this.key(e));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.views.forEach(v => v.draw?.()));
    if (innerWidth < 1000) document.body.classList.add("wide");
    this.route();
  }

  // where one is

  firstPass() {
    const fit = this.r.kernels.flatMap(k => k.passes).find(p => this.r.passes[p].steps.length > 2);
    return fit ?? Math.max(this.r.passes.findIndex(p => p.steps.length > 2), 0);
  }

  go(...parts) { location.hash = parts.join("/"); }

  route() {
    const [tab, a, b] = location.hash.replace(/^#\/?/, "").split("/");
    this.tab = TABS.some(t => t[0] === tab) ? tab : this.r.passes.length ? "rewrites" : this.r.schedules.length ? "schedule" : "about";
    const bounded = (text, n, otherwise) => { const v = parseInt(text, 10); return v >= 0 && v < n ? v : Math.min(otherwise, Math.max(n - 1, 0)); };
    const limits = { rewrites: this.r.passes.length, schedule: this.r.schedules.length, kernels: this.r.kernels.length };
    if (this.tab in limits) this.last[this.tab] = this.current = bounded(a, limits[this.tab], this.last[this.tab]);
    this.sub = b;
    document.querySelectorAll("#tabs button").forEach(t => t.setAttribute("aria-selected", t.id === "tab-" + this.tab));
    for (const v of this.views) v.close();
    this.views = [];
    this.stepper = null;
    $("main").replaceChildren();
    $("details").replaceChildren();
    if (this.listed !== this.tab) { $("filter").value = ""; }
    this.list();
    this[this.tab]();
    this.search();
  }

  empty(text) { $("main").append(make("div", { class: "empty" }, text)); }

  // the list on the left

  list() {
    const words = $("filter").value.toLowerCase(), box = $("items");
    const key = this.tab + "\0" + words;
    if (this.listed === this.tab && this.listKey === key) { this.mark(); return; }
    this.listed = this.tab; this.listKey = key;
    box.replaceChildren();
    const r = this.r, fits = t => !words || t.toLowerCase().includes(words);
    const link = (to, text, side) => make("a", { href: "#" + to, "data-to": to, title: text }, make("span", {}, text), make("small", {}, side));
    if (this.tab === "rewrites") {
      const seen = new Set();
      const group = (title, side, passes) => {
        const kept = passes.filter(p => { seen.add(p); return fits(title + " " + r.passes[p].name + " " + r.passes[p].path.join(" ")); });
        if (!kept.length) return;
        const inner = make("div");
        const d = make("details", { ontoggle: () => { if (d.open && !inner.childElementCount) { inner.append(...kept.map(p => link("rewrites/" + p, this.passName(p), String(r.passes[p].steps.length || "")))); this.mark(); } } },
          make("summary", { title }, make("span", {}, title), make("small", {}, side)), inner);
        d.passes = kept;
        if (words) d.open = true;
        box.append(d);
      };
      r.schedules.forEach((s, n) => group(`schedule ${n}`, `${s.passes.length} passes`, s.passes));
      r.kernels.forEach((k, n) => group(`kernel ${n} ${k.label}`, `${k.passes.length}`, k.passes));
      group("outside of both", "", r.passes.map((_, n) => n).filter(n => !seen.has(n)));
    } else if (this.tab === "schedule") {
      r.schedules.forEach((s, n) => { const t = `schedule ${n}: ${s.items.length} ${s.items.length === 1 ? "item" : "items"}`; if (fits(t + s.device + s.items.map(i => i.name).join(" "))) box.append(link("schedule/" + n, t, s.error ? "failed" : s.device)); });
    } else if (this.tab === "kernels") {
      r.kernels.forEach((k, n) => { const t = `${n}  ${k.label}`, w = r.where(k.places[0] ?? -1); if (fits(t + k.name + w)) box.append(link("kernels/" + n, t, w || k.device)); });
    } else if (this.tab === "timeline") {
      const rows = [...this.times.entries()].filter(([n]) => fits(r.kernels[n].label)).sort((a, b) => b[1].total - a[1].total);
      box.append(make("small", {}, "kernels by time"));
      for (const [n, t] of rows) { const a = link("kernels/" + n, r.kernels[n].label, `${t.count}× ${time(t.total, 1)}`); a.addEventListener("click", e => { e.preventDefault(); $("search").value = r.kernels[n].label; this.search(); this.next(1); }); box.append(a); }
    } else box.append(make("small", {}, "this page"));
    this.mark();
  }

  mark() {
    const to = `${this.tab}/${this.current}`;
    for (const d of $("items").querySelectorAll("details")) if (!d.open && this.tab === "rewrites" && d.passes?.includes(this.current)) d.open = true;
    for (const a of $("items").querySelectorAll("a")) {
      const on = a.dataset.to === to;
      a.classList.toggle("on", on);
      if (on) a.scrollIntoView({ block: "nearest" });
    }
  }

  passName(n) {
    const p = this.r.passes[n], from = (p.path[1] ?? "").split(".").pop();
    return from ? `${p.name} for ${from.replace(/^_/, "")}` : p.name;
  }

  // rewrites

  rewrites() {
    const r = this.r, pass = r.passes[this.current];
    if (!pass) { this.empty("No rewrite was recorded."); return; }
    const steps = Math.max(pass.steps.length, 1);
    let step = Math.max(1, Math.min(steps, parseInt(this.sub, 10) || 1));
    const slider = make("input", { type: "range", min: 1, max: steps, value: step, "aria-label": "step", oninput: () => to(+slider.value) });
    const count = make("span", { id: "step" }), rule = make("div", { class: "rule" }), views = make("div", { class: "views" });
    const toggle = (name, text, title) => make("label", { title }, make("input", { type: "checkbox", id: "opt-" + name, onchange: e => { this.options[name] = e.target.checked; layout(); } }), text);
    const bar = make("div", { class: "bar" }, make("span", { class: "title", title: pass.path.join(" ← ") }, this.passName(this.current)),
      make("button", { title: "step back   ←", onclick: () => to(step - 1) }, "◀"), slider, make("button", { title: "step   →", onclick: () => to(step + 1) }, "▶"), count,
      make("span", { class: "push" }), toggle("both", "both", "before and after, or after alone   b"), toggle("constants", "constants", "constants in labels   c"), toggle("indices", "indices", "index arithmetic in labels   i"),
      make("button", { title: "fit   f", onclick: () => this.views.forEach(v => { v.fit?.(); v.draw?.(); }) }, "fit"));
    $("main").append(bar, rule, views);
    const layout = () => {
      for (const [name] of [["both"], ["constants"], ["indices"]]) $("opt-" + name).checked = this.options[name];
      for (const v of this.views) v.close();
      views.replaceChildren();
      const select = id => this.node(this.shown, id, () => this.steps(pass, step, to));
      this.views = this.options.both ? [new GraphView(views, "before", select), new GraphView(views, "after", select)] : [new GraphView(views, "after", select)];
      draw();
    };
    const draw = () => {
      const fired = pass.steps[step - 1];
      const graphs = pass.steps.length ? [r.replay(this.current, step - 1), r.replay(this.current, step)] : [r.graph(pass.before), r.graph(pass.after)];
      const below = graphs.map(g => Recording.below(g));
      const only = (a, b) => [...a].filter(id => !b.has(id));
      const gone = only(below[0], below[1]), come = only(below[1], below[0]);
      this.shown = graphs[1];
      slider.value = step;
      count.textContent = pass.steps.length ? `step ${step} of ${pass.steps.length}${pass.cut ? " (" + pass.cut + " more not kept)" : ""}` : "one step";
      rule.replaceChildren();
      if (fired) {
        const q = r.rules[fired[2]];
        rule.append(make("b", { id: "rule" }, q.name === "rule" ? "" : q.name + "  "), make("span", { id: "where" }, `${q.file}:${q.line}`), "   ", make("span", { class: "dim" }, `${this.brief(fired[0])} → ${this.brief(fired[1])}`));
        if (q.text) rule.append(make("pre", {}, q.text));
      } else rule.append(make("b", { id: "rule" }, pass.name), make("span", { class: "dim" }, "  a rewrite of the whole graph, by no rule"));
      this.views.forEach((v, i) => {
        const side = this.views.length === 2 ? i : 1, marks = new Map();
        const changed = side ? come : gone;
        const at = fired ? fired[side] : -1;
        // strong: what the rule took away and made; weak: what only stands on that, and was built again
        const over = fired ? this.above(graphs[side], below[side], at) : new Set();
        changed.forEach(id => marks.set(id, (side ? "new" : "old") + (over.has(id) ? "weak" : "")));
        if (fired && below[side].has(at)) marks.set(at, side ? "new" : "old");
        v.show(this.drawing(graphs[side], { marks, focus: marks.has(at) && fired ? [at] : changed.slice(-40) }));
      });
      this.changes = { gone: gone.length, come: come.length };
      this.steps(pass, step, to);
      this.search(false);
    };
    const to = n => {
      const next = Math.max(1, Math.min(steps, n));
      if (next === step) return;
      step = next;
      history.replaceState(null, "", `#rewrites/${this.current}/${step}`);
      draw();
    };
    this.stepper = { to, get step() { return step; }, steps, option: name => { this.options[name] = !this.options[name]; layout(); } };
    layout();
  }

  // Which nodes stand on one.
  above(graph, ids, id) {
    const over = new Set();
    for (const n of ids) if (graph.node(n)[4].some(s => s === id || over.has(s))) over.add(n);
    return over;
  }

  brief(id) {
    const text = expression(this.r.graph(id), id, 2);
    return text.length > 60 ? text.slice(0, 59) + "…" : text;
  }

  steps(pass, step, to) {
    const r = this.r, list = make("ol");
    pass.steps.forEach(([, , rule], i) => {
      const q = r.rules[rule];
      list.append(make("li", {}, make("a", { class: i + 1 === step ? "on" : "", onclick: () => to(i + 1) }, make("span", {}, String(i + 1)), make("span", {}, q.name === "rule" ? `${q.file.split("/").pop()}:${q.line}` : q.name))));
    });
    const from = pass.path.length ? [make("dt", {}, "called by"), make("dd", {}, pass.path.join(" ← "))] : [];
    $("details").replaceChildren(make("h2", {}, this.passName(this.current)), make("dl", {}, ...from, make("dt", {}, "steps"), make("dd", {}, String(pass.steps.length)), make("dt", {}, "nodes"), make("dd", {}, `${this.changes.come} new, ${this.changes.gone} gone`)),
      make("h3", {}, pass.steps.length ? "rules, in order" : ""), list);
    const on = list.querySelector(".on");
    if (on) list.scrollTop = on.offsetTop - list.offsetTop - 90;
  }

  // A graph as the view wants it: what is drawn, and what stands in labels instead.
  drawing(graph, more = {}) {
    const r = this.r, { constants, indices } = this.options;
    const users = new Map(), all = [...Recording.below(graph)];
    const keep = new Set([graph.root, ...(more.focus ?? []), ...(more.marks?.keys() ?? [])]);
    const inline = new Set();
    for (const id of all) {
      const [op, dtype] = graph.node(id);
      const small = constants && (op === "CONST" || (op === "PARAM" && indices));
      if (small && !keep.has(id)) inline.add(id);
      for (const s of graph.node(id)[4]) users.set(s, [...(users.get(s) ?? []), id]);
    }
    if (indices) for (const id of [...all].reverse()) {       // what only addresses need
      const [op, dtype] = graph.node(id), over = users.get(id) ?? [];
      if (!keep.has(id) && over.length && /^u?int|^bool/.test(dtype) && op !== "LOAD" && op !== "REDUCE" && op !== "STORE" && over.every(u => inline.has(u) || (graph.node(u)[0] === "INDEX" && graph.node(u)[4][1] === id) || (op === "RANGE" && graph.node(u)[0] === "REDUCE"))) inline.add(id);
    }
    const memo = new Map();
    const describe = id => {
      if (memo.has(id)) return memo.get(id);
      const [op, dtype, arg, shape, src, place] = graph.node(id);
      const shown = src.filter(s => !inline.has(s));
      let title = op;
      if (op === "CONST") title = arg;
      else if (op === "INDEX" && shown.length < src.length) title = expression(graph, id, 5);
      else if (shown.length < src.length && src.length > 1 && op !== "SINK" && op !== "REDUCE") title = `${op} ${src.map(s => inline.has(s) ? expression(graph, s, 2) : "·").join(", ")}`;
      else if (op === "REDUCE" || op === "REDUCE_AXIS" || op === "RANGE" || op === "PARAM" || op === "BUFFER" || op === "RESHAPE" || op === "EXPAND" || op === "PERMUTE") title = `${op} ${arg}`;
      if (op === "RANGE") { const n = graph.node(src[0]); title = `r${arg.replace(/[()]/g, "").replace(",", "")} 0..${n[0] === "CONST" ? n[2] : "?"}`; }
      if (title.length > 44) title = title.slice(0, 43) + "…";
      const lines = [];
      const facts = [dtype, shape.length ? shape.join("×") : ""].filter(Boolean).join("  ");
      if (facts && op !== "SINK" && op !== "VALUES" && op !== "CONST" && op !== "RANGE") lines.push(facts);
      const where = r.where(place);
      if (where && op !== "RANGE") lines.push(where);
      const d = { title, lines, kind: op === "CONST" ? "alu" : kindOf(op), src: shown.filter((s, i) => shown.indexOf(s) === i), more: `${op} ${arg} ${dtype}` };
      memo.set(id, d);
      return d;
    };
    return { ids: all.filter(id => !inline.has(id)), describe, ...more };
  }

  node(graph, id, otherwise) {
    if (id === null) { otherwise(); return; }
    const r = this.r, [op, dtype, arg, shape, src, place] = graph.node(id), p = r.place(place);
    const to = s => make("a", { onclick: () => { for (const v of this.views) if (v.layout) v.choose(s, true); this.node(graph, s, otherwise); } }, `${graph.node(s)[0]} ${expression(graph, s, 1)}`.slice(0, 60));
    const line = nodes => nodes.flatMap((n, i) => i ? [make("br"), n] : [n]);
    const users = [...Recording.below(graph)].filter(u => graph.node(u)[4].includes(id));
    const row = (name, ...value) => [make("dt", {}, name), make("dd", {}, ...value)];
    $("details").replaceChildren(make("h2", { id: "node" }, op), make("dl", {}, ...row("type", dtype || "none"), ...(shape.length ? row("shape", shape.join(" × ")) : []), ...(arg ? row("argument", make("code", {}, arg)) : []),
      ...row("value", make("code", {}, expression(graph, id, 6).slice(0, 400))), ...(src.length ? row("sources", ...line(src.map(to))) : []), ...(users.length ? row("used by", ...line(users.slice(0, 30).map(to))) : [])),
      ...(p ? [make("h3", {}, "your line"), make("div", {}, `${p.file}:${p.line} in ${p.name}`), make("pre", { class: "dim" }, p.text || p.called)] : []),
      make("p", {}, make("a", { onclick: () => { for (const v of this.views) v.choose?.(null); otherwise(); } }, "back")));
  }

  // schedules

  schedule() {
    const r = this.r, s = r.schedules[this.current];
    if (!s) { this.empty("No schedule was recorded."); return; }
    const kind = this.sub === "graph" ? "graph" : "kernels";
    const button = (name, text) => make("button", { class: kind === name ? "on" : "", onclick: () => this.go("schedule", this.current, name) }, text);
    const made = s.buffers.filter(b => b.made).length;
    const bar = make("div", { class: "bar" }, make("span", { class: "title" }, `schedule ${this.current} on ${s.device}`), button("kernels", "Kernels and buffers"), button("graph", "Tensor graph"),
      make("span", { class: "dim" }, `${s.items.length} ${s.items.length === 1 ? "item" : "items"}, ${s.buffers.length - made} buffers given, ${made} made`), make("span", { class: "push" }), make("button", { title: "fit   f", onclick: () => this.views.forEach(v => { v.fit?.(); v.draw?.(); }) }, "fit"));
    const views = make("div", { class: "views" });
    $("main").append(bar);
    if (s.error) $("main").append(make("div", { class: "rule warn" }, s.error));
    $("main").append(views);
    if (kind === "graph") {
      if (s.graph < 0) { this.empty("The table of nodes was full."); return; }
      const graph = r.graph(s.graph), view = new GraphView(views, "", id => this.node(graph, id, () => this.about_schedule(s)));
      this.views = [view];
      view.show(this.drawing(graph));
      this.about_schedule(s);
      return;
    }
    // buffers are the versions of their contents, so that what is overwritten is no cycle
    const nodes = [], now = new Map();
    const buffer = slot => {
      if (!now.has(slot)) { now.set(slot, nodes.length); nodes.push({ buffer: slot, src: [], written: 0 }); }
      return now.get(slot);
    };
    s.items.forEach((item, n) => {
      const src = [...new Set(item.reads.map(buffer))];
      const self = nodes.length;
      nodes.push({ item: n, src });
      for (const w of item.writes) {
        const before = now.has(w) && nodes[now.get(w)].written !== undefined ? now.get(w) : null;
        now.set(w, nodes.length);
        nodes.push({ buffer: w, src: [self], written: 1, before });
      }
    });
    const describe = id => {
      const n = nodes[id];
      if (n.item !== undefined) {
        const item = s.items[n.item], t = this.times.get(item.kernel);
        return { title: item.name, lines: [`${n.item}${item.device ? "  " + item.device : ""}${t ? `   ${time(t.total / t.count, 1)}` : ""}`, r.where(item.places[0] ?? -1)].filter(Boolean), kind: "kernel", src: n.src };
      }
      const b = s.buffers[n.buffer];
      const wanted = s.roots.includes(n.buffer) && now.get(n.buffer) === id;
      return { title: `b${n.buffer}`, lines: [`${b.size} ${b.dtype}`, wanted ? "wanted" : b.made ? "" : "given"].filter(Boolean), kind: "memory", round: true, src: n.src };
    };
    const table = make("div", { class: "table" });
    $("main").append(table);
    const view = new GraphView(views, "", id => id !== null && nodes[id].item !== undefined ? this.item(s, nodes[id].item) : id !== null ? this.buffer(s, nodes[id].buffer) : this.about_schedule(s));
    this.views = [view];
    const head = make("tr", {}, ...["", "kernel", "reads", "writes", "mean time", "your line"].map(t => make("th", { class: t === "mean time" ? "num" : "" }, t)));
    const rows = s.items.slice(0, 500).map((item, n) => {
      const t = this.times.get(item.kernel), p = r.place(item.places[0] ?? -1);
      return make("tr", { "data-go": n, onclick: () => { const id = nodes.findIndex(x => x.item === n); view.choose(id, true); this.item(s, n); }, ondblclick: () => item.kernel >= 0 && this.go("kernels", item.kernel) },
        make("td", { class: "num dim" }, String(n)), make("td", {}, item.name), make("td", {}, item.reads.map(b => "b" + b).join(" ")), make("td", {}, item.writes.map(b => "b" + b).join(" ")), make("td", { class: "num" }, t ? time(t.total / t.count, 1) : ""), make("td", { class: "dim" }, p ? `${p.file}:${p.line}` : ""));
    });
    table.append(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
    view.show({ ids: nodes.map((_, i) => i), describe });
    this.about_schedule(s);
  }

  about_schedule(s) {
    $("details").replaceChildren(make("h2", {}, `schedule ${this.current}`), make("dl", {}, make("dt", {}, "device"), make("dd", {}, s.device), make("dt", {}, "wanted"), make("dd", {}, `${s.wanted} ${s.wanted === 1 ? "value" : "values"}`), make("dt", {}, "items"), make("dd", {}, String(s.items.length)), make("dt", {}, "rewrites"), make("dd", {}, `${s.passes.length} ${s.passes.length === 1 ? "pass" : "passes"}`)));
  }

  item(s, n) {
    const r = this.r, item = s.items[n], t = this.times.get(item.kernel);
    const row = (name, ...value) => [make("dt", {}, name), make("dd", {}, ...value)];
    const lines = this.lines(item.places);
    $("details").replaceChildren(make("h2", {}, item.name), make("dl", {}, ...row("device", item.device || "between devices"), ...row("reads", item.reads.map(b => "b" + b).join(" ") || "nothing"), ...row("writes", item.writes.map(b => "b" + b).join(" ")), ...(t ? row("ran", `${t.count}×, ${time(t.total / t.count)} each`) : [])),
      item.kernel >= 0 ? make("p", {}, make("a", { href: `#kernels/${item.kernel}/uops` }, `open kernel ${item.kernel}`)) : make("p", { class: "dim" }, item.kind === "copy" ? "a copy between devices" : "not built while this was recorded"),
      make("h3", {}, lines.length ? "your lines, nearest first" : ""), ...lines.flatMap(p => [make("div", {}, `${p.file}:${p.line} in ${p.name}`), make("pre", { class: "dim" }, p.text || p.called)]));
  }

  // Places, each line once.
  lines(places) {
    const seen = new Map();
    for (const p of places.map(n => this.r.place(n)).filter(Boolean)) if (!seen.has(p.file + ":" + p.line)) seen.set(p.file + ":" + p.line, p);
    return [...seen.values()];
  }

  buffer(s, slot) {
    const b = s.buffers[slot], list = (name, key) => s.items.map((i, n) => [i, n]).filter(([i]) => i[key].includes(slot)).map(([i, n]) => `${n} ${i.name}`).join(", ") || "nobody";
    $("details").replaceChildren(make("h2", {}, `b${slot}`), make("dl", {}, ...[["elements", b.size], ["type", b.dtype], ["device", b.device], ["memory", b.made ? "made for this schedule" : "given"], ["written by", list("", "writes")], ["read by", list("", "reads")]].flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)])));
  }

  // kernels

  kernels() {
    const r = this.r, k = r.kernels[this.current];
    if (!k) { this.empty("No kernel was built while this was recorded."); return; }
    const kind = KERNEL_VIEWS.some(v => v[0] === this.sub) ? this.sub : "uops";
    this.kernelView = kind;
    const bar = make("div", { class: "bar" }, make("span", { class: "title", title: k.name }, `${this.current}  ${k.label}`), make("span", { class: "push" }), ...KERNEL_VIEWS.map(([id, text]) => make("button", { class: id === kind ? "on" : "", onclick: () => this.go("kernels", this.current, id) }, text)));
    $("main").append(bar);
    this.about_kernel(k);
    if (kind === "graph" || kind === "before") {
      const root = kind === "graph" ? k.legal : k.sink;
      if (root < 0) { this.empty("The table of nodes was full."); return; }
      const views = make("div", { class: "views" });
      $("main").append(views);
      const graph = r.graph(root), view = new GraphView(views, kind === "graph" ? "after every rewrite" : "as scheduled", id => this.node(graph, id, () => this.about_kernel(k)));
      const toggle = (name, text) => make("label", {}, make("input", { type: "checkbox", onchange: e => { this.options[name] = e.target.checked; view.folded.clear(); view.show(this.drawing(graph)); }, ...(this.options[name] ? { checked: true } : {}) }), text);
      views.before(make("div", { class: "bar" }, make("span", { class: "dim" }, "double click: fold what only a node needs"), make("span", { class: "push" }), toggle("constants", "constants in labels"), toggle("indices", "indices in labels"), make("button", { title: "fit   f", onclick: () => { view.fit(); view.draw(); } }, "fit")));
      this.views = [view];
      view.show(this.drawing(graph));
    } else this.views = [new Listing($("main"), k[kind], kind)];
  }

  about_kernel(k) {
    const r = this.r, t = this.times.get(this.current), row = (name, ...value) => [make("dt", {}, name), make("dd", {}, ...value)];
    const lines = this.lines(k.places);
    const speed = t && t.operations ? [...row("operations", number(t.operations)), ...row("rate", `${rate(t.operations / (t.total / t.count))} GFLOP/s, ${rate(t.bytes / (t.total / t.count))} GB/s`)] : [];
    $("details").replaceChildren(make("h2", {}, k.label), make("dl", {}, ...row("device", k.device), ...row("target", k.target), ...row("name", make("code", {}, k.name)),
      ...row(k.gpu ? "grid" : "iterations", k.gpu ? `${k.grid.join("×")} workgroups of ${k.block.join("×")}` : `${k.outer}, shared by threads`), ...row("choices", k.choices.length ? k.choices.join(", ") : "none", make("span", { class: "dim" }, ` by ${k.by}`)), ...row("object", `${number(k.bytes)} bytes`),
      ...(t ? row("ran", `${t.count}×, ${time(t.total / t.count)} each`) : row("ran", "not while this was recorded")), ...speed),
      make("h3", {}, `rewrites`), make("ol", {}, ...k.passes.map(p => make("li", {}, make("a", { href: `#rewrites/${p}/1` }, make("span", {}, String(r.passes[p].steps.length || "·")), make("span", {}, this.passName(p)))))),
      make("h3", {}, lines.length ? "your lines, nearest first" : ""), ...lines.flatMap(p => [make("div", {}, `${p.file}:${p.line} in ${p.name}`), make("pre", { class: "dim" }, p.text || p.called)]));
  }

  // Mean times: by the engines' own clock where there is one, else by launches on the CPU.
  kernelTimes() {
    const found = new Map();
    for (const [group, , begin, end, , kernel, facts] of this.r.spans) {
      if (kernel < 0 || group === "compiler") continue;
      const t = found.get(kernel) ?? { total: 0, count: 0, operations: 0, bytes: 0, engine: false };
      if (facts.operations) { t.operations = facts.operations; t.bytes = facts.bytes; }
      if (group !== "host") { t.total += end - begin; t.count++; }
      found.set(kernel, t);
    }
    for (const [k, t] of found) if (!t.count) found.delete(k);
    return found;
  }

  timeline() {
    const r = this.r;
    if (!r.spans.length) { this.empty("Nothing ran while this was recorded."); return; }
    const bar = make("div", { class: "bar" }, make("span", { class: "title" }, `${r.spans.length} spans`), make("span", { class: "dim" }, "wheel: zoom   drag: move   double click: all   w a s d" + (r.uncertainty ? `   the engines' clock is within ${time(r.uncertainty * 1e9)} of the host's` : "")), make("span", { class: "push" }), make("button", { title: "all   f", onclick: () => this.views[0].fit() }, "all"));
    const views = make("div", { class: "views" });
    $("main").append(bar, views);
    const rows = [...this.times.entries()].sort((a, b) => b[1].total - a[1].total).slice(0, 200).map(([n, t]) => {
      const mean = t.total / t.count, p = r.place(r.kernels[n].places[0] ?? -1);
      return make("tr", { "data-go": n, onclick: () => { $("search").value = r.kernels[n].label; this.search(); this.next(1); }, ondblclick: () => this.go("kernels", n) },
        ...[r.kernels[n].label, r.kernels[n].device].map(x => make("td", {}, x)), ...[t.count, time(t.total), time(mean), t.operations ? rate(t.operations / mean) : "", t.bytes ? rate(t.bytes / mean) : ""].map(x => make("td", { class: "num" }, String(x))), make("td", { class: "dim" }, p ? `${p.file}:${p.line}` : ""));
    });
    const head = ["kernel", "device", "runs", "in all", "mean", "GFLOP/s", "GB/s", "your line"].map((x, i) => make("th", { class: i > 1 && i < 7 ? "num" : "" }, x));
    if (rows.length) $("main").append(make("div", { class: "table" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))));
    const view = new Timeline(views, r.spans, s => this.span(s));
    this.views = [view];
    this.span(null);
  }

  span(s) {
    const r = this.r, row = (name, ...value) => [make("dt", {}, name), make("dd", {}, ...value)];
    if (!s) {
      const view = this.views[0], busy = view.rows.map(q => [q, q.spans.reduce((t, x) => t + x.end - x.begin, 0)]);
      $("details").replaceChildren(make("h2", {}, "rows"), make("dl", {}, ...busy.flatMap(([q, t]) => row(q.group, `${q.name}: ${q.spans.length}, busy ${time(t)}`))));
      return;
    }
    const ns = s.end - s.begin;
    $("details").replaceChildren(make("h2", { id: "span" }, s.name), make("dl", {}, ...row("row", `${s.row.group}, ${s.row.name}`), ...row("begin", time(s.begin - this.views[0].first, 3)), ...row("took", time(ns, 3)),
      ...(s.facts.operations && ns ? row("rate", `${rate(s.facts.operations / ns)} GFLOP/s`) : []), ...(s.facts.bytes && ns ? row("memory", `${rate(s.facts.bytes / ns)} GB/s`) : []), ...Object.entries(s.facts).flatMap(([k, v]) => row(k, k === "entry" || k === "address" ? "0x" + Number(v).toString(16) : typeof v === "number" ? number(v) : String(v)))),
      ...(s.kernel >= 0 ? [make("p", {}, make("a", { href: `#kernels/${s.kernel}/uops` }, `open kernel ${s.kernel}`))] : []));
  }

  about() {
    const r = this.r, left = Object.entries(r.left_out), keys = [["1 … 5", "the tabs"], ["← →", "step through a rewrite; Home and End: first and last"], ["↑ ↓", "the list's previous and next entry"], ["/", "search; Enter and Shift+Enter: next and previous; n, N likewise"], ["f", "fit the graph, or all of the time line"], ["b", "before and after side by side, or after alone"], ["c  i", "constants in labels; index arithmetic in labels"], ["u", "unfold everything"], ["d", "hide or show the details"], ["w a s d", "zoom and move the time line"]];
    $("main").append(make("div", { class: "page" }, make("h2", {}, "What this is"), make("p", {}, `A recording of ${r.program}, begun ${r.started}, Python ${r.python}: ${r.schedules.length} schedules, ${r.kernels.length} kernels, ${r.passes.length} rewrites of ${r.passes.reduce((t, p) => t + p.steps.length, 0)} steps by ${r.rules.length} rules, ${r.nodes.length} nodes, ${r.spans.length} spans.`),
      make("h2", {}, "Limits"), make("table", {}, make("tbody", {}, make("tr", {}, ...["", "kept at most", "left out"].map(t => make("th", {}, t))), ...Object.entries(r.limits).map(([k, v]) => make("tr", {}, make("td", {}, k), make("td", { class: "num" }, v.toLocaleString("en")), make("td", { class: "num" + (r.left_out[k] ? " warn" : "") }, (r.left_out[k] ?? 0).toLocaleString("en")))))),
      left.length ? make("p", { class: "warn" }, "Something was left out: record less at once, or raise the limits of compiler.viz.record().") : make("p", { class: "dim" }, "Nothing was left out."),
      ...(r.notes.length ? [make("h2", {}, "Notes"), ...r.notes.map(n => make("p", {}, n))] : []),
      make("h2", {}, "Keys"), make("table", {}, make("tbody", {}, ...keys.map(([k, t]) => make("tr", {}, make("td", {}, make("kbd", {}, k)), make("td", {}, t)))))));
  }

  // searching, keys

  search(fresh = true) {
    const words = $("search").value.trim().toLowerCase(), view = this.views.at(-1);
    const both = this.views.map(v => v.search ? v.search(words) : []);
    this.results = both.at(-1) ?? [];
    if (fresh) this.result = -1;
    $("found").textContent = words && view ? `${this.results.length} found` : "";
  }

  next(by) {
    if (!this.results.length) return;
    this.result = (this.result + by + this.results.length * 2) % this.results.length;
    const hit = this.results[this.result], view = this.views.at(-1);
    if (view instanceof GraphView) { view.choose(hit, true); view.select(hit); }
    else { view.show(hit); if (view instanceof Timeline) this.span(hit); }
    $("found").textContent = `${this.result + 1} of ${this.results.length}`;
  }

  panel() {
    document.body.classList.toggle("wide");
  }

  key(e) {
    if (e.target.tagName === "INPUT" && e.target.type === "search") return;
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const line = this.views[0] instanceof Timeline ? this.views[0] : null, s = this.stepper;
    const act = { ArrowRight: () => s ? s.to(s.step + 1) : line?.pan(0.15), ArrowLeft: () => s ? s.to(s.step - 1) : line?.pan(-0.15), Home: () => s?.to(1), End: () => s?.to(s.steps),
      ArrowDown: () => this.neighbour(1), ArrowUp: () => this.neighbour(-1), "/": () => $("search").focus(), n: () => this.next(1), N: () => this.next(-1),
      f: () => this.views.forEach(v => { v.fit?.(); v.draw?.(); }), u: () => this.views.forEach(v => v.unfold?.()), d: () => line ? line.pan(0.15) : this.panel(), a: () => line?.pan(-0.15), w: () => line?.zoom(0.7), s: () => line?.zoom(1.4),
      b: () => s?.option("both"), c: () => s?.option("constants"), i: () => s?.option("indices") }[e.key];
    const tab = TABS[+e.key - 1];
    if (act || tab) { e.preventDefault(); if (tab) this.go(tab[0]); else act(); }
  }

  neighbour(by) {
    const links = [...$("items").querySelectorAll("a")].filter(a => a.offsetParent), at = links.findIndex(a => a.classList.contains("on"));
    const next = links[at + by];
    if (next) location.hash = next.dataset.to + (this.tab === "kernels" && this.kernelView ? "/" + this.kernelView : "");
  }
}

Recording.load().then(r => { window.app = new App(r); document.body.dataset.ready = "yes"; }).catch(error => {
  document.body.dataset.ready = "failed";
  $("main").append(make("div", { class: "empty warn" }, `This recording cannot be shown: ${error}`));
  throw error;
});
