//! Linear projections: one or more weight matrices that meet the same input, their outputs side by side.

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

struct Part {
    matrix: Arc<Matrix>,
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
    pub fn new(parts: Vec<(Arc<Matrix>, Option<Vec<f32>>)>) -> Linear {
        let mut outputs = 0;
        let place = |(matrix, bias): (Arc<Matrix>, Option<Vec<f32>>)| {
            let part = Part { column: outputs, matrix, bias };
            outputs += part.matrix.rows;
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
        let k = self.parts[0].matrix.columns;
        let tokens = x.len();
        assert!(out.len() == tokens * self.outputs && x.f32.len() == tokens * k);
        if self.parts.iter().any(|part| isa.takes_bf16_activations(part.matrix.dtype())) {
            x.round(pool, isa);
        }
        let x = &*x;
        let chunks = self.chunks(pool.threads());
        let out = Shared::new(out);
        pool.run(chunks.len(), &|item| {
            let chunk = &chunks[item];
            let part = &self.parts[chunk.part];
            let dtype = part.matrix.dtype();
            let activations = if isa.takes_bf16_activations(dtype) {
                assert!(x.bf16.len() == x.f32.len());
                x.bf16.as_ptr().cast()
            } else {
                x.f32.as_ptr().cast()
            };
            let block = Block {
                weights: part.matrix.as_ptr(),
                rows: chunk.rows.clone(),
                x: activations,
                tokens,
                k,
                bias: part.bias.as_deref(),
                out: out.as_mut_ptr().wrapping_add(part.column),
                out_stride: self.outputs,
                accumulate,
            };
            // SAFETY: sizes were checked above and when the weights arrived; chunks write disjoint columns.
            unsafe { isa.matmul(dtype, &block) };
        });
    }

    fn chunks(&self, threads: usize) -> Vec<Chunk> {
        let matrix = &self.parts[0].matrix;
        let row_bytes = (matrix.columns * matrix.dtype().bytes()).max(1);
        let by_bytes = CHUNK_BYTES.div_ceil(row_bytes);
        let by_threads = self.outputs / (threads * CHUNKS_PER_THREAD);
        let step = by_bytes.max(by_threads).next_multiple_of(CHUNK_ROWS_STEP);
        let split = |(part, rows): (usize, usize)| {
            (0..rows.div_ceil(step)).map(move |i| Chunk { part, rows: i * step..((i + 1) * step).min(rows) })
        };
        self.parts.iter().map(|part| part.matrix.rows).enumerate().flat_map(split).collect()
    }
}
