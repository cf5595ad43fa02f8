"use strict";

// A text, a line a row, with a little colour; search marks lines.

const PATTERNS = {
  uops: [[/#.*$/, "c"], [/\b(for|end|in)\b/, "k"], [/\b[A-Z][A-Z0-9_]+\b/, "r"], [/(?<![\w%])-?\d[\w.]*/, "n"]],
  ir: [[/;.*$/, "c"], [/\b(define|declare|call|ret|br|phi|load|store|getelementptr|icmp|fcmp|select|fadd|fmul|add|mul|target|attributes)\b/, "k"], [/[%@][\w.]+/, "r"], [/\b(0x[0-9A-Fa-f]+|\d+)\b/, "n"]],
  asm: [[/[;#].*$/, "c"], [/^\s*[0-9a-f]+(?=\s\s)/, "c"], [/\b[sv]\d+\b|\b[sv]\[\d+:\d+\]|%\w+|\b(vcc_lo|exec_lo|vcc|exec|null|m0|scc)\b/, "r"], [/(?<=^\s*([0-9a-f]+\s\s)?)\b[a-z][\w.]*(?=\s|$)/, "k"], [/\b0x[0-9a-f]+\b|\$-?\w+/, "n"]],
};

class Listing {
  constructor(parent, text, kind) {
    this.box = document.createElement("div");
    this.box.className = "listing";
    this.lines = text.split("\n");
    const parts = document.createDocumentFragment();
    this.rows = this.lines.map((line, n) => {
      const row = document.createElement("div");
      row.dataset.n = n + 1;
      Listing.paint(row, line, PATTERNS[kind] ?? []);
      parts.append(row);
      return row;
    });
    this.box.append(parts);
    parent.append(this.box);
  }

  static paint(row, line, patterns) {
    while (line) {
      let best = null;
      for (const [pattern, name] of patterns) {
        const m = pattern.exec(line);
        if (m && m[0] && (!best || m.index < best.at)) best = { at: m.index, text: m[0], name };
      }
      if (!best) { row.append(line); return; }
      row.append(line.slice(0, best.at));
      const span = document.createElement("span");
      span.className = best.name;
      span.textContent = best.text;
      row.append(span);
      line = line.slice(best.at + best.text.length);
    }
  }

  close() {}

  search(words) {
    const found = [];
    this.rows.forEach((row, i) => {
      const hit = words !== "" && this.lines[i].toLowerCase().includes(words);
      row.classList.toggle("hit", hit);
      row.classList.remove("now");
      if (hit) found.push(i);
    });
    return found;
  }

  show(line) {
    for (const row of this.rows) row.classList.remove("now");
    this.rows[line].classList.add("now");
    this.rows[line].scrollIntoView({ block: "center" });
  }
}
