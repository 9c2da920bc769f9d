// A camera of this device in a <video>: start, stop, the other camera, and what can go wrong in words.

const REASONS = {
  NotAllowedError:
    "The browser was not allowed to use the camera. Allow it in the browser's site settings.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "Another program is using the camera. Close it and try again.",
};
const LOST = "The camera was lost. It was unplugged, or the browser does not allow it any more.";

/** Whether this page may ask for a camera: a secure context with a camera interface. */
export function hasCamera() {
  return window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
}

export class Camera {
  #video;
  #lost;
  #stream = null;
  #wanted = false;
  #facing = "environment";

  /**
   * @param {HTMLVideoElement} video shows what the camera sees
   * @param {(sentence: string) => void} lost called when the camera has stopped by itself
   */
  constructor(video, lost) {
    this.#video = video;
    this.#lost = lost;
  }

  get isOn() {
    return this.#stream !== null;
  }

  /**
   * Start the camera; resolves to whether the device has another one. Throws an Error whose message is
   * a sentence for the person.
   */
  async start(width, height) {
    this.stop();
    this.#wanted = true;
    try {
      const video = { facingMode: this.#facing, width: { ideal: width }, height: { ideal: height } };
      const stream = await navigator.mediaDevices.getUserMedia({ video });
      if (!this.#wanted) {
        stream.getTracks().forEach((track) => track.stop()); // stopped meanwhile
        return false;
      }
      this.#stream = stream;
      for (const track of stream.getTracks()) {
        track.addEventListener("ended", () => this.#end(stream)); // not fired by our own stop()
      }
      this.#video.srcObject = stream;
      const devices = await navigator.mediaDevices.enumerateDevices();
      return devices.filter((device) => device.kind === "videoinput").length > 1;
    } catch (error) {
      throw new Error(
        REASONS[error.name] ?? `The camera could not be started (${error.name}).`,
        { cause: error },
      );
    }
  }

  /** The other camera will be started next: the one at the back or at the front. */
  turn() {
    this.#facing = this.#facing === "environment" ? "user" : "environment";
  }

  /** Stop the camera; its light goes off. */
  stop() {
    this.#wanted = false;
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }

  #end(stream) {
    if (stream !== this.#stream) return; // an earlier one
    this.stop();
    this.#lost(LOST);
  }

  /** The picture of this moment on a canvas whose longer side has `side` pixels at most. */
  frame(side = Infinity) {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const scale = Math.min(1, side / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(scale * width));
    canvas.height = Math.max(1, Math.round(scale * height));
    canvas.getContext("2d").drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    return canvas;
  }
}
