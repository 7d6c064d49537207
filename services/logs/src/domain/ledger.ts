// What was taken in already: for each source the ranges of its bytes. Batches of one source follow each other without gaps,
// so its ranges melt into one, and a batch is recognised however late it comes again (I7, way in).
import * as z from "zod";

type Range = [from: number, to: number];
type Source = { ranges: Range[]; seenAt: number };

const saved = z.record(
  z.string(),
  z.object({ ranges: z.array(z.tuple([z.number(), z.number()])), seenAt: z.number() }),
);

export class Ledger {
  readonly #sources = new Map<string, Source>();

  /** Whether all of these bytes were taken in. */
  has(source: string, from: number, to: number): boolean {
    return this.#sources.get(source)?.ranges.some((range) => range[0] <= from && to <= range[1]) ?? false;
  }

  add(source: string, from: number, to: number, now: number): void {
    const known = this.#sources.get(source);
    if (known === undefined) {
      this.#sources.set(source, { ranges: [[from, to]], seenAt: now });
      return;
    }
    known.seenAt = now;
    const last = known.ranges.at(-1);
    if (last !== undefined && last[1] === from) last[1] = to;
    else known.ranges = melt([...known.ranges, [from, to]]);
  }

  /** Forgets sources of which nothing came for `keepMs`, and the longest silent ones beyond `sourcesMax`. */
  prune(now: number, keepMs: number, sourcesMax: number): void {
    const bySilence = [...this.#sources].sort(([, a], [, b]) => b.seenAt - a.seenAt);
    for (const [i, [name, { seenAt }]] of bySilence.entries())
      if (i >= sourcesMax || now - seenAt > keepMs) this.#sources.delete(name);
  }

  toJSON(): Record<string, Source> {
    return Object.fromEntries(this.#sources);
  }

  /** Adds what an earlier process had. Throws for what is no ledger. */
  restore(value: unknown): void {
    for (const [name, source] of Object.entries(saved.parse(value))) this.#sources.set(name, source);
  }
}

/** Sorts ranges and joins those that touch or overlap. */
function melt(ranges: readonly Range[]): Range[] {
  const melted: Range[] = [];
  for (const [from, to] of ranges.toSorted((a, b) => a[0] - b[0])) {
    const last = melted.at(-1);
    if (last !== undefined && from <= last[1]) last[1] = Math.max(last[1], to);
    else melted.push([from, to]);
  }
  return melted;
}
