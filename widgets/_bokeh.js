// Front end of BokehPane: draws the figure, applies changes from Python and reports those made here.

const REPORTED = new Set(['indices', 'value', 'active']); // selections and Bokeh's widgets; not every mouse move

const STYLE = `
.wb-bokeh { color: var(--jp-ui-font-color1); font-family: var(--jp-ui-font-family); }
.wb-bokeh-note { padding: 8px; color: var(--jp-ui-font-color2); }
.wb-bokeh-note[role=alert] { color: var(--jp-error-color1); }
.wb-bokeh-note:empty { display: none; }
`;

const isDark = () => document.body.dataset.jpThemeLight === 'false';

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

async function run(buffer) {
  const unpacked = new Blob([buffer]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(unpacked).text();
  const before = window.Bokeh; // of another version, for other cells
  document.head.append(script);
  script.remove();
  const loaded = window.Bokeh;
  if (before) window.Bokeh = before;
  return loaded;
}

// Every widget has a module of its own, so what they share lies on the page.
function bokehjs(model) {
  const cache = (globalThis[Symbol.for('workbench.bokeh')] ??= {});
  const key = `${model.get('_version')} ${model.get('_scripts')}`;
  return (cache[key] ??= ask(model, 'bokehjs').then(({ buffer }) => run(buffer)));
}

class Pane {
  constructor(model, el) {
    this.model = model;
    this.build(el);
    this.themeObserver = new MutationObserver(() => this.tellTheme());
    this.themeObserver.observe(document.body, { attributes: true, attributeFilter: ['data-jp-theme-light'] });
    this.listeners = {
      'change:_revision': () => this.draw(),
      'change:label': () => this.refresh(),
      'change:error': () => this.refresh(),
      'msg:custom': (message) => this.apply(message),
    };
    for (const [name, listener] of Object.entries(this.listeners)) model.on(name, listener);
    this.tellTheme();
    this.refresh();
    this.draw();
  }

  build(el) {
    const style = document.createElement('style');
    style.textContent = STYLE;
    this.plot = document.createElement('div');
    this.plot.setAttribute('role', 'img');
    this.note = document.createElement('div');
    this.note.className = 'wb-bokeh-note';
    const root = document.createElement('div');
    root.className = 'wb-bokeh';
    root.append(this.plot, this.note);
    el.append(style, root);
  }

  refresh() {
    const error = this.model.get('error');
    this.plot.setAttribute('aria-label', this.model.get('label'));
    this.note.setAttribute('role', error ? 'alert' : 'status');
    this.note.textContent = error || (this.document ? '' : 'Waiting for the plot…');
  }

  tellTheme() {
    this.model.set('dark', isDark());
    this.model.save_changes();
  }

  async draw() {
    if (this.model.get('_revision') === 0) return;
    const [bokeh, figure] = await Promise.all([bokehjs(this.model), ask(this.model, 'figure')]);
    if (this.disposed || figure.revision < this.model.get('_revision') || figure.revision === this.revision) return;
    this.document?.clear();
    const place = document.createElement('div'); // Bokeh draws later: what comes late lands in a place that is gone
    this.plot.replaceChildren(place);
    this.revision = figure.revision;
    this.document = bokeh.require('document').Document.from_json(JSON.parse(figure.document));
    this.document.on_change((event) => this.report(event));
    bokeh.require('embed/standalone').add_document_standalone(this.document, place);
    this.refresh();
  }

  // `sync` is false on changes that came from Python: those must not go back.
  report(event) {
    if (!event.sync) return;
    const wanted = event.kind === 'MessageSent' || (event.kind === 'ModelChanged' && REPORTED.has(event.attr));
    if (wanted) this.model.send({ patch: this.document.create_json_patch([event]), revision: this.revision });
  }

  apply({ patch, revision }) {
    if (patch && this.document && revision === this.revision) this.document.apply_json_patch(JSON.parse(patch));
  }

  dispose() {
    this.disposed = true;
    this.themeObserver.disconnect();
    for (const [name, listener] of Object.entries(this.listeners)) this.model.off(name, listener);
    this.document?.clear();
  }
}

export default {
  render({ model, el }) {
    const pane = new Pane(model, el);
    return () => pane.dispose();
  },
};
