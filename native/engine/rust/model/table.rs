//! The embeddings of a vocabulary: one matrix, or the ranks' equal parts of it, one after the other.

use crate::tensor::Matrix;
use std::sync::Arc;

pub struct Table {
    parts: Vec<Arc<Matrix>>,
}

impl Table {
    /// At least one part; all have the same number of rows.
    pub fn new(parts: Vec<Arc<Matrix>>) -> Table {
        Table { parts }
    }

    /// One token's embedding, widened into `out`.
    pub fn row(&self, token: usize, out: &mut [f32]) {
        let rows = self.parts[0].rows;
        self.parts[token / rows].row(token % rows, out);
    }
}
