// Front end of GraphTable: draws only the rows in sight, so that ten thousand are as quick as ten.
const ROW = 26; // height in pixels, also in the style sheet
const SPARE = 10; // rows drawn above and below

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const isNumber = (cell) => Array.isArray(cell); // [value, text, share]

function compare(a, b) {
  if (isNumber(a) && isNumber(b)) return (a[0] ?? -1) - (b[0] ?? -1);
  return String(a).localeCompare(String(b), 'en', { numeric: true });
}

async function unpack(view) {
  if (!view || view.byteLength === 0) return [];
  return new Response(new Blob([view]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
}

class Table {
  constructor(model, el) {
    this.model = model;
    this.all = this.shown = [];
    this.sort = { column: -1, down: false };
    this.search = make('input', { type: 'search', placeholder: `Search ${model.get('label')}`, className: 'jupyter-widgets-input' });
    this.search.setAttribute('aria-label', `Search ${model.get('label')}`);
    this.count = make('span', { className: 'wb-rows-count' });
    this.count.setAttribute('role', 'status');
    this.bar = make('div', { className: 'wb-rows-bar' }, this.search, this.count);
    this.head = make('thead');
    this.body = make('tbody');
    this.table = make('table', {}, this.head, this.body);
    this.table.setAttribute('role', 'grid');
    this.table.setAttribute('aria-label', model.get('label'));
    this.scroll = make('div', { className: 'wb-rows-scroll', tabIndex: 0 }, this.table);
    this.scroll.setAttribute('role', 'group');
    this.scroll.setAttribute('aria-label', `${model.get('label')}: arrow keys select`);
    this.root = make('div', { className: 'wb-rows' }, this.bar, this.scroll);
    el.append(this.root);
    this.connect();
    this.load();
  }

  connect() {
    this.search.addEventListener('input', () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.save('query', this.search.value), 150);
    });
    this.scroll.addEventListener('scroll', () => this.draw());
    this.scroll.addEventListener('keydown', (event) => this.press(event));
    const choose = (event) => {
      const line = event.button === 0 && event.target.closest('tr[data-index]');
      if (line) this.save('selected', this.shown[line.dataset.index][0]);
    };
    // A row that is drawn again before the button is released gets no click; what reads the screen aloud sends only that.
    for (const type of ['mousedown', 'click']) this.body.addEventListener(type, choose);
    this.listeners = {
      'change:_rows': () => this.load(),
      'change:query': () => this.filter(),
      'change:selected': () => this.reveal(),
      'change:colors': () => this.draw(),
    };
    for (const [name, listener] of Object.entries(this.listeners)) this.model.on(name, listener);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.scroll);
  }

  save(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  async load() {
    const rows = this.model.get('_rows');
    this.all = await unpack(rows);
    if (rows !== this.model.get('_rows')) return;
    this.sort = { column: -1, down: false };
    this.scroll.style.maxHeight = `${this.model.get('height')}px`;
    this.texts = this.all.map((row) => row.filter((cell) => !isNumber(cell)).join(' ').toLowerCase());
    this.filter();
  }

  filter() {
    const query = this.model.get('query');
    if (this.search.value !== query && document.activeElement !== this.search) this.search.value = query;
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    this.shown = this.all.filter((_, index) => words.every((word) => this.texts[index].includes(word)));
    const { column, down } = this.sort;
    if (column >= 0) this.shown.sort((a, b) => compare(a[column], b[column]) * (down ? -1 : 1));
    const label = this.model.get('label');
    const format = (number) => number.toLocaleString('en');
    this.bar.hidden = !this.model.get('searchable');
    this.count.textContent = words.length > 0
      ? `${format(this.shown.length)} of ${format(this.all.length)} ${label}` : `${format(this.all.length)} ${label}`;
    this.drawHead();
    this.reveal();
  }

  drawHead() {
    const headings = this.model.get('columns').map(({ label, is_text: isText, note }, index) => {
      const active = this.sort.column === index;
      const arrow = active ? (this.sort.down ? ' ▾' : ' ▴') : '';
      const button = make('button', { type: 'button', textContent: label + arrow, title: note });
      button.addEventListener('click', () => {
        this.sort = { column: index, down: active ? !this.sort.down : !isText }; // of numbers, the big ones first
        this.filter();
        this.head.querySelectorAll('button')[index].focus();
      });
      const cell = make('th', { scope: 'col', className: isText ? 'left' : '' }, button);
      if (active) cell.setAttribute('aria-sort', this.sort.down ? 'descending' : 'ascending');
      return cell;
    });
    this.head.replaceChildren(make('tr', {}, ...headings));
  }

  // Brings the selected row into sight, unless it is filtered out.
  reveal() {
    const selected = this.model.get('selected');
    const index = this.shown.findIndex((row) => row[0] === selected);
    const { scrollTop, clientHeight } = this.scroll;
    const room = clientHeight - this.head.offsetHeight;
    if (index >= 0 && index * ROW < scrollTop) this.scroll.scrollTop = index * ROW;
    if (index >= 0 && (index + 1) * ROW > scrollTop + room) this.scroll.scrollTop = (index + 1) * ROW - room;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - SPARE);
    const last = Math.min(this.shown.length, first + Math.ceil(this.model.get('height') / ROW) + 2 * SPARE);
    const lines = this.shown.slice(first, last).map((row, index) => this.line(row, first + index));
    const space = (count) => {
      const line = make('tr', { className: 'space', ariaHidden: 'true' }, make('td', { colSpan: this.model.get('columns').length }));
      line.firstChild.style.height = `${count * ROW}px`;
      return line;
    };
    this.table.setAttribute('aria-rowcount', this.shown.length + 1);
    this.body.replaceChildren(space(first), ...lines, space(this.shown.length - last));
    if (this.shown.length === 0 && this.all.length > 0) {
      const text = `Nothing matches “${this.model.get('query')}”.`;
      this.body.replaceChildren(make('tr', {}, make('td', { colSpan: 99, className: 'left', textContent: text })));
    }
  }

  line(row, index) {
    const color = this.model.get('colors')[row[0]];
    const cells = row.map((cell, column) => {
      const text = isNumber(cell) ? cell[1] : cell;
      const isText = this.model.get('columns')[column]?.is_text;
      const element = make('td', { className: isText ? 'left' : '', title: isText ? text : '' });
      if (column === 0 && color) {
        const swatch = make('i');
        swatch.style.background = color;
        element.append(swatch);
      }
      element.append(text);
      if (isNumber(cell) && cell[2] > 0) element.style.setProperty('--wb-share', `${Math.max(1, 100 * cell[2])}%`);
      return element;
    });
    const line = make('tr', {}, ...cells);
    line.dataset.index = index;
    line.setAttribute('aria-rowindex', index + 2);
    line.setAttribute('aria-selected', String(row[0] === this.model.get('selected')));
    return line;
  }

  press(event) {
    const page = Math.floor(this.scroll.clientHeight / ROW) - 1;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.target !== this.scroll || !(event.key in steps) || this.shown.length === 0) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would go to another cell
    const now = this.shown.findIndex((row) => row[0] === this.model.get('selected'));
    const next = Math.min(Math.max(now + steps[event.key], 0), this.shown.length - 1);
    this.save('selected', this.shown[next][0]);
  }

  dispose() {
    clearTimeout(this.typing);
    this.resized.disconnect();
    for (const [name, listener] of Object.entries(this.listeners)) this.model.off(name, listener);
  }
}

export default {
  render({ model, el }) {
    const table = new Table(model, el);
    return () => table.dispose();
  },
};
