// A cold start drawn in the terminal: each phase begins where the one before ended.
import type { CompileCacheView, ReplicaPhaseName, Waterfall } from "@pilotlight/control-api";
import { formatBytes, formatDuration } from "./format.ts";

/** What happened until a replica entered the phase. */
const UNTIL: Record<ReplicaPhaseName, string> = {
  decided: "decided",
  placed: "placed on its node",
  imageUsable: "image usable",
  processUp: "process up",
  firstByte: "first weights",
  lastByte: "last weights",
  engineReady: "engine ready",
  ready: "first token",
  draining: "draining",
  gone: "gone",
};

const LABEL_WIDTH = Math.max(...Object.values(UNTIL).map((text) => text.length));
const TIMES_WIDTH = 24;
const BAR_MIN = 10;

/** Lines of the drawing, at most `columns` wide. */
export function drawWaterfall(waterfall: Waterfall, columns: number): string[] {
  const { rows, failure } = waterfall;
  const spanMs = Math.max(1, rows.at(-1)?.sinceStartMs ?? 0);
  const width = Math.max(BAR_MIN, Math.min(60, columns - LABEL_WIDTH - TIMES_WIDTH - 4));
  const column = (ms: number) => Math.round((ms / spanMs) * width);
  const lines = rows.map(({ phase, sinceStartMs, durationMs }) => {
    const from = column(sinceStartMs - durationMs);
    const length = Math.max(durationMs > 0 ? 1 : 0, column(sinceStartMs) - from);
    const bar = (" ".repeat(Math.min(from, width - length)) + "█".repeat(length)).padEnd(width);
    const times = `${formatDuration(durationMs).padStart(9)}  ${formatDuration(sinceStartMs).padStart(9)}`;
    return `  ${UNTIL[phase].padEnd(LABEL_WIDTH)} ${bar} ${times}`;
  });
  const title = `${waterfall.replicaId} on ${waterfall.nodeId}: ${
    waterfall.totalMs === null
      ? `not ready (${waterfall.phase})`
      : `ready after ${formatDuration(waterfall.totalMs)}`
  }`;
  return [
    title,
    ...lines,
    ...(waterfall.compileCache === null ? [] : [`  compile cache: ${describeCache(waterfall.compileCache)}`]),
    ...(failure === null ? [] : [`  failed: ${failure.message}`, `  ${failure.remedy}`]),
  ];
}

/** What became of a compile cache, in a few words. */
export function describeCache({ outcome, bytes, durationMs, savedBytes }: CompileCacheView): string {
  const saved = savedBytes === 0 ? "" : `, ${formatBytes(savedBytes)} saved`;
  switch (outcome) {
    case "hit":
      return `${formatBytes(bytes)} restored in ${formatDuration(durationMs)}${saved}`;
    case "held":
      return `on the node already${saved}`;
    case "miss":
      return `none yet${saved}`;
    case "broken":
      return `not usable, started without${saved}`;
    default:
      return outcome satisfies never;
  }
}
