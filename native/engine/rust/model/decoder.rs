//! One step of a decoder over packed tokens: any mixture of prompts, chunks of prompts and single tokens.

use super::kv::KvCache;
use super::linear::Linear;
use super::rows::{Rows, Shared, each_row};
use super::table::Table;
use crate::config::{Activation, DecoderConfig};
use crate::kernels::{BLOCK_TOKENS, Isa};
use crate::pool::Pool;

pub struct Layer {
    pub attention_norm: Vec<f32>,
    pub qkv: Linear,
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    pub output: Linear,
    pub mlp_norm: Vec<f32>,
    pub gate_up: Linear,
    pub down: Linear,
}

pub struct Decoder {
    pub config: DecoderConfig,
    pub embeddings: Table,
    pub layers: Vec<Layer>,
    pub norm: Vec<f32>,
    pub head: Linear,
    pub isa: Isa,
    buffers: Buffers,
}

/// Consecutive tokens of one sequence within a step.
pub struct Span<'a> {
    pub tokens: &'a [u32],
    /// Position of the first of them in its sequence.
    pub position: usize,
    /// The sequence's cache blocks; they cover all positions of this span.
    pub blocks: &'a [u32],
}

pub struct DecoderStep<'a> {
    pub spans: Vec<Span<'a>>,
    /// Packed token numbers whose logits are wanted.
    pub outputs: Vec<usize>,
}

#[derive(Default)]
struct Buffers {
    hidden: Vec<f32>,
    normed: Rows,
    qkv: Vec<f32>,
    attended: Rows,
    gate_up: Vec<f32>,
    product: Rows,
    rotations: Vec<f32>,
}

/// Query tokens of one sequence and head that are one item of work: keys stay in the first-level cache among them.
const QUERIES_PER_ITEM: usize = 16;

/// Where a packed token belongs.
#[derive(Clone, Copy)]
struct Place {
    span: usize,
    position: usize,
}

impl Decoder {
    pub fn new(
        config: DecoderConfig,
        embeddings: Table,
        layers: Vec<Layer>,
        norm: Vec<f32>,
        head: Linear,
        isa: Isa,
    ) -> Decoder {
        Decoder { config, embeddings, layers, norm, head, isa, buffers: Buffers::default() }
    }

    /// Computes the step, writes keys and values into `cache` and the wanted logits, [outputs][vocabulary], into `logits`.
    /// Token IDs are below the vocabulary's size; the caller checked.
    pub fn step(&mut self, pool: &mut Pool, cache: &KvCache, step: &DecoderStep, logits: &mut Vec<f32>) {
        let mut buffers = std::mem::take(&mut self.buffers);
        let places = places(step);
        self.embed(pool, step, &places, &mut buffers);
        rotations(&self.config.rope.inverse_frequencies, &places, &mut buffers.rotations);
        for (index, layer) in self.layers.iter().enumerate() {
            self.attention(pool, cache, step, &places, index, layer, &mut buffers);
            self.mlp(pool, layer, &mut buffers);
        }
        self.logits(pool, step, &mut buffers, logits);
        self.buffers = buffers;
    }

    fn embed(&self, pool: &mut Pool, step: &DecoderStep, places: &[Place], buffers: &mut Buffers) {
        let width = self.config.hidden;
        buffers.hidden.resize(places.len() * width, 0.0);
        let hidden = Shared::new(&mut buffers.hidden);
        each_row(pool, places.len(), width, &|t| {
            let span = &step.spans[places[t].span];
            let token = span.tokens[places[t].position - span.position];
            // SAFETY: one row per call.
            self.embeddings.row(token as usize, unsafe { hidden.slice(t * width..(t + 1) * width) });
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        pool: &mut Pool,
        cache: &KvCache,
        step: &DecoderStep,
        places: &[Place],
        index: usize,
        layer: &Layer,
        buffers: &mut Buffers,
    ) {
        let Buffers { hidden, normed, qkv, attended, rotations, .. } = buffers;
        self.norm_rows(pool, hidden, &layer.attention_norm, normed);
        layer.qkv.project(pool, self.isa, normed, qkv);
        self.rotate_and_store(pool, cache, step, places, index, layer, qkv, rotations);
        attended.shape(places.len(), self.config.q_width());
        self.attend(pool, cache, step, index, qkv, &mut attended.f32);
        layer.output.add(pool, self.isa, attended, hidden);
    }

    fn mlp(&self, pool: &mut Pool, layer: &Layer, buffers: &mut Buffers) {
        let Buffers { hidden, normed, gate_up, product, .. } = buffers;
        self.norm_rows(pool, hidden, &layer.mlp_norm, normed);
        layer.gate_up.project(pool, self.isa, normed, gate_up);
        let width = self.config.intermediate;
        let tokens = gate_up.len() / (2 * width);
        product.shape(tokens, width);
        let out = Shared::new(&mut product.f32);
        each_row(pool, tokens, 2 * width, &|t| {
            let (gate, up) = gate_up[t * 2 * width..(t + 1) * 2 * width].split_at(width);
            // SAFETY: one row per call.
            let out = unsafe { out.slice(t * width..(t + 1) * width) };
            out.copy_from_slice(gate);
            match self.config.activation {
                Activation::Silu => self.isa.silu_mul(out, up),
                Activation::Gelu | Activation::GeluTanh => self.isa.gelu_tanh_mul(out, up),
            }
        });
        layer.down.add(pool, self.isa, product, hidden);
    }

    fn norm_rows(&self, pool: &mut Pool, hidden: &[f32], weight: &[f32], normed: &mut Rows) {
        let width = weight.len();
        let tokens = hidden.len() / width;
        normed.shape(tokens, width);
        let out = Shared::new(&mut normed.f32);
        each_row(pool, tokens, width, &|t| {
            let row = t * width..(t + 1) * width;
            // SAFETY: one row per call.
            self.isa.rms_norm(&hidden[row.clone()], weight, self.config.epsilon, unsafe { out.slice(row) });
        });
    }

    /// Norms (Qwen3) and rotates queries and keys, scales queries, and puts keys and values into the cache.
    #[allow(clippy::too_many_arguments)]
    fn rotate_and_store(
        &self,
        pool: &mut Pool,
        cache: &KvCache,
        step: &DecoderStep,
        places: &[Place],
        index: usize,
        layer: &Layer,
        qkv: &mut [f32],
        rotations: &[f32],
    ) {
        let config = &self.config;
        let (d, q_width, kv_width) = (config.head_dim, config.q_width(), config.kv_width());
        let width = layer.qkv.outputs;
        let scale = 1.0 / (d as f32).sqrt();
        let rows = Shared::new(qkv);
        each_row(pool, places.len(), width, &|t| {
            // SAFETY: one row per call.
            let row = unsafe { rows.slice(t * width..(t + 1) * width) };
            let (q, kv) = row.split_at_mut(q_width);
            let (k, v) = kv.split_at_mut(kv_width);
            let angles = &rotations[t * d..(t + 1) * d];
            self.norm_heads(q, layer.q_norm.as_deref());
            self.norm_heads(k, layer.k_norm.as_deref());
            q.chunks_mut(d).for_each(|head| rotate(head, angles));
            k.chunks_mut(d).for_each(|head| rotate(head, angles));
            q.iter_mut().for_each(|value| *value *= scale);
            let place = places[t];
            let block = step.spans[place.span].blocks[place.position / BLOCK_TOKENS];
            for (head, (key, value)) in k.chunks(d).zip(v.chunks(d)).enumerate() {
                // SAFETY: each token of each sequence is written once a step, and read only after this region.
                unsafe { cache.write(index, head, block, place.position % BLOCK_TOKENS, key, value) };
            }
        });
    }

    fn norm_heads(&self, heads: &mut [f32], weight: Option<&[f32]>) {
        let Some(weight) = weight else { return };
        let mut normed = [0.0f32; crate::kernels::HEAD_DIM_MAX];
        for head in heads.chunks_mut(weight.len()) {
            let normed = &mut normed[..weight.len()];
            self.isa.rms_norm(head, weight, self.config.epsilon, normed);
            head.copy_from_slice(normed);
        }
    }

    fn attend(&self, pool: &mut Pool, cache: &KvCache, step: &DecoderStep, index: usize, qkv: &[f32], out: &mut [f32]) {
        let config = &self.config;
        let group = config.heads / config.kv_heads * config.head_dim;
        let (stride, out_stride) = (config.q_width() + 2 * config.kv_width(), config.q_width());
        let window = self.config.layers[index].window;
        let items = attention_items(step, config.kv_heads);
        let out = Shared::new(out);
        pool.run(items.len(), &|item| {
            let AttentionItem { span, head, first, count, packed } = items[item];
            let span = &step.spans[span];
            for i in first..first + count {
                let (t, position) = (packed + i, span.position + i);
                let q = &qkv[t * stride + head * group..][..group];
                let start = window.map_or(0, |window| (position + 1).saturating_sub(window));
                let query = cache.query(index, head, q, span.blocks, start, position + 1);
                // SAFETY: one (token, head) per item.
                let out = unsafe { out.slice(t * out_stride + head * group..t * out_stride + (head + 1) * group) };
                self.isa.attend(&query, out);
            }
        });
    }

    fn logits(&self, pool: &mut Pool, step: &DecoderStep, buffers: &mut Buffers, logits: &mut Vec<f32>) {
        let width = self.config.hidden;
        let mut last = Vec::with_capacity(step.outputs.len() * width);
        for t in &step.outputs {
            last.extend_from_slice(&buffers.hidden[t * width..(t + 1) * width]);
        }
        logits.clear();
        if last.is_empty() {
            return;
        }
        self.norm_rows(pool, &last, &self.norm, &mut buffers.normed);
        self.head.project(pool, self.isa, &mut buffers.normed, logits);
    }
}

fn places(step: &DecoderStep) -> Vec<Place> {
    let of = |(span, s): (usize, &Span)| {
        let position = s.position;
        (0..s.tokens.len()).map(move |i| Place { span, position: position + i })
    };
    step.spans.iter().enumerate().flat_map(of).collect()
}

/// [tokens][head_dim]: cosines of all pairs, then sines, shared by all layers and heads of a step.
fn rotations(inverse_frequencies: &[f32], places: &[Place], out: &mut Vec<f32>) {
    out.clear();
    for place in places {
        let angles = inverse_frequencies.iter().map(|frequency| place.position as f32 * frequency);
        out.extend(angles.clone().map(|angle| f64::from(angle).cos() as f32));
        out.extend(angles.map(|angle| f64::from(angle).sin() as f32));
    }
}

/// Rotates the pairs (i, i + d/2).
fn rotate(head: &mut [f32], angles: &[f32]) {
    let half = head.len() / 2;
    let (low, high) = head.split_at_mut(half);
    let (cos, sin) = angles.split_at(half);
    for i in 0..half {
        let (x, y) = (low[i], high[i]);
        low[i] = x * cos[i] - y * sin[i];
        high[i] = y * cos[i] + x * sin[i];
    }
}

#[derive(Clone, Copy)]
struct AttentionItem {
    span: usize,
    head: usize,
    /// Tokens first..first + count of the span.
    first: usize,
    count: usize,
    /// Packed number of the span's first token.
    packed: usize,
}

fn attention_items(step: &DecoderStep, kv_heads: usize) -> Vec<AttentionItem> {
    let mut items = Vec::new();
    let mut packed = 0;
    for (span, s) in step.spans.iter().enumerate() {
        for first in (0..s.tokens.len()).step_by(QUERIES_PER_ITEM) {
            let count = QUERIES_PER_ITEM.min(s.tokens.len() - first);
            items.extend((0..kv_heads).map(|head| AttentionItem { span, head, first, count, packed }));
        }
        packed += s.tokens.len();
    }
    items
}
