//! BERT: packed texts in, one vector per text out (transformers, modeling_bert.py: post-norm layers, absolute positions).

use super::kv::KvCache;
use super::linear::Linear;
use super::rows::{Rows, Shared, each_row};
use crate::config::{Activation, EncoderConfig, Pooling};
use crate::error::Result;
use crate::kernels::{BLOCK_TOKENS, Dtype, Isa};
use crate::pool::Pool;
use crate::tensor::Matrix;

pub struct Layer {
    pub qkv: Linear,
    pub output: Linear,
    pub attention_norm: Norm,
    pub up: Linear,
    pub down: Linear,
    pub mlp_norm: Norm,
}

pub struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

pub struct Encoder {
    pub config: EncoderConfig,
    pub words: Matrix,
    pub positions: Matrix,
    pub token_types: Matrix,
    pub norm: Norm,
    pub layers: Vec<Layer>,
    pub isa: Isa,
}

/// One text's tokens within a step.
#[derive(Clone, Copy)]
struct Text {
    first: usize,
    tokens: usize,
    first_block: usize,
}

const QUERIES_PER_ITEM: usize = 16;

impl Encoder {
    /// One embedding per text. Each has 1..=context tokens with IDs below the vocabulary's size; the caller checked.
    pub fn embed(&self, pool: &mut Pool, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let layout = layout(texts);
        let blocks = layout.last().map_or(0, |text| text.first_block + text.tokens.div_ceil(BLOCK_TOKENS));
        let tokens = texts.iter().map(|text| text.len()).sum();
        // Keys and values live for one layer only, so one layer's worth of cache serves all.
        let cache = KvCache::new(Dtype::F32, 1, self.config.heads, self.config.head_dim, blocks)?;
        let mut hidden = Rows::default();
        hidden.shape(tokens, self.config.hidden);
        self.look_up(texts, &layout, &mut hidden.f32);
        let mut buffers = (Vec::new(), Rows::default());
        for layer in &self.layers {
            self.layer(pool, &cache, &layout, layer, &mut hidden, &mut buffers);
        }
        Ok(layout.iter().map(|text| self.pool_tokens(&hidden.f32, *text)).collect())
    }

    fn look_up(&self, texts: &[&[u32]], layout: &[Text], hidden: &mut [f32]) {
        let width = self.config.hidden;
        let mut row = vec![0.0; width];
        for (ids, text) in texts.iter().zip(layout) {
            for (position, id) in ids.iter().enumerate() {
                let out = &mut hidden[(text.first + position) * width..][..width];
                self.words.row(*id as usize, out);
                for (matrix, index) in [(&self.token_types, 0), (&self.positions, position)] {
                    matrix.row(index, &mut row);
                    out.iter_mut().zip(&row).for_each(|(o, r)| *o += r);
                }
                self.isa.layer_norm(out, &self.norm.weight, &self.norm.bias, self.config.epsilon);
            }
        }
    }

    fn layer(
        &self,
        pool: &mut Pool,
        cache: &KvCache,
        layout: &[Text],
        layer: &Layer,
        hidden: &mut Rows,
        (wide, inner): &mut (Vec<f32>, Rows),
    ) {
        layer.qkv.project(pool, self.isa, hidden, wide);
        self.store(pool, cache, layout, wide);
        inner.shape(hidden.len(), self.config.hidden);
        self.attend(pool, cache, layout, wide, &mut inner.f32);
        layer.output.add(pool, self.isa, inner, &mut hidden.f32);
        self.norm_rows(pool, &layer.attention_norm, &mut hidden.f32);

        layer.up.project(pool, self.isa, hidden, wide);
        let width = self.config.intermediate;
        inner.shape(hidden.len(), width);
        inner.f32.copy_from_slice(wide);
        let rows = Shared::new(&mut inner.f32);
        each_row(pool, hidden.len(), width, &|t| {
            // SAFETY: one row per call.
            let row = unsafe { rows.slice(t * width..(t + 1) * width) };
            match self.config.activation {
                Activation::Gelu => self.isa.gelu(row),
                Activation::GeluTanh | Activation::Silu => self.isa.gelu_tanh(row),
            }
        });
        layer.down.add(pool, self.isa, inner, &mut hidden.f32);
        self.norm_rows(pool, &layer.mlp_norm, &mut hidden.f32);
    }

    fn store(&self, pool: &mut Pool, cache: &KvCache, layout: &[Text], qkv: &mut [f32]) {
        let (width, d) = (self.config.hidden, self.config.head_dim);
        let scale = 1.0 / (d as f32).sqrt();
        let rows = Shared::new(qkv);
        pool.run(layout.len(), &|index| {
            let text = layout[index];
            for i in 0..text.tokens {
                let t = text.first + i;
                // SAFETY: one text per item.
                let row = unsafe { rows.slice(t * 3 * width..(t + 1) * 3 * width) };
                row[..width].iter_mut().for_each(|value| *value *= scale);
                let block = (text.first_block + i / BLOCK_TOKENS) as u32;
                let (keys, values) = row[width..].split_at(width);
                for (head, (key, value)) in keys.chunks(d).zip(values.chunks(d)).enumerate() {
                    // SAFETY: likewise; nobody reads before all are stored.
                    unsafe { cache.write(0, head, block, i % BLOCK_TOKENS, key, value) };
                }
            }
        });
    }

    fn attend(&self, pool: &mut Pool, cache: &KvCache, layout: &[Text], qkv: &[f32], out: &mut [f32]) {
        let (width, d) = (self.config.hidden, self.config.head_dim);
        let items: Vec<(Text, usize, usize)> = layout
            .iter()
            .flat_map(|text| (0..text.tokens).step_by(QUERIES_PER_ITEM).map(move |first| (*text, first)))
            .flat_map(|(text, first)| (0..self.config.heads).map(move |head| (text, first, head)))
            .collect();
        let out = Shared::new(out);
        pool.run(items.len(), &|item| {
            let (text, first, head) = items[item];
            let blocks: Vec<u32> =
                (0..text.tokens.div_ceil(BLOCK_TOKENS)).map(|b| (text.first_block + b) as u32).collect();
            for i in first..(first + QUERIES_PER_ITEM).min(text.tokens) {
                let t = text.first + i;
                let q = &qkv[t * 3 * width + head * d..][..d];
                let query = cache.query(0, head, q, &blocks, 0, text.tokens);
                // SAFETY: one (token, head) per item.
                self.isa.attend(&query, unsafe { out.slice(t * width + head * d..t * width + (head + 1) * d) });
            }
        });
    }

    fn norm_rows(&self, pool: &mut Pool, norm: &Norm, hidden: &mut [f32]) {
        let width = self.config.hidden;
        let tokens = hidden.len() / width;
        let rows = Shared::new(hidden);
        each_row(pool, tokens, width, &|t| {
            // SAFETY: one row per call.
            let row = unsafe { rows.slice(t * width..(t + 1) * width) };
            self.isa.layer_norm(row, &norm.weight, &norm.bias, self.config.epsilon);
        });
    }

    fn pool_tokens(&self, hidden: &[f32], text: Text) -> Vec<f32> {
        let width = self.config.hidden;
        let rows = &hidden[text.first * width..(text.first + text.tokens) * width];
        let mut embedding = rows[..width].to_vec();
        if self.config.pooling == Pooling::Mean {
            for row in rows[width..].chunks(width) {
                embedding.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            embedding.iter_mut().for_each(|sum| *sum /= text.tokens as f32);
        }
        if self.config.normalise {
            let norm = embedding.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt().max(1e-12) as f32;
            embedding.iter_mut().for_each(|value| *value /= norm);
        }
        embedding
    }
}

fn layout(texts: &[&[u32]]) -> Vec<Text> {
    let (mut first, mut first_block) = (0, 0);
    let place = |ids: &&[u32]| {
        let text = Text { first, tokens: ids.len(), first_block };
        first += ids.len();
        first_block += ids.len().div_ceil(BLOCK_TOKENS);
        text
    };
    texts.iter().map(place).collect()
}
