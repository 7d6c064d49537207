//! Puts a model together from tensors that arrive in any order, each whole or as the slices of a group's ranks. A layer is
//! built when its last part is there.

use super::Model;
use super::decoder::{self, Decoder};
use super::division::Division;
use super::encoder::{self, Encoder, Norm};
use super::expected::{Expected, Listed, Section, decoder_tensors, encoder_tensors};
use super::linear::{Addends, Linear};
use super::table::Table;
use crate::config::{DecoderConfig, EncoderConfig, ModelConfig};
use crate::error::{Code, Error, Result};
use crate::kernels::{Dtype, Isa};
use crate::tensor::{Matrix, Pieces, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// A tensor as it is handed over.
#[derive(Clone, Copy)]
pub struct Announced<'a> {
    pub name: &'a str,
    /// Who hands it over.
    pub rank: usize,
    /// As the safetensors format spells it.
    pub dtype: &'a str,
    pub shape: &'a [usize],
    /// Bytes of all pieces.
    pub length: usize,
    pub pieces: Pieces,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct WeightBytes {
    pub mapped: usize,
    pub owned: usize,
}

struct Slot {
    expected: Expected,
    section: Section,
    division: Division,
    /// By rank.
    claimed: Vec<bool>,
}

/// Bytes of what several ranks bring alike that are compared: all of a norm, the beginning of a matrix.
const COMPARED_BYTES: usize = 64 * 1024;

pub struct Assembly {
    config: Arc<ModelConfig>,
    /// Size of the tensor-parallel group whose slices arrive.
    ranks: usize,
    isa: Isa,
    /// Convert matrices to this type; none keeps them as they come.
    dtype: Option<Dtype>,
    order: Vec<String>,
    slots: HashMap<String, Slot>,
    /// Arrived and not yet built in, by name and slice.
    parts: HashMap<(String, usize), Tensor>,
    missing: HashMap<Section, usize>,
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
    rank: usize,
    pub shape: Vec<usize>,
    /// False: nothing uses it; it need not be read at all.
    pub wanted: bool,
    pub dtype: Dtype,
}

impl Assembly {
    /// `ranks`: 1, or a number that `check_group` lets pass for this model.
    pub fn new(config: Arc<ModelConfig>, isa: Isa, dtype: Option<Dtype>, ranks: usize) -> Assembly {
        let list = match &*config {
            ModelConfig::Decoder(config) => decoder_tensors(config),
            ModelConfig::Encoder(config) => encoder_tensors(config),
        };
        let mut missing = HashMap::new();
        for Listed { expected, section, .. } in &list {
            *missing.entry(*section).or_insert(0) += if expected.required { ranks } else { 0 };
        }
        let order = list.iter().map(|listed| listed.expected.name.clone()).collect();
        let slot = |Listed { expected: Expected { name, shape, required }, section, division }: Listed| {
            let shape = division.shape(&shape, ranks);
            let expected = Expected { name: name.clone(), shape, required };
            (name, Slot { expected, section, division, claimed: vec![false; ranks] })
        };
        let slots = list.into_iter().map(slot).collect();
        Assembly {
            config,
            ranks,
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

    /// What each rank hands over.
    pub fn expected(&self) -> Vec<Expected> {
        self.order.iter().filter_map(|name| self.slots.get(name)).map(|slot| slot.expected.clone()).collect()
    }

    /// How many tensors all ranks hand over together.
    pub fn required(&self) -> usize {
        self.slots.values().filter(|slot| slot.expected.required).count() * self.ranks
    }

    /// Checks a tensor's name, rank, type, shape and length, and reserves its place until it is delivered or released.
    pub fn claim(&mut self, tensor: &Announced) -> Result<Claim> {
        let Announced { name, rank, .. } = *tensor;
        if rank >= self.ranks {
            let message = format!("{name}: rank {rank} does not exist in a group of {}", self.ranks);
            return Err(Error::invalid("rank", message)
                .remedy("Ranks count from 0; options.tensorParallel is the size of the group."));
        }
        let canonical = self.canonical(name);
        let said = self.said(name, rank);
        let Some(slot) = self.slots.get_mut(&canonical) else {
            return Err(Error::invalid("name", format!("the model has no tensor {name}"))
                .remedy("Compare the repository's tensors with its config.json."));
        };
        if slot.claimed[rank] {
            return Err(Error::new(Code::AlreadyExists, format!("{said} was handed over twice")).at("name"));
        }
        let wanted = slot.expected.required;
        // What nothing uses may have any type (BERT's position IDs are I64).
        let dtype = if wanted { check(&said, &slot.expected.shape, self.ranks, tensor)? } else { Dtype::F32 };
        slot.claimed[rank] = true;
        Ok(Claim { name: canonical, rank, shape: tensor.shape.to_vec(), wanted, dtype })
    }

    /// A tensor as messages name it.
    fn said(&self, name: &str, rank: usize) -> String {
        if self.ranks > 1 { format!("{name} of rank {rank}") } else { name.to_string() }
    }

    /// Gives a claim back whose tensor could not be read.
    pub fn release(&mut self, claim: Claim) {
        if let Some(slot) = self.slots.get_mut(&claim.name) {
            slot.claimed[claim.rank] = false;
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
        let Some(Slot { section, division, .. }) = self.slots.get(&claim.name) else {
            return Err(Error::internal(format!("{} has no place", claim.name)));
        };
        let (section, slice) = (*section, division.slice(claim.rank, self.ranks));
        match self.parts.get(&(claim.name.clone(), slice)) {
            Some(kept) => {
                if !begin_alike(kept, &tensor) {
                    let said = self.said(&claim.name, claim.rank);
                    self.release(claim);
                    return Err(Error::new(Code::Corrupt, format!("{said} differs from what another rank brought"))
                        .remedy("Give every rank its slices of the same model."));
                }
            }
            None => {
                let bytes = if tensor.is_mapped() { &mut self.bytes.mapped } else { &mut self.bytes.owned };
                *bytes += tensor.length();
                self.parts.insert((claim.name, slice), tensor);
            }
        }
        self.received += 1;
        let missing = self.missing.entry(section).or_insert(0);
        *missing = missing.saturating_sub(1);
        if *missing > 0 {
            return Ok(None);
        }
        let config = self.config.clone();
        if let Section::Layer(index) = section {
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

    /// One slice of a tensor.
    fn take(&mut self, name: &str, slice: usize) -> Result<Tensor> {
        let part = self.parts.remove(&(name.to_string(), slice));
        part.ok_or_else(|| Error::internal(format!("{name} is not there although it was counted")))
    }
    /// Of something that every rank has.
    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        Ok(self.take(name, 0)?.to_f32())
    }
    /// The slices of a matrix, in order.
    fn matrices(&mut self, name: &str) -> Result<Vec<Arc<Matrix>>> {
        let slices = self.division(name).slices(self.ranks);
        (0..slices).map(|slice| Ok(Arc::new(Matrix::new(self.take(name, slice)?)))).collect()
    }
    fn division(&self, name: &str) -> Division {
        self.slots.get(name).map_or(Division::Copies, |slot| slot.division)
    }
    fn linear(&mut self, prefix: &str, names: &[&str], bias: bool) -> Result<Linear> {
        let mut parts = Vec::new();
        for name in names {
            let (weight, bias_name) = (format!("{prefix}{name}.weight"), format!("{prefix}{name}.bias"));
            let matrices = self.matrices(&weight)?;
            // Slices of the columns are summed; slices of the rows stand side by side.
            let parted: Vec<Addends> = match self.division(&weight) {
                Division::Columns => vec![matrices],
                _ => matrices.into_iter().map(|matrix| vec![matrix]).collect(),
            };
            for (slice, addends) in parted.into_iter().enumerate() {
                let bias = if bias { Some(self.take(&bias_name, slice)?.to_f32()) } else { None };
                parts.push((addends, bias));
            }
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
        let embeddings = self.matrices("model.embed_tokens.weight")?;
        let head = if config.tied { embeddings.clone() } else { self.matrices("lm_head.weight")? };
        let norm = self.vector("model.norm.weight")?;
        let layers = in_order(&mut self.built.decoder_layers, config.layers.len())?;
        let head = Linear::new(head.into_iter().map(|matrix| (vec![matrix], None)).collect());
        Ok(Decoder::new(config.clone(), Table::new(embeddings), layers, norm, head, self.isa))
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
            words: Matrix::new(self.take("embeddings.word_embeddings.weight", 0)?),
            positions: Matrix::new(self.take("embeddings.position_embeddings.weight", 0)?),
            token_types: Matrix::new(self.take("embeddings.token_type_embeddings.weight", 0)?),
            norm: self.norm("embeddings.LayerNorm")?,
            layers: in_order(&mut self.built.encoder_layers, config.layers)?,
            config: config.clone(),
            isa: self.isa,
        })
    }
}

/// `said`: the tensor as messages name it; `expected`: its shape.
fn check(said: &str, expected: &[usize], ranks: usize, tensor: &Announced) -> Result<Dtype> {
    let Announced { shape, length, pieces, .. } = *tensor;
    let Some(dtype) = Dtype::parse(tensor.dtype) else {
        let message = format!("{said} is {}; F32, BF16 and F16 are supported", tensor.dtype);
        return Err(Error::unsupported("dtype", message));
    };
    if expected != shape {
        let asked = if ranks > 1 { format!(" of {ranks} ranks") } else { String::new() };
        let message = format!("{said} has shape {shape:?}, config.json asks for {expected:?}{asked}");
        return Err(Error::invalid("shape", message));
    }
    let bytes = shape.iter().try_fold(dtype.bytes(), |product, size| product.checked_mul(*size));
    if bytes != Some(length) {
        let message = format!("{said}: {length} bytes for shape {shape:?} of {}", dtype.name());
        return Err(Error::invalid("length", message));
    }
    if pieces.count == 1 {
        return Ok(dtype);
    }
    let run = length / pieces.count.max(1);
    if shape.len() != 2 || pieces.count != shape[0] {
        let message = format!("{said}: {} runs for shape {shape:?}; one, or one for each row", pieces.count);
        return Err(Error::invalid("runs", message));
    }
    if pieces.stride < run || !pieces.stride.is_multiple_of(dtype.bytes()) {
        let message = format!("{said}: runs of {run} bytes every {} bytes; whole elements apart", pieces.stride);
        return Err(Error::invalid("strideBytes", message));
    }
    Ok(dtype)
}

/// Whether two tensors that were checked against the same expectation are alike, as far as their beginnings tell.
fn begin_alike(a: &Tensor, b: &Tensor) -> bool {
    let (a_begin, b_begin) = (a.pieces().next().unwrap_or_default(), b.pieces().next().unwrap_or_default());
    let length = a_begin.len().min(b_begin.len()).min(COMPARED_BYTES);
    a.dtype() == b.dtype() && a_begin[..length] == b_begin[..length]
}

fn in_order<T>(layers: &mut HashMap<usize, T>, count: usize) -> Result<Vec<T>> {
    let take = |index| layers.remove(&index).ok_or_else(|| Error::internal(format!("layer {index} was not built")));
    (0..count).map(take).collect()
}
