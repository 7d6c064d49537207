//! Norms, activations and conversions. Each is applied to one token's row, so its order of additions never depends on
//! the batch.

use super::f32_to_bf16;
use super::simd::{Simd, exp};

/// Runs `wide` over whole vectors of `x` and `narrow` over the rest, passing the index.
macro_rules! lanes {
    ($len:expr, $lanes:expr, |$i:ident| $wide:expr, $rest:expr) => {{
        let whole = $len / $lanes * $lanes;
        let mut $i = 0;
        while $i < whole {
            $wide;
            $i += $lanes;
        }
        while $i < $len {
            $rest;
            $i += 1;
        }
    }};
}

#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(x: &[f32], shift: f32) -> f32 {
    unsafe {
        let mut acc = S::splat(0.0);
        let mut rest = 0.0f32;
        lanes!(
            x.len(),
            S::LANES,
            |i| {
                let v = S::add(S::load(x.as_ptr().add(i)), S::splat(-shift));
                acc = S::fma(v, v, acc);
            },
            {
                let v = x[i] - shift;
                rest += v * v;
            }
        );
        S::sum(acc) + rest
    }
}

#[inline(always)]
pub unsafe fn rms_norm<S: Simd>(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    unsafe {
        let mean = sum_of_squares::<S>(x, 0.0) / x.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        let wide = S::splat(scale);
        lanes!(
            x.len(),
            S::LANES,
            |i| {
                let scaled = S::mul(S::load(x.as_ptr().add(i)), wide);
                S::store(out.as_mut_ptr().add(i), S::mul(scaled, S::load(weight.as_ptr().add(i))));
            },
            out[i] = x[i] * scale * weight[i]
        );
    }
}

#[inline(always)]
pub unsafe fn layer_norm<S: Simd>(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    assert!(x.len() == weight.len() && x.len() == bias.len());
    unsafe {
        let mut acc = S::splat(0.0);
        let mut rest = 0.0f32;
        lanes!(x.len(), S::LANES, |i| acc = S::add(acc, S::load(x.as_ptr().add(i))), rest += x[i]);
        let mean = (S::sum(acc) + rest) / x.len() as f32;
        let variance = sum_of_squares::<S>(x, mean) / x.len() as f32;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for ((value, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *value = (*value - mean) * scale * w + b;
        }
    }
}

#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let one = S::splat(1.0);
        // Below -87 the sigmoid is 0 to f32; the clamp keeps e^-x finite.
        let x = S::max(x, S::splat(-87.0));
        S::div(one, S::add(one, exp::<S>(S::mul(x, S::splat(-1.0)))))
    }
}

/// Replaces every element by an expression of vectors, the last few padded with zeros. A macro and not a function that
/// takes a closure: a closure that the compiler does not inline has none of the caller's instruction set.
macro_rules! map {
    ($S:ty, $x:expr, |$v:ident, $i:ident| $value:expr) => {{
        let x: &mut [f32] = $x;
        let whole = x.len() / <$S>::LANES * <$S>::LANES;
        let mut $i = 0;
        while $i < whole {
            let p = x.as_mut_ptr().add($i);
            let $v = <$S>::load(p);
            <$S>::store(p, $value);
            $i += <$S>::LANES;
        }
        if $i < x.len() {
            let rest = x.len() - $i;
            let mut lanes = [0.0f32; 16];
            lanes[..rest].copy_from_slice(&x[$i..]);
            let $v = <$S>::load(lanes.as_ptr());
            let value = $value;
            <$S>::store(lanes.as_mut_ptr(), value);
            x[$i..].copy_from_slice(&lanes[..rest]);
        }
    }};
}

#[inline(always)]
unsafe fn load_at<S: Simd>(x: &[f32], i: usize) -> S::V {
    if i + S::LANES <= x.len() {
        return unsafe { S::load(x.as_ptr().add(i)) };
    }
    let mut lanes = [0.0f32; 16];
    lanes[..x.len() - i].copy_from_slice(&x[i..]);
    unsafe { S::load(lanes.as_ptr()) }
}

#[inline(always)]
pub unsafe fn silu_mul<S: Simd>(gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len());
    unsafe { map!(S, gate, |g, i| S::mul(S::mul(g, sigmoid::<S>(g)), load_at::<S>(up, i))) }
}

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), and tanh(y) = 2 sigmoid(2y) - 1.
#[inline(always)]
unsafe fn gelu_tanh_of<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let cube = S::mul(S::mul(x, x), x);
        let y = S::mul(S::fma(cube, S::splat(0.044_715), x), S::splat(2.0 * 0.797_884_6));
        S::mul(x, sigmoid::<S>(y))
    }
}

#[inline(always)]
pub unsafe fn gelu_tanh_mul<S: Simd>(gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len());
    unsafe { map!(S, gate, |g, i| S::mul(gelu_tanh_of::<S>(g), load_at::<S>(up, i))) }
}

#[inline(always)]
pub unsafe fn gelu_tanh<S: Simd>(x: &mut [f32]) {
    unsafe { map!(S, x, |v, i| gelu_tanh_of::<S>(v)) }
}

/// x * (1 + erf(x / sqrt 2)) / 2, erf by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
#[inline(always)]
unsafe fn gelu_of<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let z = S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let magnitude = S::max(z, S::mul(z, S::splat(-1.0)));
        let one = S::splat(1.0);
        let t = S::div(one, S::fma(magnitude, S::splat(0.327_591_1), one));
        let mut p = S::splat(1.061_405_4);
        for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            p = S::fma(p, t, S::splat(c));
        }
        let tail = S::mul(S::mul(p, t), exp::<S>(S::mul(magnitude, S::mul(magnitude, S::splat(-1.0)))));
        // With phi(|z|) = 1 - tail/2: x >= 0 gives x - x tail/2, x < 0 gives x tail/2; both are
        // max(x, 0) - |x| tail / 2.
        let magnitude_x = S::max(x, S::mul(x, S::splat(-1.0)));
        S::fma(S::mul(magnitude_x, tail), S::splat(-0.5), S::max(x, S::splat(0.0)))
    }
}

#[inline(always)]
pub unsafe fn gelu<S: Simd>(x: &mut [f32]) {
    unsafe { map!(S, x, |v, i| gelu_of::<S>(v)) }
}

#[inline(always)]
pub unsafe fn to_bf16<S: Simd>(x: &[f32], out: &mut [u16]) {
    assert!(x.len() == out.len());
    for (value, rounded) in x.iter().zip(out) {
        *rounded = f32_to_bf16(*value);
    }
}
