// Makes Netron draw only what is in sight of a big graph: a browser takes minutes for ten thousand nodes as SVG.
export const LIMIT = 600; // nodes; smaller graphs are drawn by Netron alone
const MARGIN = 0.5; // of the window, drawn around it

// Netron measures its texts in the page; before they are drawn, a canvas knows as much.
const pencil = document.createElement('canvas').getContext('2d');

function measure(pieces, size) {
  let width = 0;
  let box;
  for (const [text, weight] of pieces) {
    pencil.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
    box = pencil.measureText(text);
    width += box.width;
  }
  const height = box.fontBoundingBoxAscent + box.fontBoundingBoxDescent;
  return { x: 0, y: -box.fontBoundingBoxAscent, width, height };
}

const textOf = (...sizeAndPieces) => ({ getBBox: () => measure(...sizeAndPieces) });

// Gives the parts of a node what they measure; false if it holds other nodes, which only the page can measure.
function prepare(node) {
  for (const block of node.blocks) {
    for (const entry of block._entries ?? []) entry.text = textOf([[entry.content || '\u00a0', 'normal']], 11);
    if (!block._entries && !block._items) return false;
    for (const item of block._items ?? []) {
      if (item.type) return false;
      const weight = item.separator.trim() === '=' ? 'normal' : 'bold';
      item.text = textOf([[item.name, weight], [item.separator + item.content, 'normal']], 9);
    }
  }
  return true;
}

class Scene {
  constructor(graph, groups, onDraw) {
    Object.assign(this, { graph, groups, onDraw });
    this.nodes = [...graph.nodes.values()].filter(({ v }) => graph.children(v).length === 0).map(({ label }) => label);
    this.edges = [...graph.edges.values()].map(({ label }) => label);
    this.fixed = new Set(this.nodes.filter((node) => !prepare(node)));
    for (const node of this.fixed) node.build(document, groups.nodes);
    for (const edge of this.edges) {
      if (!edge.label) continue;
      const { width, height } = measure([[edge.label, 'normal']], 10);
      Object.assign(edge, { width: width + 1, height });
    }
  }

  // After the layout: where everything is.
  settle() {
    const { originX: x, originY: y, width, height } = this.graph;
    document.getElementById('canvas').getBBox = () => ({ x, y, width, height }); // what is drawn says nothing
    for (const edge of this.edges) {
      const points = edge.points ?? [];
      const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
      edge.box = [Math.min(...xs), Math.min(...ys), Math.max(...xs) + (edge.width ?? 0), Math.max(...ys)];
    }
    for (const node of this.nodes) {
      node.box = [node.x - node.width / 2, node.y - node.height / 2, node.x + node.width / 2, node.y + node.height / 2];
    }
    const first = this.nodes.filter((node) => node.class === 'graph-input'); // Netron starts there
    for (const node of [...first, this.nodes.find((other) => other.class === 'graph-node')]) if (node) this.showNode(node);
    for (const node of this.fixed) node.update();
  }

  watch() {
    const target = document.getElementById('target');
    const draw = () => {
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this.draw());
    };
    target.addEventListener('scroll', draw);
    this.resized = new ResizeObserver(draw);
    this.resized.observe(target);
    this.resized.observe(document.getElementById('canvas'));
    this.stop = () => { target.removeEventListener('scroll', draw); this.resized.disconnect(); };
    this.draw();
  }

  draw() {
    const matrix = document.getElementById('origin')?.getScreenCTM()?.inverse();
    if (!matrix) return;
    const window = document.getElementById('target').getBoundingClientRect();
    const corner = (x, y) => new DOMPoint(x, y).matrixTransform(matrix);
    const [marginX, marginY] = [MARGIN * window.width, MARGIN * window.height];
    const [from, to] = [corner(window.left - marginX, window.top - marginY), corner(window.right + marginX, window.bottom + marginY)];
    const inSight = ([left, top, right, bottom]) => left < to.x && right > from.x && top < to.y && bottom > from.y;
    for (const edge of this.edges) (inSight(edge.box) ? this.showEdge(edge) : this.hideEdge(edge));
    for (const node of this.nodes) (inSight(node.box) ? this.showNode(node) : this.hideNode(node));
  }

  showNode(node) {
    if (node.element) return;
    node.build(document, this.groups.nodes);
    node.update();
    if (this.graph.selection.has(node)) node.element.classList.add('select');
    this.onDraw(node);
  }

  hideNode(node) {
    if (!node.element || this.fixed.has(node) || this.graph.selection.has(node)) return;
    node.element.remove();
    node.element = undefined;
    prepare(node);
  }

  showEdge(edge) {
    if (edge.element) return;
    edge.build(document, this.groups.paths, this.groups.hits, this.groups.labels);
    if (!edge.element) return; // drawn elsewhere
    edge.update();
    this.graph._focusable.set(edge.hitTest, edge);
    if (this.graph.selection.has(edge.value)) edge.select();
  }

  hideEdge(edge) {
    if (!edge.element || this.graph.selection.has(edge.value)) return;
    this.graph._focusable.delete(edge.hitTest);
    for (const part of ['element', 'hitTest', 'labelElement']) {
      edge[part]?.remove();
      edge[part] = undefined;
    }
  }
}

// Changes Netron's own classes; `onDraw` is told of every node that comes into sight.
export function drawOnlyWhatIsInSight({ Graph, Node }, onDraw) {
  const { build, update } = Graph.prototype;
  const { select } = Node.prototype;

  // Netron's method sees only the groups around nodes, which are few.
  function onClusters(graph, method, ...details) {
    const { _nodes: nodes, _edges: edges } = graph;
    graph._nodes = new Map([...nodes].filter(([key]) => graph.children(key).length > 0));
    graph._edges = new Map();
    method.apply(graph, details);
    Object.assign(graph, { _nodes: nodes, _edges: edges });
  }

  Graph.prototype.build = function (page, origin) {
    if (this.nodes.size <= LIMIT) return build.call(this, page, origin);
    const before = origin.childElementCount;
    onClusters(this, build, page, origin);
    const [, paths, hits, labels, nodes] = [...origin.children].slice(before);
    this.scene = new Scene(this, { paths, hits, labels, nodes }, onDraw);
    return undefined;
  };

  Graph.prototype.update = function () {
    if (!this.scene) return update.call(this);
    onClusters(this, update);
    this.scene.settle();
    return undefined;
  };

  Node.prototype.select = function () {
    this.context?.scene?.showNode(this);
    return select.call(this);
  };
}
