/** The time since a moment, as `4:07` or `1:00:09`. */
export function timeSince(since, now = Date.now()) {
  const seconds = Math.max(0, Math.floor((now - new Date(since)) / 1000));
  const minutes = String(Math.floor(seconds / 60) % 60).padStart(seconds < 3600 ? 1 : 2, '0');
  const rest = `${minutes}:${String(seconds % 60).padStart(2, '0')}`;
  return seconds < 3600 ? rest : `${Math.floor(seconds / 3600)}:${rest}`;
}
