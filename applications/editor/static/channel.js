// The WebSocket to the server: frames of one line of JSON and then bytes, as protocol.py has them.

export const MAX_MESSAGE_BYTES = 16 * 2 ** 20;
const RETRY_MS = 1500;

export class Channel {
  // receive(header, bytes) is called for each message; connected(whether, why not) when the line opens or breaks.
  constructor(receive, connected) {
    this.receive = receive;
    this.connected = connected;
    this.id = 0;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/channel`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.receive(...unpack(new Uint8Array(event.data)));
    this.socket.onopen = () => this.connected(true);
    this.socket.onclose = (event) => {
      this.connected(false, event.reason);
      setTimeout(() => this.open(), RETRY_MS);
    };
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  // The id under which the answer comes, or 0 where the line is broken.
  send(type, header = {}, payload = new Uint8Array(0)) {
    if (!this.isOpen) return 0;
    const id = ++this.id;
    this.socket.send(new Blob([`${JSON.stringify({ type, id, ...header })}\n`, payload]));
    return id;
  }
}

function unpack(frame) {
  const end = frame.indexOf(10);
  return [JSON.parse(new TextDecoder().decode(frame.subarray(0, end))), frame.subarray(end + 1)];
}
