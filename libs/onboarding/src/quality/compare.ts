// Two judgements of one text, before and after, as figures. Pure.
import type { Judged } from "./judge.ts";

export type TextQuality = {
  /** Judged tokens. */
  tokens: number;
  /** e to the mean surprise, in nats, of the text's tokens: 1 is perfect. */
  perplexity: { before: number; after: number };
  /**
   * Mean divergence of the next token's distribution after from that before, in nats. The tokens that are among the likeliest of
   * both count singly, all others as one: a lower bound.
   */
  divergenceMin: number;
  /** Share of the places at which both find the same token likeliest. */
  sameLikeliest: number;
};

export function compareJudgements(before: readonly Judged[], after: readonly Judged[]): TextQuality {
  const pairs = before.map((one, i) => [one, after[i] as Judged] as const);
  const mean = (of: (before: Judged, after: Judged) => number): number =>
    pairs.reduce((sum, [one, other]) => sum + of(one, other), 0) / pairs.length;
  return {
    tokens: pairs.length,
    perplexity: {
      before: Math.exp(-mean((one) => one.logprob)),
      after: Math.exp(-mean((_, other) => other.logprob)),
    },
    divergenceMin: mean(divergence),
    sameLikeliest: mean((one, other) => (one.likeliest[0]?.tokenId === other.likeliest[0]?.tokenId ? 1 : 0)),
  };
}

function divergence(before: Judged, after: Judged): number {
  const others = new Map(after.likeliest.map(({ tokenId, logprob }) => [tokenId, logprob]));
  let [sum, restBefore, restAfter] = [0, 1, 1];
  for (const { tokenId, logprob } of before.likeliest) {
    const other = others.get(tokenId);
    if (other === undefined) continue;
    sum += Math.exp(logprob) * (logprob - other);
    restBefore -= Math.exp(logprob);
    restAfter -= Math.exp(other);
  }
  return sum + (restBefore > 0 && restAfter > 0 ? restBefore * Math.log(restBefore / restAfter) : 0);
}
