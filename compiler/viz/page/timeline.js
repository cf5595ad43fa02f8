"use strict";

// Who ran when: a row an engine, wheel to zoom at the pointer, drag to move, click for details.

const ROW = 26, HEAD = 26, NAMES = 196, SPAN_FONT = "11px system-ui, sans-serif";

function time(ns, digits = 2) {
  const a = Math.abs(ns);
  return a < 1e3 ? ns.toFixed(0) + " ns" : a < 1e6 ? (ns / 1e3).toFixed(digits) + " µs" : a < 1e9 ? (ns / 1e6).toFixed(digits) + " ms" : (ns / 1e9).toFixed(digits + 1) + " s";
}

class Timeline {
  constructor(parent, spans, select) {
    this.box = document.createElement("div");
    this.box.className = "view";
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.box.append(this.canvas, this.tip);
    parent.append(this.box);
    this.select = select;
    const order = ["compiler", "host", "CPU"], rows = new Map();
    spans.forEach((s, i) => {
      const key = s[0] + "\0" + s[1];
      if (!rows.has(key)) rows.set(key, { group: s[0], name: s[1], spans: [] });
      rows.get(key).spans.push({ begin: s[2], end: Math.max(s[3], s[2]), name: s[4], kernel: s[5], facts: s[6], number: i, row: null });
    });
    const place = g => order.includes(g) ? order.indexOf(g) : 9;
    this.rows = [...rows.values()].sort((a, b) => place(a.group) - place(b.group) || a.group.localeCompare(b.group) || a.name.localeCompare(b.name, undefined, { numeric: true }));
    for (const row of this.rows) { row.spans.sort((a, b) => a.begin - b.begin); for (const s of row.spans) s.row = row; }
    const all = this.rows.flatMap(r => r.spans);
    this.first = Math.min(...all.map(s => s.begin).slice(0, 1), all.reduce((m, s) => Math.min(m, s.begin), Infinity));
    this.last = all.reduce((m, s) => Math.max(m, s.end), -Infinity);
    this.hits = new Set();
    this.chosen = null;
    this.top = 0;
    this.from = this.first; this.to = this.last;
    this.fit();
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.box);
    this.listen();
  }

  close() { this.watch.disconnect(); }
  get width() { return Math.max(this.canvas.clientWidth - NAMES, 50); }
  x(t) { return NAMES + (t - this.from) / (this.to - this.from) * this.width; }
  t(x) { return this.from + (x - NAMES) / this.width * (this.to - this.from); }

  fit() {
    const slack = (this.last - this.first) * 0.02 + 1;
    this.from = this.first - slack; this.to = this.last + slack;
    this.draw();
  }

  zoom(factor, x = NAMES + this.width / 2) {
    const at = this.t(x), whole = this.last - this.first + 1;
    const length = Math.max(20, Math.min(whole * 3, (this.to - this.from) * factor)), share = (at - this.from) / (this.to - this.from);
    this.from = at - length * share;
    this.to = this.from + length;
    this.draw();
  }

  pan(share) { const d = (this.to - this.from) * share; this.from += d; this.to += d; this.draw(); }

  show(span) {
    const length = Math.max((span.end - span.begin) * 12, (this.last - this.first) / 1e5);
    if (this.to - this.from > length * 20 || span.begin < this.from || span.end > this.to) {
      this.from = (span.begin + span.end) / 2 - length / 2;
      this.to = this.from + length;
    }
    this.chosen = span;
    this.draw();
  }

  search(words) {
    const found = words ? this.rows.flatMap(r => r.spans).filter(s => s.name.toLowerCase().includes(words)).sort((a, b) => a.begin - b.begin) : [];
    this.hits = new Set(found);
    this.draw();
    return found;
  }

  at(px, py) {
    const row = this.rows[Math.floor((py - HEAD + this.top) / ROW)];
    if (!row || px < NAMES || py < HEAD) return null;
    let best = null;
    for (const s of row.spans) {
      const a = this.x(s.begin), b = Math.max(this.x(s.end), a + 2);
      if (px >= a - 1 && px <= b + 1) best = s;
      if (a > px + 2) break;
    }
    return best;
  }

  listen() {
    let from = null, moved = false;
    const c = this.canvas;
    c.addEventListener("pointerdown", e => { from = [e.offsetX, e.offsetY, this.from, this.to, this.top]; moved = false; c.setPointerCapture(e.pointerId); });
    c.addEventListener("pointermove", e => {
      if (!from) {
        const s = this.at(e.offsetX, e.offsetY);
        this.tip.hidden = !s;
        if (s) {
          this.tip.textContent = `${s.name}: ${time(s.end - s.begin)}, at ${time(s.begin - this.first)}`;
          this.tip.style.left = Math.min(e.offsetX + 12, c.clientWidth - this.tip.offsetWidth - 6) + "px";
          this.tip.style.top = e.offsetY + 16 + "px";
        }
        return;
      }
      if (Math.abs(e.offsetX - from[0]) + Math.abs(e.offsetY - from[1]) > 3) moved = true;
      const d = (e.offsetX - from[0]) / this.width * (from[3] - from[2]);
      this.from = from[2] - d; this.to = from[3] - d;
      this.top = Math.max(0, Math.min(from[4] - (e.offsetY - from[1]), this.rows.length * ROW + HEAD - c.clientHeight));
      this.draw();
    });
    c.addEventListener("pointerup", e => {
      if (from && !moved) { this.chosen = this.at(e.offsetX, e.offsetY); this.select(this.chosen); this.draw(); }
      from = null;
    });
    c.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    c.addEventListener("dblclick", () => this.fit());
    c.addEventListener("wheel", e => {
      e.preventDefault();
      if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) this.pan(e.deltaX / this.width);
      else this.zoom(Math.exp(Math.max(-120, Math.min(120, e.deltaY)) * 0.003), Math.max(e.offsetX, NAMES));
    }, { passive: false });
  }

  static hue(text) { let h = 7; for (const ch of text) h = (h * 31 + ch.charCodeAt(0)) % 360; return h; }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.paint(); });
  }

  paint() {
    const c = this.canvas, w = c.clientWidth, h = c.clientHeight, ratio = devicePixelRatio || 1;
    if (!w) return;
    if (c.width !== Math.round(w * ratio) || c.height !== Math.round(h * ratio)) { c.width = Math.round(w * ratio); c.height = Math.round(h * ratio); }
    const g = c.getContext("2d"), ink = css("--ink"), dim = css("--dim"), line = css("--line"), paper = css("--paper"), panel = css("--panel");
    const light = css("--bar");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    g.textBaseline = "middle";
    g.font = SPAN_FONT;
    const rough = (this.to - this.from) / (this.width / 110), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(k => k * power).find(k => k >= rough);
    for (let t = Math.ceil((this.from - this.first) / step) * step; t + this.first < this.to; t += step) {
      const x = this.x(t + this.first);
      if (x < NAMES) continue;
      g.fillStyle = line;
      g.fillRect(x, HEAD - 6, 1, h);
      g.fillStyle = dim;
      g.fillText(time(t, step < 100 ? 0 : step < 1e3 ? 1 : Math.max(0, -Math.floor(Math.log10(step / (10 ** (3 * Math.min(3, Math.floor(Math.log10(Math.max(Math.abs(t), step)) / 3))))) + 1e-9))), x + 4, HEAD - 14);
    }
    let group = null;
    this.drawn = 0;
    this.rows.forEach((row, n) => {
      const y = HEAD + n * ROW - this.top;
      if (y < HEAD - ROW || y > h) return;
      if (n % 2) { g.fillStyle = panel; g.globalAlpha = 0.6; g.fillRect(NAMES, y, w, ROW); g.globalAlpha = 1; }
      let last = -1;
      for (const s of row.spans) {
        if (s.end < this.from) continue;
        if (s.begin > this.to) break;
        const a = Math.max(this.x(s.begin), NAMES), b = Math.min(Math.max(this.x(s.end), a + 1), w);
        if (b <= last && b - a <= 1 && s !== this.chosen && !this.hits.has(s)) continue;
        last = b;
        this.drawn++;
        const hit = this.hits.has(s);
        g.globalAlpha = this.hits.size && !hit ? 0.3 : 1;
        g.fillStyle = `hsl(${Timeline.hue(s.name)} 52% ${light})`;
        g.fillRect(a, y + 3, b - a - (b - a > 4 ? 0.5 : 0), ROW - 6);
        if (s === this.chosen || hit) { g.strokeStyle = s === this.chosen ? ink : css("--hit"); g.lineWidth = 2; g.strokeRect(a, y + 3, Math.max(b - a, 2), ROW - 6); }
        if (b - a > 34) {
          g.save();
          g.beginPath();
          g.rect(a, y, b - a - 3, ROW);
          g.clip();
          g.fillStyle = light.startsWith("4") ? "#ffffff" : "#10151c";
          g.fillText(s.name, a + 5, y + ROW / 2 + 0.5);
          g.restore();
        }
        g.globalAlpha = 1;
      }
      g.fillStyle = paper;
      g.fillRect(0, y, NAMES, ROW);
      g.fillStyle = dim;
      g.fillText(row.name, row.group === row.name ? 12 : 82, y + ROW / 2);
      if (row.group !== group || n === 0) { g.fillStyle = ink; g.font = "600 12px system-ui, sans-serif"; g.fillText(row.group, 12, y + ROW / 2); g.font = SPAN_FONT; }
      group = row.group;
    });
    g.fillStyle = line;
    g.fillRect(NAMES - 1, 0, 1, h);
    g.fillRect(0, HEAD - 1, w, 1);
    g.fillStyle = paper;
    g.fillRect(0, 0, NAMES - 1, HEAD - 1);
  }
}
