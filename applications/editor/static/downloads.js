// Files that the server makes: which are under way, and handing them over.

const KEPT_MS = 60_000; // a browser may ask before it saves

export class Downloads {
  constructor(row, bar) {
    Object.assign(this, { row, bar });
    this.waiting = new Set(); // ids of requests
  }

  asked(id) {
    if (id) this.waiting.add(id);
  }

  progress({ id, done }) {
    if (!this.waiting.has(id)) return;
    this.row.hidden = false;
    this.bar.value = done;
  }

  ended(id) {
    this.waiting.delete(id);
    if (!this.waiting.size) this.row.hidden = true;
  }

  endAll() {
    for (const id of [...this.waiting]) this.ended(id);
  }

  deliver({ id, name }, bytes) {
    if (!this.waiting.has(id)) return;
    this.ended(id);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
  }
}
