//! Attention of one token over the cached keys and values of its sequence, block by block with a running softmax
//! (https://arxiv.org/abs/1805.02867). Blocks are counted from the sequence's first token, so a token's result is the
//! same whether it was computed in a prompt, in a chunk of one or alone.
//!
//! A block holds BLOCK_TOKENS tokens of one key/value head: keys transposed [head_dim][BLOCK_TOKENS], so that scores
//! need no horizontal sums, values [BLOCK_TOKENS][head_dim].

use super::Dtype;
use super::simd::{Bf16, F16, F32, Simd, Widen, exp};

/// Tokens in one block of the key/value cache.
pub const BLOCK_TOKENS: usize = 32;
/// Query heads that are computed together, because they read the same keys and values.
const HEADS_TOGETHER: usize = 4;
pub const HEAD_DIM_MAX: usize = 256;

pub struct Query<'a> {
    /// [heads][head_dim] of the heads that share this key/value head, already scaled by 1/sqrt(head_dim).
    pub q: &'a [f32],
    pub head_dim: usize,
    /// Keys of this layer and head in block 0 of the cache; block b lies `block_bytes * b` further.
    pub keys: *const u8,
    /// Likewise the values.
    pub values: *const u8,
    pub block_bytes: usize,
    /// The sequence's blocks in order.
    pub blocks: &'a [u32],
    pub dtype: Dtype,
    /// The visible positions of the sequence: start..end.
    pub start: usize,
    pub end: usize,
}

/// # Safety
/// For each of `blocks`, `keys` and `values` span head_dim * BLOCK_TOKENS elements of `dtype`.
#[inline(always)]
pub unsafe fn attend<S: Simd>(query: &Query, out: &mut [f32]) {
    let d = query.head_dim;
    assert!(
        d <= HEAD_DIM_MAX && query.q.len() == out.len() && query.q.len().is_multiple_of(d) && query.start < query.end
    );
    assert!(query.end <= query.blocks.len() * BLOCK_TOKENS);
    unsafe {
        match query.dtype {
            Dtype::F32 => all_heads::<S, F32>(query, out),
            Dtype::Bf16 => all_heads::<S, Bf16>(query, out),
            Dtype::F16 => all_heads::<S, F16>(query, out),
        }
    }
}

#[inline(always)]
unsafe fn all_heads<S: Simd, T: Widen>(query: &Query, out: &mut [f32]) {
    let d = query.head_dim;
    let together = HEADS_TOGETHER * d;
    for (q, out) in query.q.chunks(together).zip(out.chunks_mut(together)) {
        unsafe {
            match q.len() / d {
                1 => heads::<S, T, 1>(query, q, out),
                2 => heads::<S, T, 2>(query, q, out),
                3 => heads::<S, T, 3>(query, q, out),
                _ => heads::<S, T, 4>(query, q, out),
            }
        }
    }
}

#[inline(always)]
unsafe fn heads<S: Simd, T: Widen, const H: usize>(query: &Query, q: &[f32], out: &mut [f32]) {
    let d = query.head_dim;
    // Sums of values, weighted relative to the running maximum.
    out.fill(0.0);
    let mut max = [f32::NEG_INFINITY; H];
    let mut sum = [0.0f32; H];
    let mut weights = [[0.0f32; BLOCK_TOKENS]; H];

    for block in query.start / BLOCK_TOKENS..query.end.div_ceil(BLOCK_TOKENS) {
        let first = query.start.saturating_sub(block * BLOCK_TOKENS);
        let last = (query.end - block * BLOCK_TOKENS).min(BLOCK_TOKENS);
        unsafe {
            let place = query.block_bytes * query.blocks[block] as usize;
            scores::<S, T, H>(d, q, query.keys.add(place).cast(), &mut weights);
            let mut rescale = [1.0f32; H];
            for h in 0..H {
                weights[h][..first].fill(f32::NEG_INFINITY);
                weights[h][last..].fill(f32::NEG_INFINITY);
                rescale[h] = soften::<S>(&mut weights[h], &mut max[h], &mut sum[h], first..last);
            }
            let values = query.values.add(place).cast();
            add_values::<S, T, H>(d, values, &weights, &rescale, first..last, out);
        }
    }
    for h in 0..H {
        let inverse = 1.0 / sum[h];
        out[h * d..(h + 1) * d].iter_mut().for_each(|value| *value *= inverse);
    }
}

/// scores[h][j] = q[h] · key[j], all slots of the block (unused ones are masked by the caller).
#[inline(always)]
unsafe fn scores<S: Simd, T: Widen, const H: usize>(
    d: usize,
    q: &[f32],
    keys: *const T::Raw,
    scores: &mut [[f32; BLOCK_TOKENS]; H],
) {
    let mut j = 0;
    while j < BLOCK_TOKENS {
        unsafe {
            let mut acc = [[S::splat(0.0); 2]; H];
            for i in 0..d {
                let k0 = T::load::<S>(keys.add(i * BLOCK_TOKENS + j));
                let k1 = T::load::<S>(keys.add(i * BLOCK_TOKENS + j + S::LANES));
                for h in 0..H {
                    let qi = S::splat(*q.get_unchecked(h * d + i));
                    acc[h][0] = S::fma(qi, k0, acc[h][0]);
                    acc[h][1] = S::fma(qi, k1, acc[h][1]);
                }
            }
            for h in 0..H {
                S::store(scores[h].as_mut_ptr().add(j), acc[h][0]);
                S::store(scores[h].as_mut_ptr().add(j + S::LANES), acc[h][1]);
            }
        }
        j += 2 * S::LANES;
    }
}

/// Turns the block's scores into weights relative to the running maximum; returns the factor for what was summed before.
#[inline(always)]
unsafe fn soften<S: Simd>(
    scores: &mut [f32; BLOCK_TOKENS],
    max: &mut f32,
    sum: &mut f32,
    valid: std::ops::Range<usize>,
) -> f32 {
    unsafe {
        let mut block_max = S::splat(f32::NEG_INFINITY);
        let mut j = 0;
        while j < BLOCK_TOKENS {
            block_max = S::max(S::load(scores.as_ptr().add(j)), block_max);
            j += S::LANES;
        }
        let block_max = S::max_lane(block_max);
        let new_max = if block_max > *max { block_max } else { *max };
        let mut j = 0;
        while j < BLOCK_TOKENS {
            let p = scores.as_mut_ptr().add(j);
            S::store(p, exp::<S>(S::add(S::load(p), S::splat(-new_max))));
            j += S::LANES;
        }
        scores[..valid.start].fill(0.0);
        scores[valid.end..].fill(0.0);
        let mut block_sum = S::splat(0.0);
        let mut j = 0;
        while j < BLOCK_TOKENS {
            block_sum = S::add(block_sum, S::load(scores.as_ptr().add(j)));
            j += S::LANES;
        }
        let rescale = if *max == new_max { 1.0 } else { (*max - new_max).exp() };
        *max = new_max;
        *sum = *sum * rescale + S::sum(block_sum);
        rescale
    }
}

/// out[h] = out[h] * rescale[h] + the sum of weights[h][j] * value[j] over the valid slots, in their order.
#[inline(always)]
unsafe fn add_values<S: Simd, T: Widen, const H: usize>(
    d: usize,
    values: *const T::Raw,
    weights: &[[f32; BLOCK_TOKENS]; H],
    rescale: &[f32; H],
    valid: std::ops::Range<usize>,
    out: &mut [f32],
) {
    let mut i = 0;
    unsafe {
        while i + 2 * S::LANES <= d {
            add_columns::<S, T, H, 2>(d, i, values, weights, rescale, valid.clone(), out);
            i += 2 * S::LANES;
        }
        while i + S::LANES <= d {
            add_columns::<S, T, H, 1>(d, i, values, weights, rescale, valid.clone(), out);
            i += S::LANES;
        }
    }
    while i < d {
        for h in 0..H {
            let mut sum = out[h * d + i] * rescale[h];
            for j in valid.clone() {
                sum += weights[h][j] * unsafe { T::widen(values.add(j * d + i)) };
            }
            out[h * d + i] = sum;
        }
        i += 1;
    }
}

/// `C` vectors of columns from column `i` on, for all heads: each value is loaded once, and the sums are independent.
#[inline(always)]
unsafe fn add_columns<S: Simd, T: Widen, const H: usize, const C: usize>(
    d: usize,
    i: usize,
    values: *const T::Raw,
    weights: &[[f32; BLOCK_TOKENS]; H],
    rescale: &[f32; H],
    valid: std::ops::Range<usize>,
    out: &mut [f32],
) {
    unsafe {
        let mut sums = [[S::splat(0.0); C]; H];
        for h in 0..H {
            for c in 0..C {
                let p = out.as_ptr().add(h * d + i + c * S::LANES);
                sums[h][c] = S::mul(S::load(p), S::splat(rescale[h]));
            }
        }
        for j in valid {
            for c in 0..C {
                let value = T::load::<S>(values.add(j * d + i + c * S::LANES));
                for h in 0..H {
                    sums[h][c] = S::fma(S::splat(*weights[h].get_unchecked(j)), value, sums[h][c]);
                }
            }
        }
        for h in 0..H {
            for c in 0..C {
                S::store(out.as_mut_ptr().add(h * d + i + c * S::LANES), sums[h][c]);
            }
        }
    }
}
