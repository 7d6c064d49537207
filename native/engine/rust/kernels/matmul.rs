//! out[t][n] = sum over k of x[t][k] * w[n][k] (+ bias[n]): weights stay row by row as safetensors has them, in their
//! own type, and may lie further apart than they are long (a slice of the columns). Each output is one dot product along k
//! with one accumulator and one fixed order of additions, whatever the number of tokens beside it: a sequence's result does
//! not depend on the batch it runs in.
//!
//! A tile of 4 weight rows by 1..=6 tokens keeps its accumulators in registers; a panel of rows that fits the first-level
//! cache meets all tokens before the next panel is read, so weights pass through memory once a step.

use super::simd::{Simd, Widen};
use std::marker::PhantomData;
use std::ops::Range;

/// One thread's share: all tokens against a range of weight rows.
pub struct Block<'a> {
    /// First row of the whole matrix.
    pub weights: *const u8,
    /// Bytes from row to row of the weights: a multiple of their size.
    pub stride: usize,
    /// Weight rows to compute.
    pub rows: Range<usize>,
    /// Of each token k activations, of the type that the kernel takes.
    pub x: *const u8,
    /// Activations from token to token.
    pub x_stride: usize,
    pub tokens: usize,
    pub k: usize,
    pub bias: Option<&'a [f32]>,
    /// [tokens][out_stride]; row n of the matrix is written to column n.
    pub out: *mut f32,
    pub out_stride: usize,
    /// Adds to `out` instead of overwriting it (the residual stream).
    pub accumulate: bool,
}

/// How STEP weights meet STEP activations.
///
/// # Safety
/// As `Simd`; `*_tail` read exactly `n < STEP` elements and fill up with zeros.
pub trait Dot {
    type W: Copy;
    type X: Copy;
    type Wv: Copy;
    type Xv: Copy;
    type S: Simd;
    const STEP: usize;
    unsafe fn w(p: *const Self::W) -> Self::Wv;
    unsafe fn x(p: *const Self::X) -> Self::Xv;
    unsafe fn w_tail(p: *const Self::W, n: usize) -> Self::Wv;
    unsafe fn x_tail(p: *const Self::X, n: usize) -> Self::Xv;
    unsafe fn mac(acc: <Self::S as Simd>::V, w: Self::Wv, x: Self::Xv) -> <Self::S as Simd>::V;
}

/// Most lanes any instruction set has.
const LANES_MAX: usize = 32;

#[inline(always)]
unsafe fn padded<T: Copy + Default>(p: *const T, n: usize) -> [T; LANES_MAX] {
    let mut lanes = [T::default(); LANES_MAX];
    unsafe { std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n) };
    lanes
}

/// Weights of type `T`, f32 activations.
pub struct Wide<S, T>(PhantomData<(S, T)>);

impl<S: Simd, T: Widen> Dot for Wide<S, T> {
    type W = T::Raw;
    type X = f32;
    type Wv = S::V;
    type Xv = S::V;
    type S = S;
    const STEP: usize = S::LANES;
    #[inline(always)]
    unsafe fn w(p: *const T::Raw) -> S::V {
        unsafe { T::load::<S>(p) }
    }
    #[inline(always)]
    unsafe fn x(p: *const f32) -> S::V {
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn w_tail(p: *const T::Raw, n: usize) -> S::V {
        unsafe { T::load::<S>(padded(p, n).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn x_tail(p: *const f32, n: usize) -> S::V {
        unsafe { S::load(padded(p, n).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn mac(acc: S::V, w: S::V, x: S::V) -> S::V {
        unsafe { S::fma(w, x, acc) }
    }
}

#[cfg(target_arch = "x86_64")]
pub use pairs::Bf16Pairs;

#[cfg(target_arch = "x86_64")]
mod pairs {
    use super::super::simd::Avx512;
    use super::{Dot, padded};
    use std::arch::x86_64::*;

    /// bf16 weights and bf16 activations, multiplied in pairs and summed in f32 by one instruction: weights are not
    /// widened at all.
    pub struct Bf16Pairs;

    impl Dot for Bf16Pairs {
        type W = u16;
        type X = u16;
        type Wv = __m512bh;
        type Xv = __m512bh;
        type S = Avx512;
        const STEP: usize = 32;
        #[inline(always)]
        unsafe fn w(p: *const u16) -> __m512bh {
            unsafe { std::mem::transmute(_mm512_loadu_si512(p.cast())) }
        }
        #[inline(always)]
        unsafe fn x(p: *const u16) -> __m512bh {
            unsafe { Self::w(p) }
        }
        #[inline(always)]
        unsafe fn w_tail(p: *const u16, n: usize) -> __m512bh {
            unsafe { Self::w(padded(p, n).as_ptr()) }
        }
        #[inline(always)]
        unsafe fn x_tail(p: *const u16, n: usize) -> __m512bh {
            unsafe { Self::w_tail(p, n) }
        }
        #[inline(always)]
        unsafe fn mac(acc: __m512, w: __m512bh, x: __m512bh) -> __m512 {
            unsafe { _mm512_dpbf16_ps(acc, w, x) }
        }
    }
}

/// Rows that a tile computes together. They lie a quarter of the block apart: memory is then read as four long streams,
/// which the hardware fetches ahead of itself (22 GB/s a core where four neighbouring rows gave 9 and one row after the
/// other 14; rows of small models, 1 KiB, are too short to be followed).
const STREAMS: usize = 4;
/// Bytes of weights that one panel holds while all tokens pass over it: with the next panel, which is fetched meanwhile,
/// and the activations of a tile it fits the first-level cache.
const PANEL_BYTES: usize = 12 * 1024;
/// Where a single pass computes long enough between two lines that the hardware falls behind, it fetches so far ahead.
const FETCH_AHEAD_BYTES: usize = 512;
const FETCHING_TOKENS: usize = 4;

/// One pass of a few tokens over a panel: row `start + stream * distance + i` of the matrix, for i in `steps`.
struct Pass {
    /// First token.
    token: usize,
    steps: Range<usize>,
    /// Rows between the streams.
    distance: usize,
    /// Bytes to what is fetched meanwhile: the same place in the next panel, or a little further in this one.
    ahead: usize,
    /// This pass fetches every `passes`-th piece of it, beginning with `pass`; beyond: none.
    pass: usize,
    passes: usize,
}

/// # Safety
/// The CPU has the instruction set of `D`, the pointers of `block` span what its sizes say, and no other thread writes
/// the same columns of `out`.
#[inline(always)]
pub unsafe fn run<D: Dot, const TOKENS: usize>(block: &Block) {
    let row_bytes = block.k * size_of::<D::W>();
    let distance = block.rows.len().div_ceil(STREAMS);
    let panel = (PANEL_BYTES / STREAMS / row_bytes.max(1)).max(1);
    let passes = block.tokens.div_ceil(TOKENS);
    let mut start = 0;
    while start < distance {
        let steps = start..(start + panel).min(distance);
        start = steps.end;
        let more = steps.end < distance;
        let (fetch, ahead) = match passes {
            1 => (block.tokens >= FETCHING_TOKENS, FETCH_AHEAD_BYTES),
            _ => (more, panel * block.stride),
        };
        for pass in 0..passes {
            let token = pass * TOKENS;
            let tokens = TOKENS.min(block.tokens - token);
            let pass = if fetch { pass } else { usize::MAX };
            let pass = Pass { token, steps: steps.clone(), distance, ahead, pass, passes };
            unsafe {
                match tokens {
                    1 => strip::<D, 1>(block, &pass),
                    2 => strip::<D, 2>(block, &pass),
                    3 => strip::<D, 3>(block, &pass),
                    4 => strip::<D, 4>(block, &pass),
                    5 => strip::<D, 5>(block, &pass),
                    _ => strip::<D, 6>(block, &pass),
                }
            }
        }
    }
}

/// `B` tokens against the rows of one panel.
#[inline(always)]
unsafe fn strip<D: Dot, const B: usize>(block: &Block, pass: &Pass) {
    for step in pass.steps.clone() {
        unsafe { tile::<D, B>(block, pass, step) };
    }
}

/// One row of each stream; where the last ones have ended, their last row is repeated and its sum dropped.
/// Loops and no closures around intrinsics: a closure that is not inlined has none of the caller's instruction set.
#[inline(always)]
unsafe fn tile<D: Dot, const B: usize>(block: &Block, pass: &Pass, step: usize) {
    unsafe {
        let weights = block.weights.cast::<D::W>();
        let activations = block.x.cast::<D::X>();
        let stride = block.stride / size_of::<D::W>();
        let row = |stream: usize| block.rows.start + stream * pass.distance + step;
        let w: [*const D::W; STREAMS] = std::array::from_fn(|r| weights.add(row(r).min(block.rows.end - 1) * stride));
        let x: [*const D::X; B] = std::array::from_fn(|b| activations.add((pass.token + b) * block.x_stride));
        let mut acc = [[D::S::splat(0.0); STREAMS]; B];

        let whole = block.k / D::STEP * D::STEP;
        let mut k = 0;
        let mut until_fetch = pass.pass;
        while k < whole {
            let mut xs = [D::x(x[0].add(k)); B];
            for b in 1..B {
                xs[b] = D::x(x[b].add(k));
            }
            for r in 0..STREAMS {
                let ws = D::w(w[r].add(k));
                for b in 0..B {
                    acc[b][r] = D::mac(acc[b][r], ws, xs[b]);
                }
            }
            if until_fetch == 0 {
                until_fetch = pass.passes;
                for r in 0..STREAMS {
                    D::S::prefetch(w[r].add(k).cast::<u8>().wrapping_add(pass.ahead));
                }
            }
            until_fetch -= 1;
            k += D::STEP;
        }
        let tail = block.k - whole;
        if tail > 0 {
            let mut xs = [D::x_tail(x[0].add(k), tail); B];
            for b in 1..B {
                xs[b] = D::x_tail(x[b].add(k), tail);
            }
            for r in 0..STREAMS {
                let ws = D::w_tail(w[r].add(k), tail);
                for b in 0..B {
                    acc[b][r] = D::mac(acc[b][r], ws, xs[b]);
                }
            }
        }
        // All sums before any is written: a loop over both would keep the accumulators in memory.
        let mut sums = [[0.0f32; STREAMS]; B];
        for b in 0..B {
            sums[b] = D::S::sum4(acc[b]);
        }
        for (b, sums) in sums.iter().enumerate() {
            for (r, sum) in sums.iter().enumerate() {
                if row(r) < block.rows.end {
                    write(block, pass.token + b, row(r), *sum);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn write(block: &Block, t: usize, row: usize, sum: f32) {
    let value = match block.bias {
        Some(bias) => sum + bias[row],
        None => sum,
    };
    unsafe {
        let out = block.out.add(t * block.out_stride + row);
        *out = if block.accumulate { *out + value } else { value };
    }
}
