//! The computations of a transformer on one CPU, each written once over `Simd` and compiled for every instruction set;
//! which one runs is decided once, when the engine starts. All kernels take plain slices; threads are the caller's.

// Inner loops index arrays of accumulators: iterator adapters take closures, which lose the instruction set when the
// compiler does not inline them.
#![allow(clippy::needless_range_loop)]

mod attention;
mod elementwise;
mod matmul;
mod simd;

pub use attention::{BLOCK_TOKENS, HEAD_DIM_MAX, Query};
pub use matmul::Block;

/// The instruction sets, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Avx512Bf16,
    Avx512,
    Avx2,
    Portable,
}

/// Type of stored weights or of the key/value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
}

impl Dtype {
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
    /// As the safetensors format spells it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
        }
    }
    pub fn parse(name: &str) -> Option<Dtype> {
        [Dtype::F32, Dtype::Bf16, Dtype::F16].into_iter().find(|dtype| dtype.name() == name)
    }
}

#[inline(always)]
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Rounds to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[inline(always)]
pub fn f16_to_f32(x: u16) -> f32 {
    let sign = u32::from(x & 0x8000) << 16;
    let magnitude = u32::from(x & 0x7fff);
    let bits = match magnitude >> 10 {
        0 => {
            // Subnormal: exact as an integer multiple of 2^-24.
            return f32::from_bits(sign | (magnitude as f32 * 2f32.powi(-24)).to_bits());
        }
        31 => 0x7f80_0000 | ((magnitude & 0x3ff) << 13),
        _ => (magnitude << 13) + (112 << 23),
    };
    f32::from_bits(sign | bits)
}

impl Isa {
    /// The best one that this CPU has.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }

    /// All that this CPU has, best first.
    pub fn available() -> Vec<Isa> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx512 && is_x86_feature_detected!("avx512bf16") {
                sets.push(Isa::Avx512Bf16);
            }
            if avx512 {
                sets.push(Isa::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                sets.push(Isa::Avx2);
            }
        }
        sets.push(Isa::Portable);
        sets
    }

    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }

    /// Whether `matmul` with these weights wants its activations rounded to bf16.
    pub fn takes_bf16_activations(self, weights: Dtype) -> bool {
        self == Isa::Avx512Bf16 && weights == Dtype::Bf16
    }

    /// # Safety
    /// See `matmul::run`; `block.x` holds bf16 where `takes_bf16_activations` says so, else f32.
    pub unsafe fn matmul(self, weights: Dtype, block: &Block) {
        use matmul::{Wide, run};
        use simd::{Bf16, F16, F32, Portable};
        unsafe {
            match (self, weights) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512Bf16, Dtype::Bf16) => wrapped::matmul_bf16_pairs(block),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512Bf16 | Isa::Avx512, Dtype::F32) => wrapped::matmul_avx512_f32(block),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, Dtype::Bf16) => wrapped::matmul_avx512_bf16(block),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512Bf16 | Isa::Avx512, Dtype::F16) => wrapped::matmul_avx512_f16(block),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, Dtype::F32) => wrapped::matmul_avx2_f32(block),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, Dtype::Bf16) => wrapped::matmul_avx2_bf16(block),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, Dtype::F16) => wrapped::matmul_avx2_f16(block),
                (_, Dtype::F32) => run::<Wide<Portable, F32>, 2>(block),
                (_, Dtype::Bf16) => run::<Wide<Portable, Bf16>, 2>(block),
                (_, Dtype::F16) => run::<Wide<Portable, F16>, 2>(block),
            }
        }
    }
}

/// Compiles a generic kernel for each instruction set and adds the method to `Isa` that picks one.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident => $module:ident, ($($arg:ident: $type:ty),*)) => {
        impl Isa {
            $(#[$doc])*
            pub fn $name(self, $($arg: $type),*) {
                // SAFETY: `available` offers only what the CPU has; slices are checked inside.
                unsafe {
                    match self {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512Bf16 | Isa::Avx512 => {
                            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                            fn with_avx512($($arg: $type),*) {
                                unsafe { $module::$name::<simd::Avx512>($($arg),*) }
                            }
                            with_avx512($($arg),*)
                        }
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => {
                            #[target_feature(enable = "avx2,fma,f16c")]
                            fn with_avx2($($arg: $type),*) {
                                unsafe { $module::$name::<simd::Avx2>($($arg),*) }
                            }
                            with_avx2($($arg),*)
                        }
                        _ => $module::$name::<simd::Portable>($($arg),*),
                    }
                }
            }
        }
    };
}

dispatch! {
    /// out = x / rms(x) * weight.
    rms_norm => elementwise, (x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32])
}
dispatch! {
    /// x = (x - mean) / sqrt(variance + epsilon) * weight + bias, in place.
    layer_norm => elementwise, (x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32)
}
dispatch! {
    /// gate = silu(gate) * up.
    silu_mul => elementwise, (gate: &mut [f32], up: &[f32])
}
dispatch! {
    /// gate = gelu(gate) * up, with the tanh approximation.
    gelu_tanh_mul => elementwise, (gate: &mut [f32], up: &[f32])
}
dispatch! {
    /// Exact gelu, in place.
    gelu => elementwise, (x: &mut [f32])
}
dispatch! {
    /// Gelu with the tanh approximation, in place.
    gelu_tanh => elementwise, (x: &mut [f32])
}
dispatch! {
    /// Rounds to bf16.
    to_bf16 => elementwise, (x: &[f32], out: &mut [u16])
}
dispatch! {
    /// Attention of one token's query heads that share a key/value head; see `attention`.
    attend => attention, (query: &Query, out: &mut [f32])
}

#[cfg(target_arch = "x86_64")]
mod wrapped {
    use super::matmul::{Bf16Pairs, Block, Wide, run};
    use super::simd::{Avx2, Avx512, Bf16, F16, F32};

    macro_rules! compile {
        ($name:ident, $features:literal, $dot:ty, $tokens:literal) => {
            #[target_feature(enable = $features)]
            pub unsafe fn $name(block: &Block) {
                unsafe { run::<$dot, $tokens>(block) }
            }
        };
    }
    // 32 registers hold 4x6 accumulators, 6 activations and a weight; 16 registers hold 4x2, 2 and a weight (4x3 spills).
    compile!(matmul_bf16_pairs, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16", Bf16Pairs, 6);
    compile!(matmul_avx512_f32, "avx512f,avx512bw,avx512dq,avx512vl", Wide<Avx512, F32>, 6);
    compile!(matmul_avx512_bf16, "avx512f,avx512bw,avx512dq,avx512vl", Wide<Avx512, Bf16>, 6);
    compile!(matmul_avx512_f16, "avx512f,avx512bw,avx512dq,avx512vl", Wide<Avx512, F16>, 6);
    compile!(matmul_avx2_f32, "avx2,fma,f16c", Wide<Avx2, F32>, 2);
    compile!(matmul_avx2_bf16, "avx2,fma,f16c", Wide<Avx2, Bf16>, 2);
    compile!(matmul_avx2_f16, "avx2,fma,f16c", Wide<Avx2, F16>, 2);
}

#[cfg(test)]
mod tests;
