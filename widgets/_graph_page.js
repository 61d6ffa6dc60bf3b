// A page of its own with the front ends of NetronView and GraphTable, whose models hold everything: no kernel answers.
const element = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function unpack(content) {
  return new Response(new Blob([content]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
}

// What a front end sees of its widget: values that can be watched.
class Values {
  constructor(values, answer = () => undefined) {
    this.values = values;
    this.listeners = new Map();
    this.answer = answer;
  }

  get(name) { return this.values[name]; }

  set(name, value) {
    if (this.values[name] === value) return;
    this.values[name] = value;
    this.emit(`change:${name}`);
  }

  save_changes() {}

  on(events, listener) {
    for (const event of events.split(' ')) this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  off(events, listener) {
    for (const event of events.split(' ')) {
      this.listeners.set(event, (this.listeners.get(event) ?? []).filter((other) => other !== listener));
    }
  }

  emit(event, ...details) {
    for (const listener of this.listeners.get(event) ?? []) listener(...details);
  }

  send(question) {
    const [reply, content] = this.answer(question);
    queueMicrotask(() => this.emit('msg:custom', { id: question.id, ...reply }, [content]));
  }
}

function followTheme() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const apply = () => { document.body.dataset.jpThemeLight = String(!dark.matches); };
  dark.addEventListener('change', apply);
  apply();
}

async function show() {
  followTheme();
  const data = await unpack(bytes(element('data').textContent));
  const [netron, table] = await Promise.all(Object.values(data.scripts)
    .map((text) => import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })))));
  const model = bytes(data.model);
  const answers = {
    netron: () => [{}, bytes(data.netron)],
    model: () => [{ revision: 1, total: model.byteLength }, model],
    file: () => [{}, new Uint8Array()], // a format that this page does not need
  };
  const view = new Values({
    name: data.name, note: '', height: Math.max(360, innerHeight - 380), selected: [], colors: {}, legend: {}, query: '',
    focus: '', status: 'ready', message: '', _revision: 1,
  }, ({ want }) => answers[want]());
  const rows = (name, more) => new Values({
    label: name, height: 320, query: '', selected: '', colors: {}, columns: data[name].columns,
    _rows: bytes(data[name]._rows), ...more,
  });
  const nodes = rows('nodes', { searchable: true });
  const operators = rows('operators', { searchable: false });

  nodes.on('change:selected', () => view.set('focus', nodes.get('selected')));
  view.on('change:selected', () => nodes.set('selected', view.get('selected')[0]?.name ?? ''));
  nodes.on('change:query', () => view.set('query', nodes.get('query')));
  operators.on('change:selected', () => nodes.set('query', operators.get('selected')));
  const by = element('by');
  by.append(...Object.keys(data.paints).map((label) => new Option(label)));
  by.addEventListener('change', () => {
    const { colors, legend } = data.paints[by.value];
    for (const each of [view, nodes]) each.set('colors', colors);
    view.set('legend', legend);
  });
  netron.default.render({ model: view, el: element('view') });
  table.default.render({ model: nodes, el: element('nodes') });
  table.default.render({ model: operators, el: element('operators') });
}

show();
