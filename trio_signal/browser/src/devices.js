// Cameras, microphones and screens.

/**
 * What {@link openCamera} opens.
 *
 * @typedef {object} CameraOptions
 * @property {string | false} [camera] - A device's id; false for sound alone.
 * @property {string | false} [microphone] - A device's id; false for a silent picture.
 * @property {number} [width] - Of the picture, if the camera has it: 1280 if not given.
 * @property {number} [height] - 720 if not given.
 */

/**
 * The devices of this machine. Their labels are empty until the user has allowed the page one of them.
 *
 * @typedef {object} Devices
 * @property {MediaDeviceInfo[]} cameras - For {@link openCamera}.
 * @property {MediaDeviceInfo[]} microphones - For {@link openCamera}.
 * @property {MediaDeviceInfo[]} speakers - For `setSinkId` of a video element.
 */

/**
 * Opens a camera with a microphone; if there is but one of the two, that one.
 *
 * @param {CameraOptions} [options] - Which, and how large.
 * @returns {Promise<MediaStream>} Rejects as `getUserMedia` does: `NotAllowedError`, `NotFoundError`, ...
 */
export async function openCamera({ camera, microphone, width = 1280, height = 720 } = {}) {
  const exactly = (id) => (id ? { deviceId: { exact: id } } : {});
  const video = camera !== false && { ...exactly(camera), width: { ideal: width }, height: { ideal: height } };
  const audio = microphone !== false && exactly(microphone);
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio });
  } catch (error) {
    if (error.name !== 'NotFoundError' || !video || !audio) throw error;
    // Which of the two is missing is not told.
    return navigator.mediaDevices.getUserMedia({ video }).catch((second) => {
      if (second.name !== 'NotFoundError') throw second;
      return navigator.mediaDevices.getUserMedia({ audio });
    });
  }
}

/**
 * Lets the user choose a screen, a window or a tab.
 *
 * @param {{ audio?: boolean }} [options] - Whether to ask for its sound as well; true if not given.
 * @returns {Promise<MediaStream>} Rejects as `getDisplayMedia` does: `NotAllowedError` if it was dismissed.
 */
export function openScreen({ audio = true } = {}) {
  return navigator.mediaDevices.getDisplayMedia({ video: true, audio });
}

/**
 * Lists the devices.
 *
 * @returns {Promise<Devices>} What there is now.
 */
export async function listDevices() {
  const all = await navigator.mediaDevices.enumerateDevices();
  const of = (kind) => all.filter((device) => device.kind === kind);
  return { cameras: of('videoinput'), microphones: of('audioinput'), speakers: of('audiooutput') };
}

/**
 * Calls `listener` with the devices now, and whenever one is plugged in or out.
 *
 * @param {(devices: Devices) => void} listener - What to call.
 * @returns {() => void} Stops that.
 */
export function watchDevices(listener) {
  let latest = 0;
  const look = async () => {
    const mine = ++latest; // an answer that a later one has overtaken is old
    const devices = await listDevices();
    if (mine === latest) listener(devices);
  };
  navigator.mediaDevices.addEventListener('devicechange', look);
  look();
  return () => {
    latest = -1;
    navigator.mediaDevices.removeEventListener('devicechange', look);
  };
}

/**
 * Ends all tracks: the camera's light goes out.
 *
 * @param {MediaStream | null} [stream] - None is fine.
 * @returns {void}
 */
export function closeStream(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
