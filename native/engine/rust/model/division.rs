//! How the tensors of a decoder are divided between the ranks of a tensor-parallel group: query, key, value, gate and up by
//! rows, output and down projections by columns, embeddings and head by vocabulary, the rest everywhere (Megatron-LM,
//! https://arxiv.org/abs/1909.08053). `decoderSplit` of @pilotlight/safetensors cuts them so.

use crate::config::DecoderConfig;
use crate::error::{Error, Result};

/// How one tensor is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// Every rank brings all of it.
    Copies,
    /// Rank by rank along the rows, in units that stay whole (heads). Where there are fewer than ranks, neighbouring
    /// ranks bring the same one.
    Rows { units: usize },
    /// Rank by rank along the columns.
    Columns,
}

impl Division {
    /// How many different slices the group brings together.
    pub fn slices(self, ranks: usize) -> usize {
        match self {
            Division::Copies => 1,
            Division::Rows { units } => units.min(ranks),
            Division::Columns => ranks,
        }
    }

    /// Which of them a rank brings.
    pub fn slice(self, rank: usize, ranks: usize) -> usize {
        rank * self.slices(ranks) / ranks
    }

    /// The shape of one.
    pub fn shape(self, whole: &[usize], ranks: usize) -> Vec<usize> {
        let mut shape = whole.to_vec();
        let divided = if self == Division::Columns { 1 } else { 0 };
        shape[divided] /= self.slices(ranks);
        shape
    }
}

/// Refuses groups that the model cannot be divided between.
pub fn check_group(config: &DecoderConfig, ranks: usize) -> Result<()> {
    let refused = |count: usize, what: &str| {
        let field = "options.tensorParallel";
        Error::invalid(field, format!("{field} is {ranks}, which does not divide the model's {count} {what}"))
            .remedy("Choose a number of ranks that divides the model's heads, intermediate size and vocabulary.")
    };
    for (count, what) in [
        (config.heads, "attention heads"),
        (config.intermediate, "intermediate features"),
        (config.vocabulary, "tokens of vocabulary"),
    ] {
        if !count.is_multiple_of(ranks) {
            return Err(refused(count, what));
        }
    }
    // Fewer key/value heads than ranks are shared by as many neighbours each.
    if !config.kv_heads.is_multiple_of(ranks) && !ranks.is_multiple_of(config.kv_heads) {
        return Err(refused(config.kv_heads, "key/value heads"));
    }
    Ok(())
}
