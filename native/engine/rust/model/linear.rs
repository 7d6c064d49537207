//! Linear projections: one or more weight matrices that meet the same input, their outputs side by side. A matrix may come in
//! slices of its columns, whose products are summed: rank by rank, so that the sum has the same bits in every batch.

use super::rows::{Rows, Shared};
use crate::kernels::{Block, Isa};
use crate::pool::Pool;
use crate::tensor::Matrix;
use std::ops::Range;
use std::sync::Arc;

pub struct Linear {
    parts: Vec<Part>,
    /// Sum of the parts' outputs.
    pub outputs: usize,
}

/// A matrix, whole or in slices of its columns from the first to the last.
pub type Addends = Vec<Arc<Matrix>>;

struct Part {
    addends: Addends,
    bias: Option<Vec<f32>>,
    /// First column of this part's outputs.
    column: usize,
}

/// One item of work: rows of one part.
struct Chunk {
    part: usize,
    rows: Range<usize>,
}

/// Weight bytes that one item should have at least: the hardware needs a run-up to follow its streams.
const CHUNK_BYTES: usize = 96 * 1024;
/// Items per thread that keep threads of uneven speed busy to the end.
const CHUNKS_PER_THREAD: usize = 4;
const CHUNK_ROWS_STEP: usize = 8;

impl Linear {
    pub fn new(parts: Vec<(Addends, Option<Vec<f32>>)>) -> Linear {
        let mut outputs = 0;
        let place = |(addends, bias): (Addends, Option<Vec<f32>>)| {
            let part = Part { column: outputs, addends, bias };
            outputs += part.rows();
            part
        };
        let parts = parts.into_iter().map(place).collect();
        Linear { parts, outputs }
    }

    /// out[t] = projections of x[t]; `out` takes the size it needs.
    pub fn project(&self, pool: &mut Pool, isa: Isa, x: &mut Rows, out: &mut Vec<f32>) {
        out.resize(x.len() * self.outputs, 0.0);
        self.apply(pool, isa, x, out, false);
    }

    /// residual[t] += projections of x[t].
    pub fn add(&self, pool: &mut Pool, isa: Isa, x: &mut Rows, residual: &mut [f32]) {
        self.apply(pool, isa, x, residual, true);
    }

    fn apply(&self, pool: &mut Pool, isa: Isa, x: &mut Rows, out: &mut [f32], accumulate: bool) {
        let width = self.parts[0].inputs();
        let tokens = x.len();
        assert!(out.len() == tokens * self.outputs && x.f32.len() == tokens * width);
        let mut addends = self.parts.iter().flat_map(|part| &part.addends);
        if addends.any(|matrix| isa.takes_bf16_activations(matrix.dtype())) {
            x.round(pool, isa);
        }
        let x = &*x;
        let chunks = self.chunks(pool.threads());
        let out = Shared::new(out);
        pool.run(chunks.len(), &|item| {
            let chunk = &chunks[item];
            let part = &self.parts[chunk.part];
            let mut input = 0;
            for (i, matrix) in part.addends.iter().enumerate() {
                let dtype = matrix.dtype();
                let block = Block {
                    weights: matrix.as_ptr(),
                    stride: matrix.stride,
                    rows: chunk.rows.clone(),
                    x: x.column(isa.takes_bf16_activations(dtype), input),
                    x_stride: width,
                    tokens,
                    k: matrix.columns,
                    bias: part.bias.as_deref().filter(|_| i == 0),
                    out: out.as_mut_ptr().wrapping_add(part.column),
                    out_stride: self.outputs,
                    accumulate: accumulate || i > 0,
                };
                // SAFETY: sizes were checked above and when the weights arrived; chunks write disjoint columns.
                unsafe { isa.matmul(dtype, &block) };
                input += matrix.columns;
            }
        });
    }

    fn chunks(&self, threads: usize) -> Vec<Chunk> {
        let first = &self.parts[0];
        let row_bytes = (first.inputs() * first.addends[0].dtype().bytes()).max(1);
        let by_bytes = CHUNK_BYTES.div_ceil(row_bytes);
        let by_threads = self.outputs / (threads * CHUNKS_PER_THREAD);
        let step = by_bytes.max(by_threads).next_multiple_of(CHUNK_ROWS_STEP);
        let split = |(part, rows): (usize, usize)| {
            (0..rows.div_ceil(step)).map(move |i| Chunk { part, rows: i * step..((i + 1) * step).min(rows) })
        };
        self.parts.iter().map(Part::rows).enumerate().flat_map(split).collect()
    }
}

impl Part {
    fn rows(&self) -> usize {
        self.addends[0].rows
    }
    fn inputs(&self) -> usize {
        self.addends.iter().map(|matrix| matrix.columns).sum()
    }
}
