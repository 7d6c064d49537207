//! Which tensors a model needs, of which shapes, and how a group's ranks divide them.

use super::division::Division;
use crate::config::{DecoderConfig, EncoderConfig};

/// A tensor that the model needs of each rank, or tolerates and drops.
#[derive(Clone, Debug)]
pub struct Expected {
    pub name: String,
    /// Of one rank's slice.
    pub shape: Vec<usize>,
    pub required: bool,
}

/// Which part of the model a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    Layer(usize),
    Rest,
}

/// A tensor in a model's list.
pub struct Listed {
    /// Whole.
    pub expected: Expected,
    pub section: Section,
    pub division: Division,
}

fn tensor(list: &mut Vec<Listed>, section: Section, division: Division, required: bool, name: String, shape: &[usize]) {
    list.push(Listed { expected: Expected { name, shape: shape.to_vec(), required }, section, division });
}

pub fn decoder_tensors(config: &DecoderConfig) -> Vec<Listed> {
    use Division::{Columns, Copies, Rows};
    let mut list = Vec::new();
    let (h, q, kv) = (config.hidden, config.q_width(), config.kv_width());
    let (heads, kv_heads) = (Rows { units: config.heads }, Rows { units: config.kv_heads });
    let features = Rows { units: config.intermediate };
    let words = Rows { units: config.vocabulary };
    tensor(&mut list, Section::Rest, words, true, "model.embed_tokens.weight".into(), &[config.vocabulary, h]);
    for index in 0..config.layers.len() {
        let mut add = |division: Division, required: bool, name: &str, shape: &[usize]| {
            tensor(&mut list, Section::Layer(index), division, required, format!("model.layers.{index}.{name}"), shape);
        };
        add(Copies, true, "input_layernorm.weight", &[h]);
        for (division, name, width) in [(heads, "q_proj", q), (kv_heads, "k_proj", kv), (kv_heads, "v_proj", kv)] {
            add(division, true, &format!("self_attn.{name}.weight"), &[width, h]);
            if config.qkv_bias {
                add(division, true, &format!("self_attn.{name}.bias"), &[width]);
            }
        }
        if config.qk_norm {
            add(Copies, true, "self_attn.q_norm.weight", &[config.head_dim]);
            add(Copies, true, "self_attn.k_norm.weight", &[config.head_dim]);
        }
        add(Columns, true, "self_attn.o_proj.weight", &[h, q]);
        if config.output_bias {
            add(Copies, true, "self_attn.o_proj.bias", &[h]);
        }
        add(Copies, true, "post_attention_layernorm.weight", &[h]);
        for (division, bias_division, name, out, input) in [
            (features, features, "gate_proj", config.intermediate, h),
            (features, features, "up_proj", config.intermediate, h),
            // The bias is added once, to the ranks' sum.
            (Columns, Copies, "down_proj", h, config.intermediate),
        ] {
            add(division, true, &format!("mlp.{name}.weight"), &[out, input]);
            if config.mlp_bias {
                add(bias_division, true, &format!("mlp.{name}.bias"), &[out]);
            }
        }
        // Older repositories store what the engine computes itself.
        add(Copies, false, "self_attn.rotary_emb.inv_freq", &[config.head_dim / 2]);
    }
    tensor(&mut list, Section::Rest, Copies, true, "model.norm.weight".into(), &[h]);
    tensor(&mut list, Section::Rest, words, !config.tied, "lm_head.weight".into(), &[config.vocabulary, h]);
    list
}

pub fn encoder_tensors(config: &EncoderConfig) -> Vec<Listed> {
    let mut list = Vec::new();
    let h = config.hidden;
    let mut rest = |required: bool, name: &str, shape: &[usize]| {
        tensor(&mut list, Section::Rest, Division::Copies, required, name.to_string(), shape);
    };
    rest(true, "embeddings.word_embeddings.weight", &[config.vocabulary, h]);
    rest(true, "embeddings.position_embeddings.weight", &[config.context, h]);
    rest(true, "embeddings.token_type_embeddings.weight", &[config.token_types, h]);
    rest(true, "embeddings.LayerNorm.weight", &[h]);
    rest(true, "embeddings.LayerNorm.bias", &[h]);
    // Parts of BERT that sentence embeddings do not use.
    rest(false, "embeddings.position_ids", &[1, config.context]);
    rest(false, "pooler.dense.weight", &[h, h]);
    rest(false, "pooler.dense.bias", &[h]);
    for index in 0..config.layers {
        let mut add = |name: &str, shape: &[usize]| {
            let name = format!("encoder.layer.{index}.{name}");
            tensor(&mut list, Section::Layer(index), Division::Copies, true, name, shape);
        };
        for (name, out, input) in [
            ("attention.self.query", h, h),
            ("attention.self.key", h, h),
            ("attention.self.value", h, h),
            ("attention.output.dense", h, h),
            ("intermediate.dense", config.intermediate, h),
            ("output.dense", h, config.intermediate),
        ] {
            add(&format!("{name}.weight"), &[out, input]);
            add(&format!("{name}.bias"), &[out]);
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            add(&format!("{name}.weight"), &[h]);
            add(&format!("{name}.bias"), &[h]);
        }
    }
    list
}
