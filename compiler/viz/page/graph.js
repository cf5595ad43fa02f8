"use strict";

// A graph on a canvas: drag to move, wheel to zoom, click for details, double click to fold what only this node needs.

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const NODE_FONT = "600 12px system-ui, sans-serif", SMALL_FONT = "11px system-ui, sans-serif";

class GraphView {
  // describe(id) -> {title, lines, kind, src}; select(id) is called for a click, and open(id) for Enter
  constructor(parent, tag, select) {
    this.box = document.createElement("div");
    this.box.className = "view";
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.tag = document.createElement("span");
    this.tag.className = "tag";
    this.box.append(this.canvas, this.tag);
    parent.append(this.box);
    this.tagText = tag;
    this.select = select;
    this.folded = new Set();
    this.marks = new Map();
    this.hits = new Set();
    this.chosen = null;
    this.scale = 1; this.dx = 0; this.dy = 0;
    this.layout = null;
    this.watch = new ResizeObserver(() => { if (this.unfit && this.layout) this.home(); this.draw(); });
    this.watch.observe(this.box);
    this.listen();
  }

  close() { this.watch.disconnect(); }

  show({ ids, describe, marks = new Map(), focus = [] }) {
    this.all = ids;
    this.describe = describe;
    this.marks = marks;
    this.focus = focus;
    this.arrange();
    this.home();
    this.draw();
  }

  // What is drawn: everything that the last nodes reach without going through a folded one.
  arrange() {
    const text = document.createElement("canvas").getContext("2d");
    const known = new Map(), users = new Map();
    for (const id of this.all) {
      const d = this.describe(id);
      known.set(id, d);
      for (const s of d.src) users.set(s, (users.get(s) ?? 0) + 1);
    }
    const inside = new Set(this.all), reached = new Set();
    const reach = (stack, into, folded) => {
      while (stack.length) {
        const id = stack.pop();
        if (into.has(id) || !inside.has(id)) continue;
        into.add(id);
        if (!folded.has(id)) stack.push(...known.get(id).src);
      }
    };
    reach(this.all.filter(id => !users.has(id)), reached, this.folded);
    this.hidden = new Map();
    for (const id of this.folded) if (reached.has(id)) {
      const under = new Set();
      reach([...known.get(id).src], under, new Set());
      let n = 0;
      for (const u of under) if (!reached.has(u)) n++;
      this.hidden.set(id, n);
    }
    const ids = this.all.filter(id => reached.has(id));
    const size = id => {
      const d = known.get(id);
      text.font = NODE_FONT;
      let w = text.measureText(d.title).width;
      text.font = SMALL_FONT;
      for (const line of d.lines) w = Math.max(w, text.measureText(line).width);
      return { w: Math.ceil(w) + 18, h: 23 + 14 * d.lines.length };
    };
    this.known = known;
    this.layout = layered(ids, id => this.folded.has(id) ? [] : known.get(id).src, size);
    this.tag.textContent = `${this.tagText}${this.tagText ? ": " : ""}${ids.length}${ids.length < this.all.length ? " of " + this.all.length : ""} nodes`;
  }

  get size() { return [this.canvas.clientWidth, this.canvas.clientHeight]; }

  fit() {
    const [w, h] = this.size, l = this.layout;
    if (!w || !l.items.size) { this.unfit = true; return; }
    this.unfit = false;
    this.scale = Math.min(1.25, (w - 40) / (l.right - l.left + 1), (h - 60) / (l.bottom - l.top + 1));
    this.scale = Math.max(this.scale, 0.02);
    this.dx = w / 2 - this.scale * (l.left + l.right) / 2;
    this.dy = (h + 20) / 2 - this.scale * (l.top + l.bottom) / 2;
  }

  // Everything, if it can be read; else what changed.
  home() {
    this.fit();
    const focus = this.focus.filter(id => this.layout.items.has(id));
    if (this.scale < 0.55 && focus.length) this.centre(focus, 0.9);
    else if (this.scale < 0.4) { this.scale = 0.55; this.place(this.layout.items.get(this.all.at(-1)), 0.5, 0.85); }
  }

  place(it, fx, fy) {
    if (!it) return;
    const [w, h] = this.size;
    this.dx = w * fx - this.scale * (it.x + it.w / 2);
    this.dy = h * fy - this.scale * (it.y + it.h / 2);
  }

  centre(ids, scale = Math.max(this.scale, 0.8)) {
    this.scale = scale;
    const items = ids.map(id => this.layout.items.get(id)).filter(Boolean);
    if (!items.length) return;
    const x = items.reduce((t, i) => t + i.x + i.w / 2, 0) / items.length;
    const y = items.reduce((t, i) => t + i.y + i.h / 2, 0) / items.length;
    const near = items.reduce((a, b) => Math.hypot(a.x - x, a.y - y) < Math.hypot(b.x - x, b.y - y) ? a : b);
    this.place(near, 0.5, 0.5);
  }

  choose(id, centre = false) {
    this.chosen = id;
    if (centre) {
      if (!this.layout.items.has(id)) { this.folded.clear(); this.arrange(); }
      this.centre([id]);
    }
    this.draw();
  }

  search(words) {
    this.hits = new Set();
    if (words) for (const id of this.all) {
      const d = this.known.get(id);
      if ([d.title, ...d.lines, d.more ?? ""].join(" ").toLowerCase().includes(words)) this.hits.add(id);
    }
    this.draw();
    return [...this.hits];
  }

  fold(id) {
    const it = this.layout.items.get(id);
    const x = it.x * this.scale + this.dx, y = it.y * this.scale + this.dy;
    if (!this.folded.delete(id) && this.known.get(id).src.length) this.folded.add(id);
    this.arrange();
    const now = this.layout.items.get(id);
    this.dx = x - now.x * this.scale;
    this.dy = y - now.y * this.scale;
    this.draw();
  }

  unfold() { this.folded.clear(); this.arrange(); this.home(); this.draw(); }

  at(px, py) {
    const x = (px - this.dx) / this.scale, y = (py - this.dy) / this.scale;
    for (const [id, it] of this.layout.items) if (x >= it.x && x <= it.x + it.w && y >= it.y && y <= it.y + it.h) return id;
    return null;
  }

  listen() {
    let from = null, moved = false;
    const c = this.canvas;
    c.addEventListener("pointerdown", e => { from = [e.offsetX - this.dx, e.offsetY - this.dy, e.offsetX, e.offsetY]; moved = false; c.setPointerCapture(e.pointerId); });
    c.addEventListener("pointermove", e => {
      if (!from) { c.style.cursor = this.layout && this.at(e.offsetX, e.offsetY) !== null ? "pointer" : "grab"; return; }
      if (Math.hypot(e.offsetX - from[2], e.offsetY - from[3]) > 3) moved = true;
      if (moved) { this.dx = e.offsetX - from[0]; this.dy = e.offsetY - from[1]; c.style.cursor = "grabbing"; this.draw(); }
    });
    c.addEventListener("pointerup", e => {
      if (from && !moved && this.layout) { const id = this.at(e.offsetX, e.offsetY); this.choose(id); this.select(id); }
      from = null;
    });
    c.addEventListener("dblclick", e => { const id = this.at(e.offsetX, e.offsetY); if (id !== null) this.fold(id); });
    c.addEventListener("wheel", e => {
      e.preventDefault();
      const factor = Math.exp(-Math.max(-120, Math.min(120, e.deltaY)) * 0.0022);
      const next = Math.max(0.02, Math.min(4, this.scale * factor)), f = next / this.scale;
      this.dx = e.offsetX - (e.offsetX - this.dx) * f;
      this.dy = e.offsetY - (e.offsetY - this.dy) * f;
      this.scale = next;
      this.draw();
    }, { passive: false });
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.paint(); });
  }

  paint() {
    const [w, h] = this.size, ratio = devicePixelRatio || 1, c = this.canvas;
    if (!w || !this.layout) return;
    if (c.width !== Math.round(w * ratio) || c.height !== Math.round(h * ratio)) { c.width = Math.round(w * ratio); c.height = Math.round(h * ratio); }
    const g = c.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    g.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.dx, ratio * this.dy);
    const left = -this.dx / this.scale, top = -this.dy / this.scale, right = left + w / this.scale, bottom = top + h / this.scale;
    const colour = Object.fromEntries(["paper", "ink", "dim", "edge", "accent", "new", "old", "hit", "memory", "move", "alu", "reduce", "control", "kernel"].map(n => [n, css("--" + n)]));
    const seen = (x0, y0, x1, y1) => x1 >= left && x0 <= right && y1 >= top && y0 <= bottom;
    const chosen = this.chosen === null ? null : this.layout.items.get(this.chosen);
    g.lineWidth = Math.max(1, 0.7 / this.scale);
    for (const strong of [false, true]) {
      g.strokeStyle = strong ? colour.accent : colour.edge;
      g.beginPath();
      for (const { from, to, through } of this.layout.edges) {
        if ((chosen !== null && (from === chosen || to === chosen)) !== strong) continue;
        const x0 = Math.min(from.x, to.x, ...through.map(p => p.x)), x1 = Math.max(from.x + from.w, to.x + to.w, ...through.map(p => p.x));
        if (!seen(x0, from.y, x1, to.y)) continue;
        let x = from.x + from.w / 2, y = from.y + from.h;
        g.moveTo(x, y);
        for (const p of [...through, { x: to.x, w: to.w, y: to.y }]) {
          const nx = p.x + p.w / 2, ny = p.y, mid = (y + ny) / 2;
          g.bezierCurveTo(x, mid, nx, mid, nx, ny);
          x = nx; y = ny;
        }
      }
      g.stroke();
    }
    g.textBaseline = "middle";
    for (const [id, it] of this.layout.items) {
      if (!seen(it.x - 4, it.y - 4, it.x + it.w + 4, it.y + it.h + 4)) continue;
      const d = this.known.get(id), mark = this.marks.get(id);
      g.beginPath();
      g.roundRect(it.x, it.y, it.w, it.h, d.round ? it.h / 2 : 5);
      g.fillStyle = colour[d.kind] ?? colour.alu;
      g.fill();
      g.lineWidth = mark ? (mark.endsWith("weak") ? 1.5 : 3) : 1;
      g.strokeStyle = mark ? colour[mark.slice(0, 3)] : colour.edge;
      g.setLineDash(mark?.endsWith("weak") ? [4, 3] : []);
      g.stroke();
      g.setLineDash([]);
      if (this.hits.has(id) || id === this.chosen) {
        g.beginPath();
        g.roundRect(it.x - 4, it.y - 4, it.w + 8, it.h + 8, 8);
        g.lineWidth = 2.5;
        g.strokeStyle = id === this.chosen ? colour.accent : colour.hit;
        g.stroke();
      }
      if (this.scale > 0.3) {
        g.fillStyle = colour.ink;
        g.font = NODE_FONT;
        g.fillText(d.title, it.x + 9, it.y + 12.5);
        g.font = SMALL_FONT;
        g.fillStyle = colour.dim;
        d.lines.forEach((line, i) => g.fillText(line, it.x + 9, it.y + 27 + 14 * i));
      }
      if (this.hidden.has(id)) {
        const text = `+${this.hidden.get(id)}`;
        g.font = NODE_FONT;
        const tw = g.measureText(text).width + 12;
        g.beginPath();
        g.roundRect(it.x + it.w / 2 - tw / 2, it.y - 15, tw, 17, 8);
        g.fillStyle = colour.accent;
        g.fill();
        g.fillStyle = colour.paper;
        g.fillText(text, it.x + it.w / 2 - tw / 2 + 6, it.y - 6);
      }
    }
  }
}
