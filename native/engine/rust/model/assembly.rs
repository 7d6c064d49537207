//! Puts a model together from tensors that arrive in any order. A layer is built when its last part is there.

use super::Model;
use super::decoder::{self, Decoder};
use super::encoder::{self, Encoder, Norm};
use super::linear::Linear;
use crate::config::{DecoderConfig, EncoderConfig, ModelConfig};
use crate::error::{Code, Error, Result};
use crate::kernels::{Dtype, Isa};
use crate::tensor::{Matrix, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// A tensor that the model needs, or tolerates and drops.
#[derive(Clone, Debug)]
pub struct Expected {
    pub name: String,
    pub shape: Vec<usize>,
    pub required: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct WeightBytes {
    pub mapped: usize,
    pub owned: usize,
}

/// Which part of the model a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Layer(usize),
    Rest,
}

struct Slot {
    expected: Expected,
    group: Group,
    claimed: bool,
}

pub struct Assembly {
    config: Arc<ModelConfig>,
    isa: Isa,
    /// Convert matrices to this type; none keeps them as they come.
    dtype: Option<Dtype>,
    order: Vec<String>,
    slots: HashMap<String, Slot>,
    /// Arrived and not yet built in.
    parts: HashMap<String, Tensor>,
    missing: HashMap<Group, usize>,
    built: Built,
    pub bytes: WeightBytes,
    pub received: usize,
}

#[derive(Default)]
struct Built {
    decoder_layers: HashMap<usize, decoder::Layer>,
    encoder_layers: HashMap<usize, encoder::Layer>,
}

/// The right to deliver one tensor.
pub struct Claim {
    name: String,
    pub shape: Vec<usize>,
    /// False: nothing uses it; it need not be read at all.
    pub wanted: bool,
    pub dtype: Dtype,
}

impl Assembly {
    pub fn new(config: Arc<ModelConfig>, isa: Isa, dtype: Option<Dtype>) -> Assembly {
        let list = match &*config {
            ModelConfig::Decoder(config) => decoder_tensors(config),
            ModelConfig::Encoder(config) => encoder_tensors(config),
        };
        let mut missing = HashMap::new();
        for (expected, group) in &list {
            *missing.entry(*group).or_insert(0) += usize::from(expected.required);
        }
        let order = list.iter().map(|(expected, _)| expected.name.clone()).collect();
        let slot =
            |(expected, group): (Expected, Group)| (expected.name.clone(), Slot { expected, group, claimed: false });
        let slots = list.into_iter().map(slot).collect();
        Assembly {
            config,
            isa,
            dtype,
            order,
            slots,
            parts: HashMap::new(),
            missing,
            built: Built::default(),
            bytes: WeightBytes::default(),
            received: 0,
        }
    }

    pub fn expected(&self) -> Vec<Expected> {
        self.order.iter().filter_map(|name| self.slots.get(name)).map(|slot| slot.expected.clone()).collect()
    }

    pub fn required(&self) -> usize {
        self.slots.values().filter(|slot| slot.expected.required).count()
    }

    /// Checks a tensor's name, type, shape and length, and reserves its place until it is delivered or released.
    pub fn claim(&mut self, name: &str, dtype: &str, shape: &[usize], length: usize) -> Result<Claim> {
        let canonical = self.canonical(name);
        let Some(slot) = self.slots.get_mut(&canonical) else {
            return Err(Error::invalid("name", format!("the model has no tensor {name}"))
                .remedy("Compare the repository's tensors with its config.json."));
        };
        if slot.claimed {
            return Err(Error::new(Code::AlreadyExists, format!("{name} was handed over twice")).at("name"));
        }
        let wanted = slot.expected.required;
        // What nothing uses may have any type (BERT's position IDs are I64).
        let dtype = if wanted { check(&slot.expected, dtype, shape, length)? } else { Dtype::F32 };
        slot.claimed = true;
        Ok(Claim { name: canonical, shape: shape.to_vec(), wanted, dtype })
    }

    /// Gives a claim back whose tensor could not be read.
    pub fn release(&mut self, claim: Claim) {
        if let Some(slot) = self.slots.get_mut(&claim.name) {
            slot.claimed = false;
        }
    }

    /// What to do to a tensor before `deliver`, outside of any lock: matrices take the engine's type.
    pub fn prepare(dtype: Option<Dtype>, tensor: Tensor) -> Tensor {
        match dtype {
            Some(dtype) if tensor.shape().len() == 2 => tensor.convert(dtype),
            _ => tensor,
        }
    }

    pub fn dtype(&self) -> Option<Dtype> {
        self.dtype
    }

    /// Takes a prepared tensor; returns the model when it was the last.
    pub fn deliver(&mut self, claim: Claim, tensor: Tensor) -> Result<Option<Model>> {
        let bytes = if tensor.is_mapped() { &mut self.bytes.mapped } else { &mut self.bytes.owned };
        *bytes += tensor.bytes().len();
        self.received += 1;
        let group = match self.slots.get(&claim.name) {
            Some(slot) => slot.group,
            None => return Err(Error::internal(format!("{} has no place", claim.name))),
        };
        self.parts.insert(claim.name, tensor);
        let missing = self.missing.entry(group).or_insert(0);
        *missing = missing.saturating_sub(1);
        if *missing > 0 {
            return Ok(None);
        }
        let config = self.config.clone();
        if let Group::Layer(index) = group {
            match &*config {
                ModelConfig::Decoder(config) => {
                    let layer = self.decoder_layer(config, index)?;
                    self.built.decoder_layers.insert(index, layer);
                }
                ModelConfig::Encoder(_) => {
                    let layer = self.encoder_layer(index)?;
                    self.built.encoder_layers.insert(index, layer);
                }
            }
        }
        if self.missing.values().any(|missing| *missing > 0) {
            return Ok(None);
        }
        match &*config {
            ModelConfig::Decoder(config) => self.decoder(config).map(|model| Some(Model::Decoder(model))),
            ModelConfig::Encoder(config) => self.encoder(config).map(|model| Some(Model::Encoder(model))),
        }
    }

    /// Older and wrapped repositories spell some names differently.
    fn canonical(&self, name: &str) -> String {
        if matches!(&*self.config, ModelConfig::Decoder(_)) {
            return name.to_string();
        }
        let name = name.strip_prefix("bert.").unwrap_or(name);
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    }

    fn take(&mut self, name: &str) -> Result<Tensor> {
        self.parts.remove(name).ok_or_else(|| Error::internal(format!("{name} is not there although it was counted")))
    }
    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        Ok(self.take(name)?.to_f32())
    }
    fn matrix(&mut self, name: &str) -> Result<Arc<Matrix>> {
        Ok(Arc::new(Matrix::new(self.take(name)?)))
    }
    fn linear(&mut self, prefix: &str, names: &[&str], bias: bool) -> Result<Linear> {
        let mut parts = Vec::new();
        for name in names {
            let matrix = self.matrix(&format!("{prefix}{name}.weight"))?;
            let bias = if bias { Some(self.vector(&format!("{prefix}{name}.bias"))?) } else { None };
            parts.push((matrix, bias));
        }
        Ok(Linear::new(parts))
    }
    fn norm(&mut self, prefix: &str) -> Result<Norm> {
        Ok(Norm { weight: self.vector(&format!("{prefix}.weight"))?, bias: self.vector(&format!("{prefix}.bias"))? })
    }

    fn decoder_layer(&mut self, config: &DecoderConfig, index: usize) -> Result<decoder::Layer> {
        let prefix = format!("model.layers.{index}.");
        let attention = format!("{prefix}self_attn.");
        let mlp = format!("{prefix}mlp.");
        let qk_norm = |this: &mut Assembly, name: &str| {
            config.qk_norm.then(|| this.vector(&format!("{attention}{name}.weight"))).transpose()
        };
        Ok(decoder::Layer {
            attention_norm: self.vector(&format!("{prefix}input_layernorm.weight"))?,
            qkv: self.linear(&attention, &["q_proj", "k_proj", "v_proj"], config.qkv_bias)?,
            q_norm: qk_norm(self, "q_norm")?,
            k_norm: qk_norm(self, "k_norm")?,
            output: self.linear(&attention, &["o_proj"], config.output_bias)?,
            mlp_norm: self.vector(&format!("{prefix}post_attention_layernorm.weight"))?,
            gate_up: self.linear(&mlp, &["gate_proj", "up_proj"], config.mlp_bias)?,
            down: self.linear(&mlp, &["down_proj"], config.mlp_bias)?,
        })
    }

    fn decoder(&mut self, config: &DecoderConfig) -> Result<Decoder> {
        let embeddings = self.matrix("model.embed_tokens.weight")?;
        let head = if config.tied { embeddings.clone() } else { self.matrix("lm_head.weight")? };
        let norm = self.vector("model.norm.weight")?;
        let layers = in_order(&mut self.built.decoder_layers, config.layers.len())?;
        let head = Linear::new(vec![(head, None)]);
        Ok(Decoder::new(config.clone(), embeddings, layers, norm, head, self.isa))
    }

    fn encoder_layer(&mut self, index: usize) -> Result<encoder::Layer> {
        let prefix = format!("encoder.layer.{index}.");
        Ok(encoder::Layer {
            qkv: self.linear(&format!("{prefix}attention.self."), &["query", "key", "value"], true)?,
            output: self.linear(&prefix, &["attention.output.dense"], true)?,
            attention_norm: self.norm(&format!("{prefix}attention.output.LayerNorm"))?,
            up: self.linear(&prefix, &["intermediate.dense"], true)?,
            down: self.linear(&prefix, &["output.dense"], true)?,
            mlp_norm: self.norm(&format!("{prefix}output.LayerNorm"))?,
        })
    }

    fn encoder(&mut self, config: &EncoderConfig) -> Result<Encoder> {
        Ok(Encoder {
            words: Matrix::new(self.take("embeddings.word_embeddings.weight")?),
            positions: Matrix::new(self.take("embeddings.position_embeddings.weight")?),
            token_types: Matrix::new(self.take("embeddings.token_type_embeddings.weight")?),
            norm: self.norm("embeddings.LayerNorm")?,
            layers: in_order(&mut self.built.encoder_layers, config.layers)?,
            config: config.clone(),
            isa: self.isa,
        })
    }
}

fn check(expected: &Expected, dtype: &str, shape: &[usize], length: usize) -> Result<Dtype> {
    let name = &expected.name;
    let Some(dtype) = Dtype::parse(dtype) else {
        return Err(Error::unsupported("dtype", format!("{name} is {dtype}; F32, BF16 and F16 are supported")));
    };
    if expected.shape != shape {
        let message = format!("{name} has shape {shape:?}, config.json asks for {:?}", expected.shape);
        return Err(Error::invalid("shape", message));
    }
    let bytes = shape.iter().try_fold(dtype.bytes(), |product, size| product.checked_mul(*size));
    if bytes != Some(length) {
        let message = format!("{name}: {length} bytes for shape {shape:?} of {}", dtype.name());
        return Err(Error::invalid("length", message));
    }
    Ok(dtype)
}

fn in_order<T>(layers: &mut HashMap<usize, T>, count: usize) -> Result<Vec<T>> {
    let take = |index| layers.remove(&index).ok_or_else(|| Error::internal(format!("layer {index} was not built")));
    (0..count).map(take).collect()
}

type Listed = (Expected, Group);

fn tensor(list: &mut Vec<Listed>, group: Group, required: bool, name: String, shape: &[usize]) {
    list.push((Expected { name, shape: shape.to_vec(), required }, group));
}

fn decoder_tensors(config: &DecoderConfig) -> Vec<Listed> {
    let mut list = Vec::new();
    let (h, q, kv) = (config.hidden, config.q_width(), config.kv_width());
    tensor(&mut list, Group::Rest, true, "model.embed_tokens.weight".into(), &[config.vocabulary, h]);
    for index in 0..config.layers.len() {
        let mut add = |required: bool, name: &str, shape: &[usize]| {
            tensor(&mut list, Group::Layer(index), required, format!("model.layers.{index}.{name}"), shape);
        };
        add(true, "input_layernorm.weight", &[h]);
        for (name, width) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
            add(true, &format!("self_attn.{name}.weight"), &[width, h]);
            if config.qkv_bias {
                add(true, &format!("self_attn.{name}.bias"), &[width]);
            }
        }
        if config.qk_norm {
            add(true, "self_attn.q_norm.weight", &[config.head_dim]);
            add(true, "self_attn.k_norm.weight", &[config.head_dim]);
        }
        add(true, "self_attn.o_proj.weight", &[h, q]);
        if config.output_bias {
            add(true, "self_attn.o_proj.bias", &[h]);
        }
        add(true, "post_attention_layernorm.weight", &[h]);
        for (name, out, input) in [
            ("gate_proj", config.intermediate, h),
            ("up_proj", config.intermediate, h),
            ("down_proj", h, config.intermediate),
        ] {
            add(true, &format!("mlp.{name}.weight"), &[out, input]);
            if config.mlp_bias {
                add(true, &format!("mlp.{name}.bias"), &[out]);
            }
        }
        // Older repositories store what the engine computes itself.
        add(false, "self_attn.rotary_emb.inv_freq", &[config.head_dim / 2]);
    }
    tensor(&mut list, Group::Rest, true, "model.norm.weight".into(), &[h]);
    tensor(&mut list, Group::Rest, !config.tied, "lm_head.weight".into(), &[config.vocabulary, h]);
    list
}

fn encoder_tensors(config: &EncoderConfig) -> Vec<Listed> {
    let mut list = Vec::new();
    let h = config.hidden;
    let mut rest = |required: bool, name: &str, shape: &[usize]| {
        tensor(&mut list, Group::Rest, required, name.to_string(), shape);
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
            tensor(&mut list, Group::Layer(index), true, name, shape);
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
