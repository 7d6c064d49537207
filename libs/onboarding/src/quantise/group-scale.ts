// The scale s of a group of weights w in 4 bits: the one that makes Σ (w − s·q)² least, where q = round(w / s) within −8…7. Nothing
// but the weights is looked at. Pure, and the same on every machine: only IEEE arithmetic in one order.
//
//   1. Of a few scales the best is taken: clipping the largest weight a little usually costs less than coarser steps for all others.
//      (OCTAV, Sakr et al. 2022, arXiv:2206.06501, has the reasoning; a search is as good where only a few values come into question.)
//   2. Both signs are tried. There is one code more below zero than above, and which side has more use for it differs from group
//      to group: with a negative scale it is the weights above zero. Engines multiply by the scale, whatever its sign; llama.cpp's
//      Q4_0 has such scales too.
//   3. With the codes held, the best scale is Σwq / Σq² (least squares), which may change codes in turn: as Lloyd's quantiser (1982)
//      does, step by step, as long as the error falls.
import { roundHalfEven } from "./float8.ts";

export const INT4_CODES = { min: -8, max: 7 };
/** Of the largest weight: with 7 it is kept, beyond it is clipped, the more so the larger. */
const DIVISORS = [7, 7.5, 8, 8.5, 9, 9.5, 10];
const LEAST_SQUARES_STEPS = 2;

/** The best scale that `rounded` (to the type that scales are kept in; never zero) allows. */
export function leastErrorScale(weights: Float32Array, rounded: (scale: number) => number): number {
  let largest = 0;
  for (let i = 0; i < weights.length; i++) largest = Math.max(largest, Math.abs(weights[i] as number));
  let best = 1;
  let least = Number.POSITIVE_INFINITY;
  const consider = (scale: number): boolean => {
    const error = squaredError(weights, scale, least);
    if (error >= least) return false;
    [best, least] = [scale, error];
    return true;
  };
  for (const divisor of DIVISORS) {
    consider(rounded(largest / divisor));
    consider(rounded(-largest / divisor));
  }
  for (let step = 0; step < LEAST_SQUARES_STEPS; step++) {
    const next = leastSquaresScale(weights, best);
    if (next === null || !consider(rounded(next))) break;
  }
  return best;
}

/** The code of a weight. */
export const int4Code = (weight: number, scale: number): number =>
  Math.max(INT4_CODES.min, Math.min(INT4_CODES.max, roundHalfEven(weight / scale)));

/** Stops adding when it is no better than `least`. */
function squaredError(weights: Float32Array, scale: number, least: number): number {
  let sum = 0;
  for (let i = 0; i < weights.length && sum < least; i++) {
    const weight = weights[i] as number;
    const off = weight - int4Code(weight, scale) * scale;
    sum += off * off;
  }
  return sum;
}

/** Null where every code is zero. */
function leastSquaresScale(weights: Float32Array, scale: number): number | null {
  let products = 0;
  let squares = 0;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i] as number;
    const code = int4Code(weight, scale);
    products += weight * code;
    squares += code * code;
  }
  return squares === 0 ? null : products / squares;
}
