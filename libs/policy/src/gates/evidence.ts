// The one statistical idea of the gates: a test that may be looked at after every request without raising false alarms.
//
// For each of a few alternatives ("the error rate is twice the limit") a likelihood ratio against the limit is carried
// along. Under the null hypothesis each ratio is a non-negative supermartingale that starts at 1, and so is their
// average; by Ville's inequality it exceeds 1/alpha at any time with probability at most alpha (J. Ville, 1939; Robbins,
// "Statistical Methods Related to the Law of the Iterated Logarithm", 1970; for A/B tests Johari, Koomen, Pekelis, Walsh,
// "Always Valid Inference", Operations Research 70, 2022; survey: Ramdas, Gruenwald, Vovk, Shafer, "Game-Theoretic
// Statistics and Safe Anytime-Valid Inference", 2023). One-sided: only alternatives that are worse are in the grid.

/** The logarithm of the average of exp(values), without overflow: the evidence of a grid of log likelihood ratios. */
function logAverage(values: readonly number[]): number {
  const highest = Math.max(...values);
  if (!Number.isFinite(highest)) return highest;
  return (
    highest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - highest), 0) / values.length)
  );
}

/** Whether the evidence against the null hypothesis is strong enough at level `alpha`. */
export const isConvincing = (values: readonly number[], alpha: number): boolean =>
  logAverage(values) >= Math.log(1 / alpha);
