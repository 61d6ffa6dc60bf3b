// Runs inside the frame of NetronView: starts Netron from the files it is sent, and obeys the widget around it.
(() => {
  const texts = {}, waiting = {}, addresses = {}; // of Netron's files, by name
  let view, colors = {}, words = [];
  let work = Promise.resolve();

  const tell = (message) => parent.postMessage({ from: 'netron', ...message }, '*');

  // Netron focuses its canvas whenever it draws; that must not take the caret away from a notebook cell.
  const focus = HTMLElement.prototype.focus;
  HTMLElement.prototype.focus = function (...options) {
    if (document.hasFocus()) focus.apply(this, options);
  };

  // A link would replace the graph with a page that this frame may not load.
  addEventListener('click', (event) => {
    const link = event.target.closest?.('a[href^="http"]');
    if (link) Object.assign(link, { target: '_blank', rel: 'noopener noreferrer' });
  }, true);

  // Netron's files come when they are wanted: some with the start, the others when a format needs them.
  function file(name) {
    return texts[name] ??= new Promise((resolve, reject) => {
      waiting[name] = (text) => (text ? resolve(text) : reject(new Error(`'${name}' was not sent to the viewer.`)));
      tell({ kind: 'want', name });
    });
  }

  // './x.js' means nothing inside a blob: what a module imports becomes a blob before it.
  async function blobOf(name) {
    let source = (await file(name))
      .replace(/\bimport\('\.\/([\w-]+\.js)'\)/g, "netronModule('$1')")
      .replaceAll('\\u3008', '\\u27e8').replaceAll('\\u3009', '\\u27e9'); // brackets that Latin fonts have too
    for (const [statement, dependency] of source.matchAll(/\bfrom\s+'\.\/([\w-]+\.js)'/g)) {
      source = source.replace(statement, `from '${await address(dependency)}'`);
    }
    return URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
  }

  const address = (name) => (addresses[name] ??= blobOf(name));

  globalThis.netronModule = async (name) => {
    const module = await import(await address(name));
    if (name !== 'dagre.js') return module;
    const { layout, LIMIT } = await import(await address('workbench-layout.js'));
    return { layout: (nodes, ...rest) => (nodes.length > LIMIT ? layout : module.layout)(nodes, ...rest) };
  };

  async function start() {
    const names = ['browser.js', 'view.js', 'grapher.js', 'workbench-window.js'];
    const [{ Host }, { View }, grapher, { drawOnlyWhatIsInSight }] = await Promise.all(names.map(netronModule));
    drawOnlyWhatIsInSight(grapher, paintNode);

    class FrameHost extends Host {
      get type() { return 'Frame'; }
      environment(name) { return name === 'serial' ? true : super.environment(name); } // no workers
      async view(value) { this._view = value; } // the original asks for cookies and updates, and starts telemetry
      async start() { this._view.show('welcome spinner'); }
      async require(id) { return netronModule(`${id.replace('./', '')}.js`); }
      async asset(name) { return file(name); }
      async fetch(name) { throw new Error(`'${name}' was not sent to the viewer.`); }
      async execute() {}
      async message(text) { if (text) tell({ kind: 'failed', message: text }); }
      event() {}
      exception() {}
      openURL() {}
    }

    class FrameView extends View {
      get target() { return super.target; }
      set target(value) { // set after every drawing: a new model, a subgraph, another layout
        super.target?.scene?.stop?.();
        super.target = value;
        if (!value) return;
        value.on('selectionchange', tellSelection);
        value.scene?.watch();
        paint();
        tell({ kind: 'drawn', options: { ...this.options }, whole: !value.scene });
      }
    }

    view = new FrameView(new FrameHost());
    await view.start();
    tell({ kind: 'ready' });
  }

  function tellSelection(target) {
    const nodes = [...target.selection].filter((item) => item.class === 'graph-node').map((item) => item.value);
    tell({ kind: 'selected', nodes: nodes.map((node) => ({ name: node.name || '', type: node.type?.name || '' })) });
  }

  async function open({ name, bytes, revision }) {
    const { BinaryStream } = await netronModule('base.js');
    const context = {
      name, identifier: name, stream: new BinaryStream(new Uint8Array(bytes)), entries: new Map(), error() {},
      asset: (file) => view.host.asset(file), require: (id) => view.host.require(id),
      fetch: (file) => view.host.fetch(file),
    };
    try {
      view.show('welcome spinner');
      await view.open(context);
      view.show(null);
      document.title = name;
      tell({ kind: 'opened', revision, nodes: view.activeTarget?.nodes.length ?? 0 });
    } catch (error) {
      tell({ kind: 'failed', message: error.message });
    }
  }

  function paint() {
    for (const { label } of view?.target?.nodes.values() ?? []) paintNode(label);
  }

  function paintNode(node) {
    if (node.class !== 'graph-node' || !node.element) return;
    const { name = '', type } = node.value;
    const text = `${name} ${type?.name ?? ''}`.toLowerCase();
    node.element.classList.toggle('faint', !words.every((word) => text.includes(word)));
    const color = colors[name];
    for (const header of node.element.querySelectorAll('.node-item-type')) {
      for (const shape of header.querySelectorAll('path')) shape.style.fill = color?.fill ?? '';
      for (const title of header.querySelectorAll('text')) title.style.fill = color?.text ?? '';
    }
  }

  function select(name) {
    const node = view.activeTarget?.nodes.find((item) => item.name === name);
    if (!view.target) return;
    const told = node && document.querySelector('#sidebar').clientWidth > 0; // the facts of the node before are open
    view.target.scrollTo(told ? view.target.activate(node) : view.target.select(node ? [node] : null));
  }

  let darkRules;
  function applyTheme({ dark, variables }) {
    darkRules ??= [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
      .filter((rule) => rule.media?.mediaText.includes('prefers-color-scheme'));
    for (const rule of darkRules) rule.media.mediaText = dark ? 'all' : 'not all';
    for (const [name, value] of Object.entries(variables)) document.documentElement.style.setProperty(name, value);
  }

  const commands = {
    start: (message) => { Object.assign(texts, message.files); return start(); },
    open,
    theme: applyTheme,
    colors: (message) => { ({ colors } = message); paint(); },
    filter: (message) => { words = message.query.toLowerCase().split(/\s+/).filter(Boolean); paint(); },
    select: (message) => select(message.name),
    find: () => view.find(),
    toggle: (message) => view.toggle(message.option),
    save: () => view.export(`${document.title}.png`),
  };
  addEventListener('message', ({ source, data }) => {
    if (source !== parent) return;
    if (data.command === 'file') waiting[data.name]?.(data.text); // at once: the work in hand waits for it
    if (!(data.command in commands)) return;
    work = work.then(() => commands[data.command](data))
      .catch((error) => tell({ kind: 'failed', message: error.message }));
  });

  // Netron looks its style sheet up by address when it saves a picture.
  Object.defineProperty(document.querySelector('#grapher').sheet, 'href', { value: '/grapher.css' });
  tell({ kind: 'boot' });
})();
