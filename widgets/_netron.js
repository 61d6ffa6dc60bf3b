// Front end of NetronView: Netron in a sandboxed frame that has no address and no network.

const CONTENT_POLICY = [
  "default-src 'none'", "connect-src 'none'", "script-src 'unsafe-inline' blob:", "style-src 'unsafe-inline'",
  "img-src data: blob:", "font-src data:", "base-uri 'none'", "form-action 'none'",
].join('; ');

const FRAME_SCRIPT = 'workbench-frame.js'; // sent along with Netron's own files

const THEME_VARIABLES = [
  '--jp-layout-color0', '--jp-layout-color1', '--jp-layout-color2', '--jp-layout-color3', '--jp-border-color1',
  '--jp-border-color2', '--jp-ui-font-color0', '--jp-ui-font-color1', '--jp-ui-font-color2', '--jp-brand-color1',
  '--jp-ui-font-family', '--jp-code-font-family',
];

const STYLE = `
.wb-netron { position: relative; display: flex; flex-direction: column; box-sizing: border-box; overflow: hidden;
  border: 1px solid var(--jp-border-color2); border-radius: 4px; background: var(--jp-layout-color1);
  color: var(--jp-ui-font-color1); font-family: var(--jp-ui-font-family); font-size: var(--jp-ui-font-size1); }
.wb-netron-bar { display: flex; align-items: center; gap: 4px; padding: 4px 4px 4px 8px;
  border-bottom: 1px solid var(--jp-border-color2); background: var(--jp-layout-color1); }
.wb-netron-name { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.wb-netron-name small { margin-left: 8px; color: var(--jp-ui-font-color2); font-size: var(--jp-ui-font-size0); }
.wb-netron-bar button { width: auto; margin: 0; }
.wb-netron-bar button[aria-pressed=true] { background: var(--jp-layout-color3); }
.wb-netron button:focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: 1px; }
.wb-netron iframe { flex: 1; width: 100%; min-height: 0; border: 0; }
.wb-netron-cover { position: absolute; inset: 0; display: flex; align-items: center; justify-content: center;
  padding: 16px; text-align: center; background: var(--jp-layout-color1); color: var(--jp-ui-font-color2); }
.wb-netron-cover[role=alert] { color: var(--jp-error-color1); }
.wb-netron [hidden] { display: none; }
`;

// Put into the frame: Netron in the colours of the page around it, without its own menu and welcome page.
const FRAME_STYLE = `
.default, .default body, .welcome, .welcome body, .target { background-color: var(--jp-layout-color1); }
body, button { font-family: var(--jp-ui-font-family); }
.menu, .menu-button, .logo, .titlebar, .message { display: none !important; }
.sidebar { background-color: var(--jp-layout-color2); color: var(--jp-ui-font-color1);
  border-left: 1px solid var(--jp-border-color2); }
.sidebar-item-value, .sidebar-item-value-content, .sidebar-find-search { background-color: var(--jp-layout-color1);
  border-color: var(--jp-border-color2); color: var(--jp-ui-font-color1); }
.sidebar-find-query { color: var(--jp-ui-font-color1); }
.sidebar-find-content li { color: var(--jp-ui-font-color1); }
.sidebar-find-content li.focus { background: var(--jp-layout-color3); color: var(--jp-ui-font-color0); }
.toolbar-icon .border { stroke: var(--jp-layout-color1); }
.toolbar-icon .stroke { stroke: var(--jp-ui-font-color2); }
.toolbar-icon .fill { fill: var(--jp-ui-font-color2); }
.toolbar-icon:hover .stroke { stroke: var(--jp-ui-font-color0); }
.toolbar-icon:hover .fill { fill: var(--jp-ui-font-color0); }
.toolbar button:focus-visible { outline: 2px solid var(--jp-brand-color1); }
.select > .node.node-border, .select.edge-path { stroke: var(--jp-brand-color1); }
#arrowhead-select { fill: var(--jp-brand-color1); }
`;

function framePage(files) {
  const page = new DOMParser().parseFromString(files['index.html'], 'text/html');
  page.querySelectorAll('script, link, meta[http-equiv], meta[name=date]').forEach((element) => element.remove());
  const add = (tag, text, attributes) => {
    const element = Object.assign(page.createElement(tag), attributes);
    element.textContent = text;
    page.head.append(element);
    return element;
  };
  const policy = page.createElement('meta');
  policy.httpEquiv = 'Content-Security-Policy';
  policy.content = CONTENT_POLICY;
  page.head.prepend(policy);
  add('style', files['grapher.css'], { id: 'grapher' });
  add('style', FRAME_STYLE);
  const script = page.createElement('script');
  script.textContent = files[FRAME_SCRIPT];
  page.body.append(script);
  return `<!doctype html>${page.documentElement.outerHTML}`;
}

function ask(model, want) {
  const id = `${Date.now()}-${Math.random()}`;
  return new Promise((resolve) => {
    const receive = (message, buffers) => {
      if (message.id !== id) return;
      model.off('msg:custom', receive);
      resolve({ ...message, buffer: buffers[0] });
    };
    model.on('msg:custom', receive);
    model.send({ want, id });
  });
}

// Every widget has a module of its own, so what they share lies on the page.
function netronFiles(model) {
  const cache = (globalThis[Symbol.for('workbench.netron')] ??= {});
  return (cache.onnx ??= ask(model, 'netron').then(({ buffer }) => {
    const unpacked = new Blob([buffer]).stream().pipeThrough(new DecompressionStream('gzip'));
    return new Response(unpacked).json();
  }));
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
  const resolved = Object.entries(colors).map(([name, color]) => [name, resolve(color)]);
  probe.remove();
  return Object.fromEntries(resolved);
}

function button(label, title, onClick) {
  const element = document.createElement('button');
  element.type = 'button';
  element.className = 'jupyter-button';
  element.textContent = label;
  element.title = title;
  element.addEventListener('click', onClick);
  return element;
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
    this.listeners = {
      'change:_revision': () => this.open(),
      'change:name': () => this.refresh(),
      'change:status': () => this.refresh(),
      'change:height': () => this.refresh(),
      'change:colors': () => this.ready && this.sendColors(),
      'change:focus': () => this.ready && this.post({ command: 'select', name: model.get('focus') }),
    };
    for (const [name, listener] of Object.entries(this.listeners)) model.on(name, listener);
    this.refresh();
    this.open();
  }

  build(el) {
    const style = document.createElement('style');
    style.textContent = STYLE;
    this.name = document.createElement('span');
    this.name.className = 'wb-netron-name';
    const toggle = (option) => () => this.post({ command: 'toggle', option });
    this.attributes = button('Attributes', 'Show the attributes of every node', toggle('attributes'));
    this.horizontal = button('Horizontal', 'Draw from left to right', toggle('direction'));
    this.bar = document.createElement('div');
    this.bar.className = 'wb-netron-bar';
    this.bar.append(
      this.name,
      button('Find', 'Find a node, tensor or weight (Ctrl+F)', () => { this.frame.focus(); this.post({ command: 'find' }); }),
      this.attributes, this.horizontal,
      button('Save PNG', 'Save the graph as a picture', () => this.post({ command: 'save' })),
    );
    this.cover = document.createElement('div');
    this.cover.className = 'wb-netron-cover';
    this.root = document.createElement('div');
    this.root.className = 'wb-netron';
    this.root.append(this.bar, this.cover);
    el.append(style, this.root);
  }

  refresh() {
    const { model } = this;
    const name = model.get('name');
    const opened = name !== '' && this.drawn === model.get('_revision') && model.get('status') !== 'error';
    this.root.style.height = `${model.get('height')}px`;
    this.bar.hidden = this.cover.hidden = opened;
    this.bar.hidden = !opened;
    this.cover.setAttribute('role', model.get('status') === 'error' ? 'alert' : 'status');
    this.cover.textContent = this.coverText(name);
  }

  coverText(name) {
    if (this.model.get('status') === 'error') return this.model.get('message');
    if (this.model.get('status') === 'loading') return 'Reading the model…';
    if (name === '') return 'Load a model to see its graph';
    return this.ready ? `Drawing ${name}…` : 'Waiting for the kernel…';
  }

  async open() {
    if (this.model.get('name') === '') return;
    this.refresh();
    this.booted ??= this.boot();
    await this.booted;
    const wanted = this.model.get('_revision');
    await this.visible();
    if (this.disposed || wanted !== this.model.get('_revision')) return;
    const { buffer, revision } = await ask(this.model, 'model');
    if (this.disposed || buffer.byteLength === 0) return;
    const bytes = buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength);
    this.post({ command: 'open', name: this.model.get('name'), bytes, revision }, [bytes]);
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
    this.frame = document.createElement('iframe');
    this.frame.title = 'Netron graph viewer';
    this.frame.setAttribute('sandbox', 'allow-scripts allow-downloads allow-popups allow-popups-to-escape-sandbox');
    this.frame.srcdoc = framePage(this.files);
    const ready = new Promise((resolve) => { this.becomeReady = resolve; });
    this.root.append(this.frame);
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

  receive({ source, data }) {
    if (!this.frame || source !== this.frame.contentWindow || data?.from !== 'netron') return;
    const actions = {
      boot: () => { this.sendTheme(); this.post({ command: 'start', files: this.files }); },
      ready: () => this.becomeReady(),
      drawn: () => this.showOptions(data.options),
      opened: () => this.opened(data),
      selected: () => this.save({ selected: data.nodes }),
      failed: () => this.save({ status: 'error', message: `Netron cannot show this model: ${data.message}` }),
    };
    actions[data.kind]?.();
  }

  opened({ revision, nodes }) {
    this.drawn = revision;
    const count = document.createElement('small');
    count.textContent = nodes === 1 ? '1 node' : `${nodes} nodes`;
    this.name.replaceChildren(this.model.get('name'), count);
    this.name.title = this.model.get('name');
    if (this.model.get('focus')) this.post({ command: 'select', name: this.model.get('focus') });
    this.save({ status: 'opened' });
    this.refresh();
  }

  showOptions(options) {
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
