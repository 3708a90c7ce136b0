// Requests for images: decides which scene and view to show, with at most one request in flight.
//
// Interactions only change the wanted scene or view. `sendNext` compares these with the image on screen and sends the
// next request once the previous one has been answered. Outdated replies are therefore recognized, and a slow
// connection or server never builds up a queue.

export const sameView = (a, b) => ["azimuth", "polar", "zoom"].every((key) => Math.abs(a[key] - b[key]) < 1e-6);

const SLOW_MS = 400; // a preview comes first where a full image takes longer than this

export class RenderClient {
  // onImage(header, bytes, isNewScene) is called for each image that is still wanted, onChange() after each change of
  // state. whenIdle(callback) runs a callback once no stroke is in progress.
  constructor(channel, viewer, { onImage, onChange, whenIdle }) {
    Object.assign(this, { channel, viewer, onImage, onChange, whenIdle });
    this.scene = null; // name of the wanted scene; null while it is being computed, or if there is none
    this.sceneRequest = null; // function that returns the message [type, fields, payload] to compute the wanted scene
    this.inFlight = null; // {id, sceneRequest, header} of the request without an answer
    this.shown = null; // header of the image on screen
    this.failed = false; // the server reported an error; nothing is sent until something changes
    this.deferred = []; // callbacks that run once the wanted scene is ready and no stroke is in progress
    this.fullImageMs = Infinity; // rendering time of the last full image
  }

  get busy() {
    return Boolean(this.inFlight || (this.sceneRequest && !this.failed));
  }

  // Quality in which a new scene is rendered first.
  get firstQuality() {
    return this.fullImageMs < SLOW_MS ? "full" : "preview";
  }

  // Compute a new scene and show it.
  computeScene(sceneRequest) {
    Object.assign(this, { scene: null, sceneRequest });
    this.update();
  }

  // Show a scene that the server already has.
  showScene(scene) {
    Object.assign(this, { scene, sceneRequest: null });
    this.update();
  }

  // Call after anything changed that a request depends on.
  update() {
    this.failed = false;
    this.sendNext();
  }

  // Run a callback with the wanted scene available, which may have to be computed first.
  whenReady(callback) {
    this.deferred.push(callback);
    if (this.sceneRequest) this.update();
    else this.runDeferred();
  }

  runDeferred() {
    this.whenIdle(() => {
      while (!this.sceneRequest && this.deferred.length) this.deferred.shift()();
    });
  }

  sendNext() {
    if (!this.inFlight && !this.failed) {
      const message = this.nextMessage();
      const id = message ? this.channel.send(...message) : 0;
      this.inFlight = id ? { id, sceneRequest: this.sceneRequest, header: JSON.stringify(message[1]) } : null;
    }
    this.onChange();
  }

  // The message to send next, or null.
  nextMessage() {
    return this.sceneRequest ? this.sceneRequest() : this.renderMessage();
  }

  renderMessage() {
    const { scene } = this;
    const { view, settled } = this.viewer;
    if (!scene || this.isShown(view, !settled)) return null;
    return ["render", { scene, view, quality: settled ? "full" : "preview" }];
  }

  // Whether the wanted scene is on screen in this view.
  isShown(view, acceptPreview = false) {
    const { scene, shown } = this;
    if (!scene || shown?.scene !== scene || !sameView(shown.view, view)) return false;
    return acceptPreview || shown.quality === "full";
  }

  handleImage(header, bytes) {
    if (header.id !== this.inFlight?.id) return;
    const { sceneRequest } = this.inFlight;
    const isNewScene = Boolean(sceneRequest) && sceneRequest === this.sceneRequest;
    this.inFlight = null;
    if (header.quality === "full") this.fullImageMs = header.ms;
    if (isNewScene) Object.assign(this, { scene: header.scene, sceneRequest: null });

    // While another scene is being computed, the images of the previous one are still shown.
    if (this.sceneRequest || header.scene === this.scene) {
      this.shown = header;
      this.onImage(header, bytes, isNewScene);
    }
    this.runDeferred();
    this.sendNext();
  }

  // The server could not answer request `id`. An identical request is not sent again.
  handleError(id) {
    if (id !== this.inFlight?.id) return;
    const { sceneRequest, header } = this.inFlight;
    this.inFlight = null;
    this.failed = sceneRequest === this.sceneRequest && header === JSON.stringify(this.nextMessage()?.[1]);
    if (this.failed) this.deferred = [];
    this.sendNext();
  }

  // The request in flight will not be answered.
  handleDisconnect() {
    this.inFlight = null;
    this.deferred = [];
    this.onChange();
  }
}
