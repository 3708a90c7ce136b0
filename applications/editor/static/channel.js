// WebSocket connection to the server. A frame is one line of JSON followed by binary data; protocol.py defines it.

export const MAX_MESSAGE_BYTES = 16 * 2 ** 20;
const RECONNECT_MS = 1500;
const NEWLINE = 10;

export class Channel {
  // onMessage(header, bytes) is called for each message, onConnectionChange(isOpen, reason) when the connection opens
  // or closes.
  constructor(onMessage, onConnectionChange) {
    this.onMessage = onMessage;
    this.onConnectionChange = onConnectionChange;
    this.lastId = 0;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/channel`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.onMessage(...unpack(new Uint8Array(event.data)));
    this.socket.onopen = () => this.onConnectionChange(true);
    this.socket.onclose = (event) => {
      this.onConnectionChange(false, event.reason);
      setTimeout(() => this.open(), RECONNECT_MS);
    };
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  // Send a message. Returns its id, which the reply repeats, or 0 without a connection.
  send(type, header = {}, payload = new Uint8Array(0)) {
    if (!this.isOpen) return 0;

    const id = ++this.lastId;
    this.socket.send(new Blob([`${JSON.stringify({ type, id, ...header })}\n`, payload]));
    return id;
  }
}

function unpack(frame) {
  const end = frame.indexOf(NEWLINE);
  const header = JSON.parse(new TextDecoder().decode(frame.subarray(0, end)));
  return [header, frame.subarray(end + 1)];
}
