// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** `1.5 GiB` */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** `350 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min` */
export function formatDuration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

/** `45 %  120 MiB of 266 MiB  31 MiB/s  5 s left` */
export function formatProgress(progress: {
  bytesDone: number;
  bytesTotal: number;
  bytesPerSecond: number;
}): string {
  const { bytesDone, bytesTotal, bytesPerSecond } = progress;
  const parts = [`${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`];
  if (bytesTotal > 0) parts.unshift(formatPercent(bytesDone / bytesTotal));
  if (bytesPerSecond > 0) {
    parts.push(`${formatBytes(bytesPerSecond)}/s`);
    parts.push(`${formatDuration((Math.max(0, bytesTotal - bytesDone) / bytesPerSecond) * 1_000)} left`);
  }
  return parts.join("  ");
}

export const formatPercent = (share: number) => `${Math.round(share * 100)} %`;

/** Local time of day, with the date if it is not today's. */
export function formatInstant(at: number, now: number): string {
  const date = new Date(at);
  const time = date.toTimeString().slice(0, 8);
  return date.toDateString() === new Date(now).toDateString() ? time : `${isoDay(date)} ${time}`;
}

const isoDay = (date: Date) =>
  `${date.getFullYear()}-${String(date.getMonth() + 1).padStart(2, "0")}-${String(date.getDate()).padStart(2, "0")}`;

/** `10m`, `2h`, `3d`, `90s`: a span in ms; undefined for anything else. */
export function parseSpan(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/.exec(text.trim());
  if (match === null) return undefined;
  const factor = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] as "ms"];
  return Number(match[1]) * factor;
}
