// What both sides measure: one start, from the moment when a replica is wanted until its first token is there.

/** A piece of a start, ms since its beginning. */
export type Span = { what: string; from: number; to: number };

export type Start = {
  /** Until the first token was there. */
  ms: number;
  spans: Span[];
  /** Log probability of the first token: the same weights give the same one. */
  logprob: number;
};

/** Spans from one instant to the next, in order. */
export function chain(began: number, steps: readonly (readonly [what: string, at: number])[]): Span[] {
  let from = 0;
  return steps.map(([what, at]) => {
    const span = { what, from, to: at - began };
    from = span.to;
    return span;
  });
}

/** A start in one line: its seconds, and each span's. */
export function inOneLine({ ms, spans }: Start): string {
  const shown = (value: number) => `${(value / 1000).toFixed(2)} s`;
  return `${shown(ms)} (${spans.map(({ what, from, to }) => `${what} ${shown(to - from)}`).join(", ")})`;
}
