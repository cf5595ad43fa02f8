"use strict";

// The recording: tables of plain data (compiler/viz/recording.py says what is in them), and graphs made from them.

class Recording {
  constructor(raw) {
    Object.assign(this, raw);
    this.byContent = null;
    this.stepCache = new Map();
  }

  static async load() {
    const packed = atob(document.getElementById("recording").textContent.trim());
    const bytes = Uint8Array.from(packed, c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Recording(await new Response(stream).json());
  }

  static key(op, dtype, arg, src) { return op + "\0" + dtype + "\0" + arg + "\0" + src.join(","); }

  place(number) { return number >= 0 ? this.places[number] : null; }

  where(number) {
    const place = this.place(number);
    return place ? place.file.split(/[\\/]/).pop() + ":" + place.line : "";
  }

  // A graph to look at: nodes by number, and the root.
  graph(root, extra = []) {
    const base = this.nodes.length;
    return { root, node: id => id < base ? this.nodes[id] : extra[id - base] };
  }

  // The graph of a pass after some steps: nodes are built again from their sources, and one that a step has replaced
  // is what the step made of it, looked at in the same way. As recording.replayed does it.
  replay(number, steps) {
    const pass = this.passes[number];
    if (!this.byContent) {
      this.byContent = new Map();
      this.nodes.forEach((n, i) => this.byContent.set(Recording.key(n[0], n[1], n[2], n[4]), i));
    }
    const base = this.nodes.length, extra = [], mine = new Map(), instead = new Map();
    const get = id => id < base ? this.nodes[id] : extra[id - base];
    for (let i = 0; i < steps; i++) instead.set(pass.steps[i][0], pass.steps[i][1]);
    const done = new Map(), waiting = new Set(), stack = [pass.before];
    while (stack.length) {
      const id = stack[stack.length - 1];
      if (done.has(id)) { stack.pop(); continue; }
      const node = get(id), more = node[4].filter(s => !done.has(s));
      if (more.length) { stack.push(...more); continue; }
      const src = node[4].map(s => done.get(s)), key = Recording.key(node[0], node[1], node[2], src);
      let now = this.byContent.get(key) ?? mine.get(key);
      if (now === undefined) {
        now = base + extra.length;
        mine.set(key, now);
        extra.push([node[0], node[1], node[2], node[3], src, node[5]]);
      }
      const next = instead.get(now) ?? now;
      if (next !== now && !waiting.has(next) && next !== id) {
        if (!done.has(next)) { waiting.add(id); stack.push(next); continue; }
        now = done.get(next);
      }
      waiting.delete(id);
      done.set(id, now);
    }
    return this.graph(done.get(pass.before), extra);
  }

  // Numbers of all nodes of a graph, sources first.
  static below(graph) {
    const done = new Set(), stack = [graph.root];
    while (stack.length) {
      const id = stack[stack.length - 1];
      const more = done.has(id) ? [] : graph.node(id)[4].filter(s => !done.has(s));
      if (more.length) stack.push(...more);
      else { done.add(id); stack.pop(); }
    }
    return done;
  }
}

const MOVES = new Set("RESHAPE PERMUTE EXPAND PAD SHRINK FLIP WINDOW".split(" "));
const MEMORY = new Set("BUFFER PARAM INDEX LOAD STORE SHARED COPY CONTIGUOUS ASSIGN DETACH MULTI".split(" "));
const REDUCES = new Set("REDUCE REDUCE_AXIS FOLD WMMA".split(" "));
const CONTROL = new Set("RANGE SINK VALUES BARRIER AFTER CARRY VARIABLE VECTOR ELEMENT".split(" "));
const INFIX = { ADD: "+", MUL: "*", IDIV: "//", MOD: "%", CMPLT: "<", CMPEQ: "==", CMPNE: "!=", AND: "&", OR: "|",
  XOR: "^", SHL: "<<", SHR: ">>", FDIV: "/" };

function kindOf(op) {
  return MOVES.has(op) ? "move" : MEMORY.has(op) ? "memory" : REDUCES.has(op) ? "reduce" : CONTROL.has(op) ? "control" : "alu";
}

// A short expression for a node: what stands in a label for what is not drawn.
function expression(graph, id, depth = 4) {
  const [op, , arg, , src] = graph.node(id);
  if (op === "CONST" || op === "IOTA") return arg;
  if (op === "PARAM") return "p" + arg;
  if (op === "RANGE") return "r" + (arg.match(/\d+/) || ["?"])[0];
  if (op === "VARIABLE") return arg.split(/['"]/)[1] ?? arg;
  if (depth === 0) return "…";
  const parts = src.map(s => expression(graph, s, depth - 1));
  if (op === "INDEX") return `${parts[0]}[${parts[1]}]`;
  if (INFIX[op] && parts.length === 2) return `(${parts.join(" " + INFIX[op] + " ")})`;
  return `${op.toLowerCase()}(${parts.join(", ")})`;
}
