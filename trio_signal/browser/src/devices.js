// Cameras, microphones and screens.

/**
 * Options of {@link openCamera}.
 *
 * @typedef {object} CameraOptions
 * @property {string | false} [camera] - The id of a device; false for audio only.
 * @property {string | false} [microphone] - The id of a device; false for video only.
 * @property {number} [width] - The preferred width of the video; by default 1280.
 * @property {number} [height] - The preferred height of the video; by default 720.
 */

/**
 * The devices of this machine. Their labels are empty until the user has granted the page access to a
 * device.
 *
 * @typedef {object} Devices
 * @property {MediaDeviceInfo[]} cameras - For {@link openCamera}.
 * @property {MediaDeviceInfo[]} microphones - For {@link openCamera}.
 * @property {MediaDeviceInfo[]} speakers - For `setSinkId` of a video element.
 */

/**
 * Opens a camera and a microphone, or only one of them if the other does not exist.
 *
 * @param {CameraOptions} [options] - Which devices, and the size of the video.
 * @returns {Promise<MediaStream>} The stream. Rejects like `getUserMedia`: `NotAllowedError`,
 *   `NotFoundError`, ...
 */
export async function openCamera({ camera, microphone, width = 1280, height = 720 } = {}) {
  const exactly = (id) => (id ? { deviceId: { exact: id } } : {});
  const video = camera !== false && { ...exactly(camera), width: { ideal: width }, height: { ideal: height } };
  const audio = microphone !== false && exactly(microphone);
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio });
  } catch (error) {
    if (error.name !== 'NotFoundError' || !video || !audio) throw error;
    // The error does not say which of the two is missing.
    return navigator.mediaDevices.getUserMedia({ video }).catch((second) => {
      if (second.name !== 'NotFoundError') throw second;
      return navigator.mediaDevices.getUserMedia({ audio });
    });
  }
}

/**
 * Lets the user choose a screen, a window or a tab.
 *
 * @param {{ audio?: boolean }} [options] - Whether to share audio as well; true by default.
 * @returns {Promise<MediaStream>} The stream. Rejects like `getDisplayMedia`: `NotAllowedError` if the user
 *   dismisses the dialog.
 */
export function openScreen({ audio = true } = {}) {
  return navigator.mediaDevices.getDisplayMedia({ video: true, audio });
}

/**
 * Lists the devices.
 *
 * @returns {Promise<Devices>} The current devices.
 */
export async function listDevices() {
  const all = await navigator.mediaDevices.enumerateDevices();
  const of = (kind) => all.filter((device) => device.kind === kind);
  return { cameras: of('videoinput'), microphones: of('audioinput'), speakers: of('audiooutput') };
}

/**
 * Calls `listener` with the current devices, and again whenever a device is plugged in or removed.
 *
 * @param {(devices: Devices) => void} listener - The function to call.
 * @returns {() => void} A function that stops the calls.
 */
export function watchDevices(listener) {
  let latest = 0;
  const look = async () => {
    const mine = ++latest; // an older answer that arrives later is ignored
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
 * Stops all tracks of a stream, so that the camera's light goes out.
 *
 * @param {MediaStream | null} [stream] - The stream; null and undefined are ignored.
 * @returns {void}
 */
export function closeStream(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
