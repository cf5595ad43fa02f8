"use strict";

// A layered layout of a directed graph without cycles: users below, sources above, each just over what uses it.
//
// ranks by the longest way from the roots; long edges go through points in the layers between; order within a layer by
// the mean of the neighbours, a few sweeps each way; places as near to the neighbours' mean as order and gaps allow,
// which is an isotonic regression (pool adjacent violators).

const GAP_X = 18, GAP_Y = 34, MOST_POINTS = 9000;

function layered(ids, sourcesOf, sizeOf) {
  const users = new Map(ids.map(id => [id, []]));
  for (const id of ids) for (const s of new Set(sourcesOf(id))) if (users.has(s)) users.get(s).push(id);
  const rank = new Map();
  for (let i = ids.length - 1; i >= 0; i--) {        // ids come sources first
    let r = 0;
    for (const u of users.get(ids[i])) r = Math.max(r, rank.get(u) + 1);
    rank.set(ids[i], r);
  }
  const items = [], item = new Map(), layers = [];
  const add = (id, r, w, h) => {
    const it = { id, rank: r, w, h, x: 0, y: 0, up: [], down: [], at: 0 };
    items.push(it);
    (layers[r] ??= []).push(it);
    return it;
  };
  for (const id of ids) { const { w, h } = sizeOf(id); item.set(id, add(id, rank.get(id), w, h)); }
  const edges = [];
  let points = 0;
  for (const id of ids) for (const s of new Set(sourcesOf(id))) {
    const from = item.get(s), to = item.get(id);
    if (!from) continue;
    const through = [];
    let last = to;
    if (points < MOST_POINTS) for (let r = to.rank + 1; r < from.rank; r++) {
      const p = add(null, r, 2, 0);
      points++;
      last.up.push(p); p.down.push(last);
      through.push(p);
      last = p;
    }
    last.up.push(from); from.down.push(last);
    edges.push({ from, to, through: through.reverse() });
  }
  for (const layer of layers) layer.forEach((it, i) => it.at = i);
  const mean = (list, get) => { let t = 0; for (const n of list) t += get(n); return t / list.length; };
  const sweep = (layer, side) => {
    for (const it of layer) it.want = it[side].length ? mean(it[side], n => n.at / Math.max(layers[n.rank].length, 1)) : it.at / layer.length;
    layer.sort((a, b) => a.want - b.want || a.at - b.at);
    layer.forEach((it, i) => it.at = i);
  };
  for (let turn = 0; turn < 8; turn++) {
    if (turn % 2) for (let r = layers.length - 2; r >= 0; r--) sweep(layers[r], "up");
    else for (let r = 1; r < layers.length; r++) sweep(layers[r], "down");
  }
  for (const layer of layers) {       // left edges, side by side
    let x = 0;
    for (const it of layer) { it.x = x; x += it.w + GAP_X; }
    for (const it of layer) it.x -= x / 2;
  }
  const settle = (layer, side) => {
    const blocks = [];
    let offset = 0;
    for (const it of layer) {
      const near = it[side].length ? it[side] : null;
      const want = near ? mean(near, n => n.x + n.w / 2) - it.w / 2 : it.x;
      const block = { sum: (want - offset) * (near ? 1 : 0.2), weight: near ? 1 : 0.2, items: [[it, offset]] };
      offset += it.w + (it.id === null ? GAP_X / 2 : GAP_X);
      while (blocks.length && blocks.at(-1).sum / blocks.at(-1).weight >= block.sum / block.weight) {
        const before = blocks.pop();
        block.sum += before.sum;
        block.weight += before.weight;
        block.items = before.items.concat(block.items);
      }
      blocks.push(block);
    }
    for (const b of blocks) for (const [it, off] of b.items) it.x = b.sum / b.weight + off;
  };
  const turns = items.length > 4000 ? 4 : 10;
  for (let turn = 0; turn < turns; turn++) {
    for (let r = 1; r < layers.length; r++) settle(layers[r], "down");
    for (let r = layers.length - 2; r >= 0; r--) settle(layers[r], "up");
  }
  for (let r = 1; r < layers.length; r++) settle(layers[r], "down");
  let y = 0;
  for (let r = layers.length - 1; r >= 0; r--) {
    const h = Math.max(...layers[r].map(it => it.h), 8);
    for (const it of layers[r]) it.y = y + (h - it.h) / 2;
    y += h + GAP_Y;
  }
  let left = Infinity, right = -Infinity;
  for (const it of items) { left = Math.min(left, it.x); right = Math.max(right, it.x + it.w); }
  return { items: item, edges, left, right, top: 0, bottom: y - GAP_Y };
}
