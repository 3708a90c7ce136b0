// Files that the server is preparing: progress bar and download.

const URL_LIFETIME_MS = 60_000; // a browser may ask the user before it saves

export class Downloads {
  constructor(row, bar) {
    Object.assign(this, { row, bar });
    this.pending = new Map(); // first part of the file's name, by request id
  }

  start(id, prefix) {
    if (id) this.pending.set(id, prefix);
  }

  showProgress({ id, done }) {
    if (!this.pending.has(id)) return;
    this.row.hidden = false;
    this.bar.value = done;
  }

  finish(id) {
    this.pending.delete(id);
    if (!this.pending.size) this.row.hidden = true;
  }

  finishAll() {
    for (const id of [...this.pending.keys()]) this.finish(id);
  }

  save({ id, name }, bytes) {
    if (!this.pending.has(id)) return;
    const prefix = this.pending.get(id);
    this.finish(id);

    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = `${prefix}_${name}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), URL_LIFETIME_MS);
  }
}
