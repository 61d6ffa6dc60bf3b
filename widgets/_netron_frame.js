// Runs inside the frame of NetronView: starts Netron from the files it is sent, and obeys the widget around it.
(() => {
  const blobs = {};
  let files, view, colors = {};
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

  function addImportMap() {
    const relative = /(from\s+|import\()'\.\/([\w-]+\.js)'/g; // './x.js' means nothing inside a blob
    for (const [name, text] of Object.entries(files)) {
      if (!name.endsWith('.js')) continue;
      const source = text.replace(relative, "$1'netron/$2'")
        .replaceAll('\\u3008', '\\u27e8').replaceAll('\\u3009', '\\u27e9'); // brackets that Latin fonts have too
      blobs[`netron/${name}`] = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
    }
    const map = document.createElement('script');
    map.type = 'importmap';
    map.textContent = JSON.stringify({ imports: blobs });
    document.head.append(map);
  }

  async function start() {
    addImportMap();
    const [{ Host }, { View }] = [await import('netron/browser.js'), await import('netron/view.js')];

    class FrameHost extends Host {
      get type() { return 'Frame'; }
      environment(name) { return name === 'serial' ? true : super.environment(name); } // import maps miss workers
      async view(value) { this._view = value; } // the original asks for cookies and updates, and starts telemetry
      async start() { this._view.show('welcome spinner'); }
      async require(id) { return import(`netron/${id.replace('./', '')}.js`); }
      async asset(name) { return files[name]; }
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
        super.target = value;
        value?.on('selectionchange', tellSelection);
        if (value) paint();
        tell({ kind: 'drawn', options: { ...this.options } });
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
    const { BinaryStream } = await import('netron/base.js');
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
    for (const node of document.querySelectorAll('.graph-node')) {
      const color = colors[node.id.replace(/^node-name-/, '')];
      for (const header of node.querySelectorAll('.node-item-type')) {
        for (const shape of header.querySelectorAll('path')) shape.style.fill = color?.fill ?? '';
        for (const text of header.querySelectorAll('text')) text.style.fill = color?.text ?? '';
      }
    }
  }

  function select(name) {
    const node = view.activeTarget?.nodes.find((item) => item.name === name);
    if (view.target) view.target.scrollTo(view.target.select(node ? [node] : null));
  }

  let darkRules;
  function applyTheme({ dark, variables }) {
    darkRules ??= [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
      .filter((rule) => rule.media?.mediaText.includes('prefers-color-scheme'));
    for (const rule of darkRules) rule.media.mediaText = dark ? 'all' : 'not all';
    for (const [name, value] of Object.entries(variables)) document.documentElement.style.setProperty(name, value);
  }

  const commands = {
    start: (message) => { ({ files } = message); return start(); },
    open,
    theme: applyTheme,
    colors: (message) => { ({ colors } = message); paint(); },
    select: (message) => select(message.name),
    find: () => view.find(),
    toggle: (message) => view.toggle(message.option),
    save: () => view.export(`${document.title}.png`),
  };
  addEventListener('message', ({ source, data }) => {
    if (source !== parent || !(data.command in commands)) return;
    work = work.then(() => commands[data.command](data))
      .catch((error) => tell({ kind: 'failed', message: error.message }));
  });

  // Netron looks its style sheet up by address when it saves a picture.
  Object.defineProperty(document.querySelector('#grapher').sheet, 'href', { value: '/grapher.css' });
  tell({ kind: 'boot' });
})();
