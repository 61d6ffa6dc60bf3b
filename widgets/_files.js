// Front end of FilePick: a path box, a small listing of the server's folders, and uploads in pieces.

const PIECE = 4 << 20; // the server drops messages above 10 MiB without a word
const LAB_FILES = 'application/x-jupyter-icontents'; // what JupyterLab's file browser drags

const STYLE = `
.wb-files { display: flex; flex-direction: column; gap: 8px; box-sizing: border-box; padding: 8px;
  border: 1px dashed var(--jp-border-color1); border-radius: 4px; background: var(--jp-layout-color1);
  color: var(--jp-ui-font-color1); font-family: var(--jp-ui-font-family); font-size: var(--jp-ui-font-size1); }
.wb-files.wb-over { border-color: var(--jp-brand-color1); background: var(--jp-layout-color2); }
.wb-files [hidden] { display: none !important; }
.wb-files-row { display: flex; align-items: center; gap: 8px; min-width: 0; }
.wb-files-row label { flex: none; }
.wb-files-row input { flex: 1; min-width: 0; height: 28px; box-sizing: border-box; padding: 0 8px;
  border: 1px solid var(--jp-border-color1); border-radius: 2px; background: var(--jp-layout-color0);
  color: var(--jp-ui-font-color0); font: inherit; }
.wb-files-row input::placeholder { color: var(--jp-ui-font-color2); opacity: 1; }
.wb-files .jupyter-button { flex: none; width: auto; margin: 0; }
.wb-files-note { color: var(--jp-ui-font-color2); overflow-wrap: anywhere; }
.wb-files-note[role=alert] { color: var(--jp-error-color1); }
.wb-files progress { flex: 1; min-width: 0; accent-color: var(--jp-brand-color1); }
.wb-files-listing { border: 1px solid var(--jp-border-color2); border-radius: 2px; background: var(--jp-layout-color0); }
.wb-files-crumbs { display: flex; flex-wrap: wrap; align-items: center; padding: 4px;
  border-bottom: 1px solid var(--jp-border-color2); color: var(--jp-ui-font-color2); }
.wb-files-crumbs button { padding: 2px 4px; border: 0; border-radius: 2px; background: none;
  color: var(--jp-content-link-color, var(--jp-brand-color1)); font: inherit; cursor: pointer; }
.wb-files-crumbs button:hover { background: var(--jp-layout-color2); }
.wb-files-list { max-height: 240px; margin: 0; padding: 4px; overflow-y: auto; }
.wb-files-entry { display: flex; align-items: center; gap: 8px; padding: 4px; border-radius: 2px; cursor: pointer; }
.wb-files-entry:hover { background: var(--jp-layout-color2); }
.wb-files-entry svg { flex: none; width: 16px; height: 16px; fill: var(--jp-ui-font-color2); }
.wb-files-entry span { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.wb-files-entry small { color: var(--jp-ui-font-color2); font-size: inherit; font-variant-numeric: tabular-nums; }
.wb-files-empty { padding: 4px; color: var(--jp-ui-font-color2); }
.wb-files :focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: -1px; }
`;

const SHAPES = {
  folder: 'M1 3h5l2 2h7v8H1z',
  file: 'M3 1h6l4 4v10H3z',
};

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function button(text, onclick, className = 'jupyter-button') {
  return make('button', { type: 'button', textContent: text, className, onclick });
}

function icon(kind) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', SHAPES[kind]);
  svg.append(path);
  return svg;
}

class Picker {
  constructor(model, el) {
    this.model = model;
    this.waiting = new Map(); // id of a question to what to do with its answer
    this.build(el);
    this.listeners = {
      'change:path': () => this.refresh(),
      'change:message': () => this.refresh(),
      'change:error': () => this.refresh(),
      'change:label': () => this.refresh(),
      'msg:custom': (reply) => this.waiting.get(reply.id)?.(reply),
    };
    for (const [name, listener] of Object.entries(this.listeners)) model.on(name, listener);
    this.refresh();
  }

  build(el) {
    const id = `wb-files-${Math.random().toString(36).slice(2)}`;
    this.label = make('label', { htmlFor: id });
    this.input = make('input', {
      id, type: 'text', spellcheck: false, autocomplete: 'off', onchange: () => this.choose(this.input.value),
      onkeydown: (event) => event.key === 'Enter' && this.choose(this.input.value), // JupyterLab prevents the change
    });
    this.browse = button('Browse…', () => (this.listing.hidden ? this.list('') : this.closeListing()));
    this.chooser = make('input', { type: 'file', hidden: true, onchange: () => this.uploadChosen() });
    const upload = button('Upload…', () => this.chooser.click());
    upload.hidden = !this.model.get('_can_upload');
    this.crumbs = make('div', { className: 'wb-files-crumbs' });
    this.entries = make('div', { className: 'wb-files-list', onkeydown: (event) => this.moveByKey(event) });
    this.entries.setAttribute('role', 'listbox');
    this.entries.setAttribute('aria-label', 'Files on the server');
    this.listing = make('div', { className: 'wb-files-listing', hidden: true }, this.crumbs, this.entries);
    this.bar = make('progress', { max: 1, value: 0, ariaLabel: 'Upload' });
    this.percent = make('span');
    this.progress = make('div', { className: 'wb-files-row', hidden: true }, this.bar, this.percent, button('Cancel', () => { this.cancelled = true; }));
    this.note = make('div', { className: 'wb-files-note' });
    this.root = make('div', { className: 'wb-files' },
      make('div', { className: 'wb-files-row' }, this.label, this.input, this.browse, upload, this.chooser),
      this.listing, this.progress, this.note);
    this.root.setAttribute('role', 'group');
    this.root.dataset.lmSuppressShortcuts = 'true'; // keys are for the picker, not for the notebook around it
    this.acceptDrops();
    el.append(make('style', { textContent: STYLE }), this.root);
  }

  refresh() {
    const { model } = this;
    const error = model.get('error');
    const hint = model.get('_can_upload') ? 'Type a path, browse the server, or drop a file here.' : 'Type a path or browse the server.';
    this.root.setAttribute('aria-label', `Choose: ${model.get('label')}`);
    this.label.textContent = model.get('label');
    this.input.placeholder = `Path on the server${this.suffixes(' (', ')')}`;
    this.chooser.accept = model.get('_suffixes').join(',');
    if (model.get('path') || !error) this.input.value = model.get('path'); // keep what was typed wrongly
    this.note.setAttribute('role', error ? 'alert' : 'status');
    this.note.textContent = error || model.get('message') || hint;
  }

  suffixes(before, after) {
    const wanted = this.model.get('_suffixes').map((suffix) => `*${suffix}`);
    return wanted.length ? before + wanted.join(', ') + after : '';
  }

  ask(question, buffers = []) {
    const id = `${Date.now()}-${Math.random()}`;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, (reply) => {
        this.waiting.delete(id);
        if (reply.error) reject(new Error(reply.error));
        else resolve(reply);
      });
      this.model.send({ ...question, id }, undefined, buffers);
    });
  }

  async choose(path) {
    await this.ask({ do: 'choose', path });
    this.refresh();
    this.closeListing();
  }

  // --- listing -------------------------------------------------------------

  closeListing() {
    if (this.listing.contains(document.activeElement)) this.browse.focus();
    this.listing.hidden = true;
    this.browse.setAttribute('aria-expanded', 'false');
  }

  async list(path) {
    try {
      this.showListing(await this.ask({ do: 'list', path }));
    } catch (error) {
      this.note.setAttribute('role', 'alert');
      this.note.textContent = error.message;
    }
  }

  showListing({ path, crumbs, entries, more }) {
    const hadFocus = this.listing.contains(document.activeElement) || this.listing.hidden;
    this.parent = crumbs.at(-2)?.path;
    this.crumbs.replaceChildren(...crumbs.flatMap(({ name, path: place }, index) => [
      ...(index > 0 && name !== '/' && crumbs[index - 1].name !== '/' ? ['/'] : []),
      button(name, () => this.list(place), ''),
    ]));
    if (this.model.get('_folders')) this.crumbs.append(button('Choose this folder', () => this.choose(path)));
    this.entries.replaceChildren(...entries.map((entry) => this.row(entry)));
    if (entries.length === 0) this.entries.append(this.text(`No folders${this.suffixes(' or ', ' files') || ' or files'} here`));
    if (more) this.entries.append(this.text(`and ${more} more: type the path instead`));
    this.listing.hidden = false;
    this.browse.setAttribute('aria-expanded', 'true');
    if (hadFocus) (this.entries.querySelector('[role=option]') ?? this.browse).focus();
  }

  text(words) {
    return make('div', { className: 'wb-files-empty', textContent: words });
  }

  row({ name, path, folder, size }) {
    const open = () => (folder ? this.list(path) : this.choose(path));
    const row = make('div', { className: 'wb-files-entry', tabIndex: -1, title: name, onclick: open },
      icon(folder ? 'folder' : 'file'), make('span', { textContent: name }), make('small', { textContent: size }));
    row.setAttribute('role', 'option');
    row.setAttribute('aria-label', folder ? `${name}, folder` : `${name}, ${size}`);
    row.tabIndex = 0;
    return row;
  }

  moveByKey(event) {
    const rows = [...this.entries.querySelectorAll('[role=option]')];
    const at = rows.indexOf(document.activeElement);
    const moves = {
      ArrowDown: () => rows[Math.min(at + 1, rows.length - 1)]?.focus(),
      ArrowUp: () => rows[Math.max(at - 1, 0)]?.focus(),
      Home: () => rows[0]?.focus(),
      End: () => rows.at(-1)?.focus(),
      Enter: () => rows[at]?.click(),
      Backspace: () => this.parent && this.list(this.parent),
      Escape: () => this.closeListing(),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }

  // --- uploads ---------------------------------------------------------------

  uploadChosen() {
    const [file] = this.chooser.files;
    this.chooser.value = ''; // so that the same file can be chosen again
    if (file) this.upload(file);
  }

  async upload(file) {
    if (!this.progress.hidden) return; // one at a time
    this.cancelled = false;
    this.showProgress(0);
    this.progress.hidden = false;
    try {
      await this.ask({ do: 'start', name: file.name, size: file.size });
      for (let offset = 0; offset < file.size && !this.cancelled; offset += PIECE) {
        const piece = await file.slice(offset, offset + PIECE).arrayBuffer();
        await this.ask({ do: 'piece', offset }, [piece]);
        this.showProgress(Math.min(1, (offset + PIECE) / file.size));
      }
      await this.ask({ do: this.cancelled ? 'cancel' : 'end' });
    } catch (error) { // the kernel shows its own errors; this one may be the browser's
      this.model.set('error', error.message);
      this.model.save_changes();
    }
    this.progress.hidden = true;
    this.closeListing();
  }

  showProgress(share) {
    this.bar.value = share;
    this.percent.textContent = `${Math.round(100 * share)} %`;
  }

  acceptDrops() {
    const { root } = this;
    const hover = (over) => root.classList.toggle('wb-over', over);
    const take = (event) => { event.preventDefault(); event.stopPropagation(); };
    const onBrowser = (name, action) => root.addEventListener(name, (event) => {
      if (!this.model.get('_can_upload')) return;
      take(event);
      action(event);
    });
    onBrowser('dragover', () => hover(true));
    onBrowser('dragleave', () => hover(false));
    onBrowser('drop', (event) => {
      hover(false);
      if (event.dataTransfer.files.length) this.upload(event.dataTransfer.files[0]);
    });
    const onLab = (name, action) => root.addEventListener(name, (event) => {
      if (!event.mimeData.hasData(LAB_FILES)) return;
      take(event);
      action(event);
    });
    const offer = (event) => { hover(true); event.dropAction = event.proposedAction; };
    onLab('lm-dragenter', offer);
    onLab('lm-dragover', offer);
    onLab('lm-dragleave', () => hover(false));
    onLab('lm-drop', (event) => {
      hover(false);
      event.dropAction = 'none'; // the file itself stays where it is
      this.choose(event.mimeData.getData(LAB_FILES)[0]);
    });
  }

  dispose() {
    this.cancelled = true;
    for (const [name, listener] of Object.entries(this.listeners)) this.model.off(name, listener);
  }
}

export default {
  render({ model, el }) {
    const picker = new Picker(model, el);
    return () => picker.dispose();
  },
};
