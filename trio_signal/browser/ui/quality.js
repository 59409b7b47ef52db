// The quality of a connection, from the browser's statistics.

/**
 * @param {{ rtt?: number, lost?: number }} measured - The round-trip time in seconds, and the fraction lost.
 * @returns {'good' | 'fair' | 'poor' | ''} Empty if nothing is known yet.
 */
export function gradeOf({ rtt, lost = 0 }) {
  if (rtt === undefined) return '';
  if (lost > 0.08 || rtt > 0.5) return 'poor';
  return lost > 0.02 || rtt > 0.2 ? 'fair' : 'good';
}

/**
 * Measures the video that a peer connection sends, and how it arrives.
 *
 * @param {RTCPeerConnection | null} connection
 * @returns {Promise<{ rtt?: number, lost?: number, height?: number, fps?: number }>}
 */
export async function measureSent(connection) {
  const found = {};
  for (const report of (await connection?.getStats())?.values() ?? []) {
    if (report.type === 'candidate-pair' && report.nominated) found.rtt ??= report.currentRoundTripTime;
    if (report.type === 'remote-inbound-rtp') {
      found.lost = Math.max(found.lost ?? 0, report.fractionLost ?? 0);
    }
    if (report.type === 'outbound-rtp' && report.kind === 'video') {
      found.height = report.frameHeight;
      found.fps = report.framesPerSecond;
    }
  }
  return found;
}
