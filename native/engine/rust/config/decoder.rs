//! Llama, Qwen2, Qwen3 and Mistral: one decoder with switches.

use super::fields::Fields;
use super::{Activation, Rope};
use crate::error::{Error, Result};
use crate::kernels::HEAD_DIM_MAX;
use serde_json::json;

#[derive(Clone, Debug)]
pub struct DecoderConfig {
    pub architecture: String,
    pub vocabulary: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub context: usize,
    pub epsilon: f32,
    pub activation: Activation,
    pub rope: Rope,
    /// The head shares the embedding matrix.
    pub tied: bool,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    /// RMS norm over each head of q and k (Qwen3).
    pub qk_norm: bool,
    pub layers: Vec<DecoderLayer>,
    pub eos: Vec<u32>,
    pub half_precision: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLayer {
    /// Tokens that a token sees, itself included; none: all before it.
    pub window: Option<usize>,
}

// Bounds far above any published model: they keep products of sizes within u64 and refuse nonsense early.
const VOCABULARY_MAX: usize = 1 << 22;
const WIDTH_MAX: usize = 1 << 18;
const HEADS_MAX: usize = 1 << 10;
const LAYERS_MAX: usize = 1 << 10;
const CONTEXT_MAX: usize = 1 << 24;
const CONTEXT_DEFAULT: usize = 2_048;
const MISTRAL_WINDOW: usize = 4_096;

impl DecoderConfig {
    pub fn parse(root: &Fields, architecture: String) -> Result<DecoderConfig> {
        root.only("is_encoder_decoder", &json!(false))?;
        root.only("add_cross_attention", &json!(false))?;
        let hidden = root.required_count("hidden_size", WIDTH_MAX)?;
        let heads = root.required_count("num_attention_heads", HEADS_MAX)?;
        let kv_heads = root.count("num_key_value_heads", HEADS_MAX)?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            let path = root.path("num_key_value_heads");
            return Err(Error::invalid(
                path.clone(),
                format!("{path} is {kv_heads}, which does not divide {heads} heads"),
            ));
        }
        let head_dim = head_dim(root, hidden, heads)?;
        let layers = root.required_count("num_hidden_layers", LAYERS_MAX)?;
        let (qkv_bias, output_bias) = attention_bias(root, &architecture)?;
        Ok(DecoderConfig {
            vocabulary: root.required_count("vocab_size", VOCABULARY_MAX)?,
            intermediate: root.required_count("intermediate_size", WIDTH_MAX)?,
            context: root.count("max_position_embeddings", CONTEXT_MAX)?.unwrap_or(CONTEXT_DEFAULT),
            epsilon: root.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            activation: activation(root)?,
            rope: Rope::parse(root, head_dim)?,
            tied: root.flag("tie_word_embeddings")?.unwrap_or(false),
            mlp_bias: root.flag("mlp_bias")?.unwrap_or(false),
            qk_norm: architecture == "Qwen3ForCausalLM",
            layers: windows(root, &architecture, layers)?,
            eos: root.token_ids("eos_token_id")?,
            half_precision: half_precision(root)?,
            architecture,
            hidden,
            heads,
            kv_heads,
            head_dim,
            qkv_bias,
            output_bias,
        })
    }

    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

fn head_dim(root: &Fields, hidden: usize, heads: usize) -> Result<usize> {
    let head_dim = match root.count("head_dim", HEAD_DIM_MAX)? {
        Some(explicit) => explicit,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let path = root.path("num_attention_heads");
            return Err(Error::invalid(
                path.clone(),
                format!("{path} is {heads}, which does not divide hidden_size {hidden}"),
            ));
        }
    };
    if head_dim % 2 != 0 || head_dim > HEAD_DIM_MAX {
        let path = root.path("head_dim");
        return Err(Error::unsupported(
            path,
            format!("a head of {head_dim}; even sizes up to {HEAD_DIM_MAX} are supported"),
        ));
    }
    Ok(head_dim)
}

/// Whether q, k, v and whether o carry a bias.
fn attention_bias(root: &Fields, architecture: &str) -> Result<(bool, bool)> {
    if architecture == "Qwen2ForCausalLM" {
        return Ok((true, false));
    }
    if architecture == "MistralForCausalLM" {
        return Ok((false, false));
    }
    let bias = root.flag("attention_bias")?.unwrap_or(false);
    Ok((bias, bias))
}

fn activation(root: &Fields) -> Result<Activation> {
    let name = root.string("hidden_act")?.unwrap_or_else(|| "silu".to_string());
    match Activation::parse(&name) {
        Some(activation @ (Activation::Silu | Activation::GeluTanh)) => Ok(activation),
        _ => Err(Error::unsupported(root.path("hidden_act"), format!("config.hidden_act {name} is not supported"))),
    }
}

/// Which layers see only a window: by `layer_types` (transformers 5), by Qwen's `max_window_layers`, or all (Mistral).
fn windows(root: &Fields, architecture: &str, layers: usize) -> Result<Vec<DecoderLayer>> {
    let size = root.count("sliding_window", CONTEXT_MAX)?;
    let qwen = matches!(architecture, "Qwen2ForCausalLM" | "Qwen3ForCausalLM");
    let size = match architecture {
        // What transformers takes when the key is not there at all; null means no window.
        "MistralForCausalLM" if !root.names("sliding_window") => Some(MISTRAL_WINDOW),
        "MistralForCausalLM" => size,
        _ if qwen && root.flag("use_sliding_window")?.unwrap_or(false) => size,
        _ => None,
    };
    if let Some(types) = root.strings("layer_types")? {
        return by_types(root, types, layers, size);
    }
    let first = if qwen { root.index("max_window_layers", LAYERS_MAX)?.unwrap_or(28) } else { 0 };
    Ok((0..layers).map(|i| DecoderLayer { window: size.filter(|_| i >= first) }).collect())
}

fn by_types(root: &Fields, types: Vec<String>, layers: usize, size: Option<usize>) -> Result<Vec<DecoderLayer>> {
    let path = root.path("layer_types");
    if types.len() != layers {
        return Err(Error::invalid(path.clone(), format!("{path} has {} entries for {layers} layers", types.len())));
    }
    types
        .iter()
        .map(|kind| match (kind.as_str(), size) {
            ("full_attention", _) => Ok(DecoderLayer { window: None }),
            ("sliding_attention", Some(_)) => Ok(DecoderLayer { window: size }),
            ("sliding_attention", None) => Err(Error::invalid(
                root.path("sliding_window"),
                format!("{path} has sliding layers but sliding_window is not set"),
            )),
            (other, _) => Err(Error::unsupported(path.clone(), format!("{path} has {other}, which is not supported"))),
        })
        .collect()
}

pub(super) fn half_precision(root: &Fields) -> Result<bool> {
    let name = if root.has("dtype") { "dtype" } else { "torch_dtype" };
    match root.string(name)?.as_deref() {
        None | Some("float32") => Ok(false),
        Some("bfloat16" | "float16") => Ok(true),
        Some(other) => Err(Error::unsupported(
            root.path(name),
            format!("{} is {other}; float32, bfloat16 and float16 are supported", root.path(name)),
        )),
    }
}
