// Two tests on failed requests: against a limit, and against the other version.

/** Alternatives to "at most errorRateMax": so many times that rate. */
const RATE_FACTORS = [1.5, 2, 3, 5, 10, 30];
/** Alternatives to "at most errorRatioMax times the other version's rate": so many times more than that. */
const RATIO_FACTORS = [1.3, 1.7, 2.5, 5, 10, 30];
/** A limit of zero would make the first failed request infinitely telling; this rate stands for "none". */
const RATE_MIN = 1e-4;

export const emptyErrorRate = (): number[] => RATE_FACTORS.map(() => 0);
export const emptyErrorRatio = (): number[] => RATIO_FACTORS.map(() => 0);

/** Bernoulli likelihood ratios of `errors` out of `requests` more requests, against the rate `limit`. */
export function addToErrorRate(
  logs: readonly number[],
  requests: number,
  errors: number,
  limit: number,
): number[] {
  const p0 = Math.max(RATE_MIN, limit);
  if (p0 >= 1) return [...logs];
  return logs.map((log, index) => {
    const p1 = Math.min((1 + p0) / 2, p0 * (RATE_FACTORS[index] ?? 1));
    return log + errors * Math.log(p1 / p0) + (requests - errors) * Math.log((1 - p1) / (1 - p0));
  });
}

/**
 * Which version the failures of one stretch of time fell on. If both fail alike, m failures fall on the candidate as if
 * drawn from all requests of the stretch: hypergeometric, and binomial(m, share) dominates that in convex order
 * (Hoeffding, "Probability Inequalities for Sums of Bounded Random Variables", 1963, theorem 4), so the ratio
 *   rho^x / (1 + share * (rho - 1))^m
 * has expectation at most 1. Only the order inside a stretch is used, so shares may change between stretches and the
 * error rate of both may drift; compare Turner, Ly, Gruenwald, "Generic E-variables for exact sequential k-sample tests"
 * (2021). `limit` > 1 tilts the null hypothesis: then the candidate's requests count `limit` times.
 */
export function addToErrorRatio(
  logs: readonly number[],
  candidate: { requests: number; errors: number },
  stable: { requests: number; errors: number },
  limit: number,
): number[] {
  const failures = candidate.errors + stable.errors;
  const tilted = candidate.requests * limit;
  if (failures === 0 || tilted + stable.requests === 0) return [...logs];
  const share = tilted / (tilted + stable.requests);
  return logs.map((log, index) => {
    const rho = RATIO_FACTORS[index] ?? 1;
    return log + candidate.errors * Math.log(rho) - failures * Math.log1p(share * (rho - 1));
  });
}
