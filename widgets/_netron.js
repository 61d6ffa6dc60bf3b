// Front end of NetronView: Netron in a sandboxed frame that has no address and no network.

const CONTENT_POLICY = [
  "default-src 'none'", "connect-src 'none'", "script-src 'unsafe-inline' blob:", "style-src 'unsafe-inline'",
  "img-src data: blob:", "font-src data:", "base-uri 'none'", "form-action 'none'",
].join('; ');

const THEME_VARIABLES = [
  '--jp-layout-color0', '--jp-layout-color1', '--jp-layout-color2', '--jp-layout-color3', '--jp-border-color1',
  '--jp-border-color2', '--jp-ui-font-color0', '--jp-ui-font-color1', '--jp-ui-font-color2', '--jp-brand-color1',
  '--jp-ui-font-family', '--jp-code-font-family',
];

function framePage(files) {
  const page = new DOMParser().parseFromString(files['index.html'], 'text/html');
  page.querySelectorAll('script, link, meta[http-equiv], meta[name=date]').forEach((element) => element.remove());
  const policy = page.createElement('meta');
  policy.httpEquiv = 'Content-Security-Policy';
  policy.content = CONTENT_POLICY;
  page.head.prepend(policy);
  for (const [id, name] of [['grapher', 'grapher.css'], ['workbench', 'workbench-frame.css']]) {
    page.head.append(Object.assign(page.createElement('style'), { id, textContent: files[name] }));
  }
  page.body.append(Object.assign(page.createElement('script'), { textContent: files['workbench-frame.js'] }));
  return `<!doctype html>${page.documentElement.outerHTML}`;
}

function ask(model, question) {
  const id = `${Date.now()}-${Math.random()}`;
  return new Promise((resolve) => {
    const receive = (message, buffers) => {
      if (message.id !== id) return;
      model.off('msg:custom', receive);
      resolve({ ...message, buffer: buffers[0] });
    };
    model.on('msg:custom', receive);
    model.send({ ...question, id });
  });
}

// Every widget has a module of its own, so what they share lies on the page.
function netronFiles(model) {
  const cache = (globalThis[Symbol.for('workbench.netron')] ??= {});
  return (cache.files ??= ask(model, { want: 'netron' }).then(({ buffer }) => {
    const unpacked = new Blob([buffer]).stream().pipeThrough(new DecompressionStream('gzip'));
    return new Response(unpacked).json();
  }));
}

// The file comes in pieces: a big message would hold up everything else on the channel.
async function modelBytes(model, isWanted, onPiece) {
  const pieces = [];
  let size = 0;
  for (;;) {
    const { buffer, revision, total } = await ask(model, { want: 'model', offset: size });
    if (!isWanted(revision) || total === 0) return null;
    pieces.push(buffer);
    size += buffer.byteLength;
    if (size >= total) return { revision, bytes: await new Blob(pieces).arrayBuffer() };
    onPiece(size / total);
  }
}

const isDark = () => document.body.dataset.jpThemeLight === 'false';

function currentTheme() {
  const style = getComputedStyle(document.body);
  return { dark: isDark(), variables: Object.fromEntries(THEME_VARIABLES.map((v) => [v, style.getPropertyValue(v)])) };
}

// Any CSS colour, theme variables too, with a text colour that can be read on it.
function resolveColors(colors, el) {
  const probe = document.createElement('span');
  el.append(probe);
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const resolve = (color) => {
    probe.style.color = '';
    probe.style.color = color;
    context.fillStyle = getComputedStyle(probe).color;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    const light = 0.2126 * (red / 255) ** 2.2 + 0.7152 * (green / 255) ** 2.2 + 0.0722 * (blue / 255) ** 2.2;
    return { fill: `rgb(${red}, ${green}, ${blue})`, text: light > 0.18 ? 'black' : 'white' }; // equal contrast there
  };
  const known = {};
  const resolved = Object.entries(colors).map(([name, color]) => [name, known[color] ??= resolve(color)]);
  probe.remove();
  return Object.fromEntries(resolved);
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const button = (label, title, onClick) => make('button', {
  type: 'button', className: 'jupyter-button', textContent: label, title, onclick: onClick,
});

function download(name, buffer) {
  const address = URL.createObjectURL(new Blob([buffer], { type: 'text/html' }));
  make('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

class Viewer {
  constructor(model, el) {
    this.model = model;
    this.drawn = -1; // the revision that this page shows
    this.build(el);
    this.onMessage = (event) => this.receive(event);
    window.addEventListener('message', this.onMessage);
    this.themeObserver = new MutationObserver(() => this.ready && this.sendTheme());
    this.themeObserver.observe(document.body, { attributes: true, attributeFilter: ['data-jp-theme-light', 'data-jp-theme-name'] });
    const whenReady = (command) => () => this.ready && this.post(command());
    this.listeners = {
      'change:_revision': () => this.open(),
      'change:name change:status change:message change:height change:legend': () => this.refresh(),
      'change:colors': () => this.ready && this.sendColors(),
      'change:focus': () => this.ready && model.get('focus') !== (model.get('selected')[0]?.name ?? '')
        && this.post({ command: 'select', name: model.get('focus') }),
      'change:query': whenReady(() => ({ command: 'filter', query: model.get('query') })),
      'msg:custom': (message, buffers) => message.download && download(message.download, buffers[0]),
    };
    for (const [name, listener] of Object.entries(this.listeners)) model.on(name, listener);
    this.refresh();
    this.open();
  }

  build(el) {
    this.name = make('span', { className: 'wb-netron-name' });
    const toggle = (option) => () => this.post({ command: 'toggle', option });
    this.attributes = button('Attributes', 'Show the attributes of every node', toggle('attributes'));
    this.horizontal = button('Horizontal', 'Draw from left to right', toggle('direction'));
    this.picture = button('Save PNG', '', () => this.post({ command: 'save' }));
    this.bar = make('div', { className: 'wb-netron-bar' },
      this.name,
      button('Find', 'Find a node, tensor or weight (Ctrl+F)', () => { this.frame.focus(); this.post({ command: 'find' }); }),
      this.attributes, this.horizontal, this.picture);
    this.cover = make('div', { className: 'wb-netron-cover' });
    this.legend = make('div', { className: 'wb-netron-legend' });
    this.space = make('div', { className: 'wb-netron-space' });
    this.root = make('div', { className: 'wb-netron' }, this.bar, this.space, this.legend, this.cover);
    el.append(this.root);
  }

  refresh() {
    const { model } = this;
    const name = model.get('name');
    const opened = name !== '' && this.drawn === model.get('_revision') && model.get('status') !== 'error';
    this.root.style.height = `${model.get('height')}px`;
    this.cover.hidden = opened;
    this.bar.hidden = !opened;
    this.cover.setAttribute('role', model.get('status') === 'error' ? 'alert' : 'status');
    this.cover.textContent = this.coverText(name);
    const { title, entries = [] } = model.get('legend');
    this.legend.hidden = !opened || entries.length === 0;
    this.legend.replaceChildren(make('b', { textContent: title }), ...entries.map(({ color, text }) => {
      const swatch = make('i');
      swatch.style.background = color;
      return make('span', {}, swatch, text);
    }));
  }

  coverText(name) {
    if (this.model.get('status') === 'error') return this.model.get('message');
    if (this.model.get('status') === 'loading') return 'Reading the model…';
    if (name === '') return 'Load a model to see its graph';
    if (this.received) return `Receiving ${name}… ${Math.round(100 * this.received)} %`;
    return this.ready ? `Drawing ${name}…` : 'Waiting for the kernel…';
  }

  async open() {
    if (this.model.get('name') === '') return;
    this.refresh();
    this.booted ??= this.boot();
    await this.booted;
    const wanted = this.model.get('_revision');
    await this.visible();
    const isWanted = (revision) => !this.disposed && wanted === this.model.get('_revision') && revision === wanted;
    if (!isWanted(wanted)) return;
    const received = await modelBytes(this.model, isWanted, (share) => { this.received = share; this.refresh(); });
    this.received = 0;
    if (!received) return;
    this.refresh();
    this.post({ command: 'open', name: this.model.get('name'), ...received }, [received.bytes]);
  }

  // Netron measures texts while it draws; where they are hidden, as in a tab behind another, they have no size.
  visible() {
    return new Promise((resolve) => {
      const observer = new ResizeObserver(() => {
        if (this.root.offsetWidth === 0 && !this.disposed) return;
        observer.disconnect();
        resolve();
      });
      observer.observe(this.root);
    });
  }

  async boot() {
    this.files = await netronFiles(this.model);
    if (this.disposed) return;
    this.frame = make('iframe', { title: 'Netron graph viewer' });
    this.frame.setAttribute('sandbox', 'allow-scripts allow-downloads allow-popups allow-popups-to-escape-sandbox');
    this.frame.srcdoc = framePage(this.files);
    const ready = new Promise((resolve) => { this.becomeReady = resolve; });
    this.space.append(this.frame);
    await ready;
    this.ready = true;
    this.refresh();
  }

  post(message, transfer = []) {
    this.frame.contentWindow?.postMessage(message, '*', transfer); // the frame has no origin to name
  }

  sendTheme() {
    this.post({ command: 'theme', ...currentTheme() });
    this.sendColors();
  }

  sendColors() {
    this.post({ command: 'colors', colors: resolveColors(this.model.get('colors'), this.root) });
  }

  // Netron asks for the modules of a format when it meets one.
  async sendFile(name) {
    this.files[name] ??= ask(this.model, { want: 'file', name }).then(({ buffer }) => new TextDecoder().decode(buffer));
    this.post({ command: 'file', name, text: await this.files[name] });
  }

  receive({ source, data }) {
    if (!this.frame || source !== this.frame.contentWindow || data?.from !== 'netron') return;
    const actions = {
      boot: () => {
        this.sendTheme();
        const texts = Object.entries(this.files).filter(([, text]) => typeof text === 'string');
        this.post({ command: 'start', files: Object.fromEntries(texts) });
      },
      ready: () => this.becomeReady(),
      want: () => this.sendFile(data.name),
      drawn: () => this.showOptions(data),
      opened: () => this.opened(data),
      selected: () => this.save({ selected: data.nodes, focus: data.nodes[0]?.name ?? '' }),
      failed: () => this.save({ status: 'error', message: `Netron cannot show this model: ${data.message}` }),
    };
    actions[data.kind]?.();
  }

  opened({ revision, nodes }) {
    this.drawn = revision;
    const count = make('small', { textContent: nodes === 1 ? '1 node' : `${nodes.toLocaleString('en')} nodes` });
    const note = make('small', { textContent: this.model.get('note') });
    this.name.replaceChildren(this.model.get('name'), count, note);
    this.name.title = this.model.get('name');
    this.post({ command: 'filter', query: this.model.get('query') });
    if (this.model.get('focus')) this.post({ command: 'select', name: this.model.get('focus') });
    this.save({ status: 'opened' });
    this.refresh();
  }

  showOptions({ options, whole }) {
    this.picture.disabled = !whole; // only what is in sight of a big graph is drawn
    this.picture.title = whole ? 'Save the graph as a picture' : 'Too big for a picture';
    this.attributes.setAttribute('aria-pressed', options.attributes);
    this.horizontal.setAttribute('aria-pressed', options.direction === 'horizontal');
  }

  save(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  dispose() {
    this.disposed = true;
    window.removeEventListener('message', this.onMessage);
    this.themeObserver.disconnect();
    for (const [name, listener] of Object.entries(this.listeners)) this.model.off(name, listener);
  }
}

export default {
  render({ model, el }) {
    const viewer = new Viewer(model, el);
    return () => viewer.dispose();
  },
};
