// Lays out big graphs in about linear time, where Netron's dagre would take minutes. As Sugiyama does it: rank the
// nodes, cut long edges into bends, order each rank, then set everything as near to its neighbours as there is room.
export const LIMIT = 600; // nodes; below, dagre is quick and finer
const SWEEPS = 4;
const PULL = 0.1; // to the middle, where an edge pulls with 1
const LONGEST = 40; // ranks; a longer edge goes straight, as its bends would outnumber the nodes

// Takes what dagre.layout takes, and writes x and y of nodes and the points of edges into the same objects.
export function layout(nodes, edges, { nodesep, ranksep, rankdir }) {
  const sideways = rankdir === 'LR';
  const groups = new Set(nodes.map((node) => node.parent));
  const cells = new Map();
  for (const node of nodes) {
    if (groups.has(node.v)) continue;
    const [breadth, depth] = sideways ? [node.height, node.width] : [node.width, node.height];
    cells.set(node.v, { node, breadth, depth, rank: 0, x: 0, above: [], below: [] });
  }
  const links = edges.map((edge) => ({ edge, from: cells.get(edge.v), to: cells.get(edge.w) }));
  const known = links.filter(({ from, to }) => from && to && from !== to);
  setRanks([...cells.values()], known);
  const ranks = cutLongEdges([...cells.values()], known);
  order(ranks);
  setBreadthwise(ranks, nodesep);
  const rows = setDepthwise(ranks, 2 * ranksep);
  const point = (x, y) => (sideways ? { x: y, y: x } : { x, y });
  for (const cell of cells.values()) Object.assign(cell.node, point(cell.x, rows[cell.rank].middle));
  for (const link of links) setPoints(link, rows, ranksep, point);
  enclose(nodes, groups);
}

function setRanks(cells, links) {
  const next = new Map(cells.map((cell) => [cell, []]));
  for (const link of links) next.get(link.from).push(link);
  turnCycles(cells, next);
  const waiting = new Map(cells.map((cell) => [cell, 0]));
  for (const link of links) {
    link.start = link.turned ? link.to : link.from;
    link.end = link.turned ? link.from : link.to;
    waiting.set(link.end, waiting.get(link.end) + 1);
  }
  const leaving = new Map(cells.map((cell) => [cell, []]));
  for (const link of links) leaving.get(link.start).push(link.end);
  const sources = cells.filter((cell) => waiting.get(cell) === 0);
  const queue = [...sources];
  for (let index = 0; index < queue.length; index++) {
    for (const end of leaving.get(queue[index])) {
      end.rank = Math.max(end.rank, queue[index].rank + 1);
      waiting.set(end, waiting.get(end) - 1);
      if (waiting.get(end) === 0) queue.push(end);
    }
  }
  for (const source of sources) { // inputs and constants stand beside what uses them
    const ends = leaving.get(source);
    if (ends.length > 0) source.rank = ends.reduce((least, end) => Math.min(least, end.rank), Infinity) - 1;
  }
}

// Marks the edges that close a cycle, by a search in depth that needs no call stack.
function turnCycles(cells, next) {
  const state = new Map();
  for (const root of cells) {
    const path = state.has(root) ? [] : [{ cell: root, index: 0 }];
    if (path.length > 0) state.set(root, 'open');
    while (path.length > 0) {
      const top = path[path.length - 1];
      const link = next.get(top.cell)[top.index++];
      if (!link) {
        state.set(top.cell, 'done');
        path.pop();
      } else if (state.get(link.to) === 'open') {
        link.turned = true;
      } else if (!state.has(link.to)) {
        state.set(link.to, 'open');
        path.push({ cell: link.to, index: 0 });
      }
    }
  }
}

function cutLongEdges(cells, links) {
  const ranks = [];
  const put = (cell) => (ranks[cell.rank] ??= []).push(cell);
  cells.forEach(put);
  for (const link of links) {
    const { start, end } = link;
    link.bends = [];
    if (end.rank - start.rank > LONGEST) continue;
    for (let rank = start.rank + 1; rank < end.rank; rank++) {
      link.bends.push({ breadth: 0, depth: 0, rank, x: 0, above: [], below: [], bend: true });
    }
    link.bends.forEach(put);
    const chain = [start, ...link.bends, end];
    for (let index = 1; index < chain.length; index++) {
      const [upper, lower] = [chain[index - 1], chain[index]];
      const weight = upper.bend && lower.bend ? 8 : upper.bend || lower.bend ? 2 : 1; // long edges shall be straight
      upper.below.push({ cell: lower, weight });
      lower.above.push({ cell: upper, weight });
    }
  }
  return Array.from(ranks, (rank) => rank ?? []);
}

function order(ranks) {
  const settle = (rank, side) => {
    for (const cell of rank) {
      const neighbours = cell[side];
      cell.wish = neighbours.length === 0 ? cell.order
        : neighbours.reduce((sum, neighbour) => sum + neighbour.cell.order, 0) / neighbours.length;
    }
    rank.sort((one, other) => one.wish - other.wish).forEach((cell, index) => { cell.order = index; });
  };
  for (const rank of ranks) rank.forEach((cell, index) => { cell.order = index; });
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const rank of ranks) settle(rank, 'above');
    for (const rank of ranks.toReversed()) settle(rank, 'below');
  }
}

function setBreadthwise(ranks, gap) {
  for (const rank of ranks) setRow(rank, [], gap);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const rank of ranks) setRow(rank, ['above'], gap);
    for (const rank of ranks.toReversed()) setRow(rank, ['below'], gap);
  }
  for (const rank of ranks) setRow(rank, ['above', 'below'], gap);
}

// Least squares to the neighbours' places under the least distances: pooling of adjacent violators, which is exact.
function setRow(rank, sides, gap) {
  const blocks = []; // cells that touch and move as one, from `first` to the next block's
  rank.forEach((cell, index) => {
    const before = rank[index - 1];
    cell.offset = before ? before.offset + (before.breadth + cell.breadth) / 2 + gap : 0;
  });
  const home = -(rank.at(-1)?.offset ?? 0) / 2; // a light pull to the middle, or long graphs wander off sideways
  rank.forEach((cell, index) => {
    const { offset } = cell;
    let block = { first: index, weight: PULL, sum: PULL * home };
    for (const side of sides) {
      for (const { cell: neighbour, weight } of cell[side]) {
        block.weight += weight;
        block.sum += weight * (neighbour.x - offset);
      }
    }
    while (blocks.length > 0 && blocks.at(-1).sum / blocks.at(-1).weight > block.sum / block.weight) {
      const { first, weight, sum } = blocks.pop();
      block = { first, weight: block.weight + weight, sum: block.sum + sum };
    }
    blocks.push(block);
  });
  blocks.forEach(({ first, weight, sum }, number) => {
    const end = blocks[number + 1]?.first ?? rank.length;
    for (let index = first; index < end; index++) rank[index].x = sum / weight + rank[index].offset;
  });
}

function setDepthwise(ranks, gap) {
  let top = 0;
  return ranks.map((rank) => {
    const depth = rank.reduce((most, cell) => Math.max(most, cell.depth), 0);
    const row = { top, middle: top + depth / 2, bottom: top + depth };
    top += depth + gap;
    return row;
  });
}

function setPoints({ edge, from, to, start, end, turned, bends }, rows, gap, point) {
  if (!start) { // from a node to itself
    edge.points = from ? [0, 1, 2].map(() => point(from.x, rows[from.rank].bottom + gap / 2)) : [];
    return;
  }
  const x = bends.length > 0 ? bends[0].x : (start.x + end.x) / 2;
  const points = [point(start.x, rows[start.rank].middle)];
  if (bends.length === 0) points.push(point(x, (rows[start.rank].bottom + rows[end.rank].top) / 2));
  for (const bend of bends) points.push(point(bend.x, rows[bend.rank].top), point(bend.x, rows[bend.rank].bottom));
  points.push(point(end.x, rows[end.rank].middle));
  edge.points = turned ? points.reverse() : points;
  if (edge.width) {
    const label = point(x, rows[start.rank].bottom + gap);
    Object.assign(edge, { x: label.x + edge.width / 2 + 4, y: label.y });
  }
}

// A group is the box around what is in it.
function enclose(nodes, groups) {
  const boxes = new Map();
  const byName = new Map(nodes.map((node) => [node.v, node]));
  for (const node of nodes) {
    if (groups.has(node.v)) continue;
    for (let parent = node.parent; parent !== null && parent !== undefined; parent = byName.get(parent)?.parent) {
      const box = boxes.get(parent) ?? { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
      boxes.set(parent, {
        left: Math.min(box.left, node.x - node.width / 2 - 8), right: Math.max(box.right, node.x + node.width / 2 + 8),
        top: Math.min(box.top, node.y - node.height / 2 - 8), bottom: Math.max(box.bottom, node.y + node.height / 2 + 8),
      });
    }
  }
  for (const [name, { left, right, top, bottom }] of boxes) {
    const group = byName.get(name);
    if (group) Object.assign(group, { x: (left + right) / 2, y: (top + bottom) / 2, width: right - left, height: bottom - top });
  }
}
