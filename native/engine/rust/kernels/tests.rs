//! Every kernel on every instruction set of this machine, against naive f64 references.

use super::*;

/// splitmix64, as floats in -1..1.
struct Noise(u64);
impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Values exactly representable in f16 and bf16, so all three types hold the same numbers.
fn coarse(noise: &mut Noise, n: usize) -> Vec<f32> {
    noise.vec(n).into_iter().map(|x| (x * 64.0).round() / 64.0).collect()
}

fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let f16 = |x: f32| {
        // Coarse values are normal numbers or zero in f16.
        if x == 0.0 {
            0u16
        } else {
            ((x.to_bits() >> 16) & 0x8000) as u16 | (((x.abs().to_bits() - (112 << 23)) >> 13) as u16)
        }
    };
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|x| f32_to_bf16(*x).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| f16(*x).to_le_bytes()).collect(),
    }
}

#[allow(clippy::too_many_arguments)]
fn matmul(
    isa: Isa,
    dtype: Dtype,
    w: &[u8],
    x: &[f32],
    tokens: usize,
    rows: usize,
    k: usize,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = vec![0.5f32; tokens * rows];
    let rounded: Vec<u16> = x.iter().map(|v| f32_to_bf16(*v)).collect();
    let x = if isa.takes_bf16_activations(dtype) { rounded.as_ptr().cast() } else { x.as_ptr().cast() };
    let split = rows / 3;
    for range in [0..split, split..rows] {
        let block = Block {
            weights: w.as_ptr(),
            stride: k * dtype.bytes(),
            rows: range,
            x,
            x_stride: k,
            tokens,
            k,
            bias,
            out: out.as_mut_ptr(),
            out_stride: rows,
            accumulate: bias.is_none(),
        };
        unsafe { isa.matmul(dtype, &block) };
    }
    out
}

#[test]
fn matmul_equals_the_naive_sum_for_every_type_and_shape() {
    for isa in Isa::available() {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            for (tokens, rows, k) in
                [(1, 1, 1), (1, 13, 40), (2, 9, 64), (3, 8, 33), (7, 30, 96), (13, 5, 7), (16, 64, 128)]
            {
                let mut noise = Noise(k as u64);
                let (weights, x, bias) =
                    (coarse(&mut noise, rows * k), coarse(&mut noise, tokens * k), noise.vec(rows));
                let encoded = encode(dtype, &weights);
                for bias in [None, Some(&bias[..])] {
                    let out = matmul(isa, dtype, &encoded, &x, tokens, rows, k, bias);
                    for t in 0..tokens {
                        for n in 0..rows {
                            let dot: f64 =
                                (0..k).map(|i| f64::from(x[t * k + i]) * f64::from(weights[n * k + i])).sum();
                            let expected = dot + bias.map_or(0.5, |bias| f64::from(bias[n]));
                            let got = f64::from(out[t * rows + n]);
                            assert!(
                                (got - expected).abs() < 1e-4,
                                "{isa:?} {dtype:?} {tokens}x{rows}x{k}: {got} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn slices_of_the_columns_add_up_to_the_whole() {
    let (tokens, rows, k) = (5, 11, 48);
    for isa in Isa::available() {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let mut noise = Noise(11);
            let (weights, x) = (coarse(&mut noise, rows * k), coarse(&mut noise, tokens * k));
            let encoded = encode(dtype, &weights);
            let rounded: Vec<u16> = x.iter().map(|v| f32_to_bf16(*v)).collect();
            let bf16 = isa.takes_bf16_activations(dtype);
            let mut out = vec![0.0f32; tokens * rows];
            for columns in [0..20, 20..33, 33..k] {
                let block = Block {
                    weights: encoded[columns.start * dtype.bytes()..].as_ptr(),
                    stride: k * dtype.bytes(),
                    rows: 0..rows,
                    x: if bf16 { rounded[columns.start..].as_ptr().cast() } else { x[columns.start..].as_ptr().cast() },
                    x_stride: k,
                    tokens,
                    k: columns.len(),
                    bias: None,
                    out: out.as_mut_ptr(),
                    out_stride: rows,
                    accumulate: columns.start > 0,
                };
                unsafe { isa.matmul(dtype, &block) };
            }
            let whole = matmul(isa, dtype, &encoded, &x, tokens, rows, k, Some(&[0.0; 11]));
            close(&out, |i| f64::from(whole[i]), 1e-5, &format!("{isa:?} {dtype:?}"));
        }
    }
}

#[test]
fn a_token_gets_the_same_bits_whatever_stands_beside_it() {
    let (tokens, rows, k) = (23, 37, 200);
    let mut noise = Noise(7);
    let (weights, x) = (noise.vec(rows * k), noise.vec(tokens * k));
    for isa in Isa::available() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let encoded = encode(dtype, &weights);
            let together = matmul(isa, dtype, &encoded, &x, tokens, rows, k, None);
            for t in 0..tokens {
                for count in 1..=(tokens - t).min(8) {
                    let part = matmul(isa, dtype, &encoded, &x[t * k..(t + count) * k], count, rows, k, None);
                    assert_eq!(part, together[t * rows..(t + count) * rows], "{isa:?} {dtype:?} token {t} of {count}");
                }
            }
        }
    }
}

fn close(got: &[f32], expected: impl Fn(usize) -> f64, tolerance: f64, what: &str) {
    for (i, value) in got.iter().enumerate() {
        let expected = expected(i);
        assert!(
            (f64::from(*value) - expected).abs() <= tolerance * (1.0 + expected.abs()),
            "{what}[{i}]: {value} {expected}"
        );
    }
}

/// erf by its Taylor series, good to 1e-12 for |x| < 4.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn elementwise_functions_equal_their_formulas() {
    let mut noise = Noise(3);
    let n = 45;
    let x: Vec<f32> = noise.vec(n).into_iter().map(|v| v * 4.0).collect();
    let (weight, bias) = (noise.vec(n), noise.vec(n));
    let wide = |v: f32| f64::from(v);
    let mean = x.iter().map(|v| wide(*v)).sum::<f64>() / n as f64;
    let variance = x.iter().map(|v| (wide(*v) - mean).powi(2)).sum::<f64>() / n as f64;
    let rms = (x.iter().map(|v| wide(*v).powi(2)).sum::<f64>() / n as f64 + 1e-5).sqrt();
    let silu = |v: f64| v / (1.0 + (-v).exp());
    let tanh_gelu =
        |v: f64| 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3))).tanh());
    for isa in Isa::available() {
        let mut out = vec![0.0; n];
        isa.rms_norm(&x, &weight, 1e-5, &mut out);
        close(&out, |i| wide(x[i]) / rms * wide(weight[i]), 1e-6, "rms_norm");
        out.copy_from_slice(&x);
        isa.layer_norm(&mut out, &weight, &bias, 1e-5);
        close(
            &out,
            |i| (wide(x[i]) - mean) / (variance + 1e-5).sqrt() * wide(weight[i]) + wide(bias[i]),
            1e-6,
            "layer_norm",
        );
        out.copy_from_slice(&x);
        isa.silu_mul(&mut out, &weight);
        close(&out, |i| silu(wide(x[i])) * wide(weight[i]), 1e-6, "silu_mul");
        out.copy_from_slice(&x);
        isa.gelu_tanh_mul(&mut out, &weight);
        close(&out, |i| tanh_gelu(wide(x[i])) * wide(weight[i]), 1e-6, "gelu_tanh_mul");
        out.copy_from_slice(&x);
        isa.gelu_tanh(&mut out);
        close(&out, |i| tanh_gelu(wide(x[i])), 1e-6, "gelu_tanh");
        out.copy_from_slice(&x);
        isa.gelu(&mut out);
        close(&out, |i| 0.5 * wide(x[i]) * (1.0 + erf(wide(x[i]) / 2f64.sqrt())), 1e-6, "gelu");
    }
}

#[test]
fn extreme_inputs_stay_finite() {
    for isa in Isa::available() {
        let x = [-1e30f32, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, -0.0, f32::MIN_POSITIVE];
        let mut out = x;
        isa.silu_mul(&mut out, &[1.0; 9]);
        assert!(out.iter().all(|v| v.is_finite()) && out[6] == 1e30, "{isa:?} {out:?}");
        let mut out = x;
        isa.gelu(&mut out);
        assert!(out.iter().all(|v| !v.is_nan()) && out[5] == 200.0, "{isa:?} {out:?}");
    }
}

/// A cache of three shuffled blocks around garbage, and the plain softmax over what is visible.
#[test]
fn attention_equals_a_plain_softmax_over_the_visible_tokens() {
    for isa in Isa::available() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for (d, heads, start, end) in
                [(64, 3, 0, 70), (16, 4, 0, 1), (20, 5, 30, 64), (128, 7, 33, 96), (8, 1, 5, 32)]
            {
                check_attention(isa, dtype, d, heads, start, end);
            }
        }
    }
}

fn check_attention(isa: Isa, dtype: Dtype, d: usize, heads: usize, start: usize, end: usize) {
    let blocks = [2u32, 0, 3];
    let mut noise = Noise((d * heads + end) as u64);
    let (keys, values, q) = (coarse(&mut noise, 96 * d), coarse(&mut noise, 96 * d), noise.vec(heads * d));
    let mut k_area = vec![f32::NAN; 4 * d * BLOCK_TOKENS];
    let mut v_area = k_area.clone();
    for t in start..end {
        let base = blocks[t / BLOCK_TOKENS] as usize * d * BLOCK_TOKENS;
        for i in 0..d {
            k_area[base + i * BLOCK_TOKENS + t % BLOCK_TOKENS] = keys[t * d + i];
            v_area[base + t % BLOCK_TOKENS * d + i] = values[t * d + i];
        }
    }
    let (k_area, v_area) = (encode(dtype, &k_area), encode(dtype, &v_area));
    let query = Query {
        q: &q,
        head_dim: d,
        keys: k_area.as_ptr(),
        values: v_area.as_ptr(),
        block_bytes: d * BLOCK_TOKENS * dtype.bytes(),
        blocks: &blocks,
        dtype,
        start,
        end,
    };
    let mut out = vec![0.0; heads * d];
    isa.attend(&query, &mut out);
    for h in 0..heads {
        let score = |t: usize| (0..d).map(|i| f64::from(q[h * d + i]) * f64::from(keys[t * d + i])).sum::<f64>();
        let total: f64 = (start..end).map(|t| score(t).exp()).sum();
        close(
            &out[h * d..(h + 1) * d],
            |i| (start..end).map(|t| score(t).exp() / total * f64::from(values[t * d + i])).sum(),
            1e-5,
            &format!("{isa:?} {dtype:?} d={d} head {h}"),
        );
    }
}

#[test]
fn bf16_rounds_to_nearest_even_and_keeps_nan() {
    assert_eq!(f32_to_bf16(1.0), 0x3f80);
    assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
    assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
    assert!(bf16_to_f32(f32_to_bf16(f32::NAN)).is_nan());
    assert_eq!(f32_to_bf16(f32::INFINITY), 0x7f80);
}
