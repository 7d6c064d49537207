//! Tensors on their way into the model. Several threads may hand over at once; only bookkeeping is under the lock.

use crate::error::Result;
use crate::model::{Assembly, Claim, Expected, Model, WeightBytes};
use crate::pool::lock;
use crate::tensor::{Mappings, Tensor};
use std::path::Path;
use std::sync::Mutex;

pub struct Loading {
    assembly: Mutex<Assembly>,
    mappings: Mappings,
}

pub struct Progress {
    pub expected: usize,
    pub received: usize,
    pub bytes: WeightBytes,
}

impl Loading {
    pub fn new(assembly: Assembly) -> Loading {
        Loading { assembly: Mutex::new(assembly), mappings: Mappings::default() }
    }

    pub fn expected(&self) -> Vec<Expected> {
        lock(&self.assembly).expected()
    }

    pub fn progress(&self) -> Progress {
        let assembly = lock(&self.assembly);
        Progress { expected: assembly.required(), received: assembly.received, bytes: assembly.bytes }
    }

    /// Takes a copy of the bytes. Returns the model when this was the last tensor.
    pub fn push(&self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) -> Result<Option<Model>> {
        let claim = lock(&self.assembly).claim(name, dtype, shape, bytes.len())?;
        self.deliver(claim, |claim| Ok(Tensor::owned(claim.dtype, claim.shape.clone(), bytes.to_vec())))
    }

    /// Maps the bytes. Returns the model when this was the last tensor.
    pub fn push_mapped(
        &self,
        name: &str,
        dtype: &str,
        shape: &[usize],
        path: &Path,
        offset: usize,
        length: usize,
    ) -> Result<Option<Model>> {
        let claim = lock(&self.assembly).claim(name, dtype, shape, length)?;
        self.deliver(claim, |claim| self.mappings.tensor(claim.dtype, claim.shape.clone(), path, offset, length))
    }

    fn deliver(&self, claim: Claim, read: impl Fn(&Claim) -> Result<Tensor>) -> Result<Option<Model>> {
        if !claim.wanted {
            return Ok(None);
        }
        let dtype = lock(&self.assembly).dtype();
        match read(&claim) {
            Ok(tensor) => {
                let prepared = Assembly::prepare(dtype, tensor);
                lock(&self.assembly).deliver(claim, prepared)
            }
            Err(error) => {
                lock(&self.assembly).release(claim);
                Err(error)
            }
        }
    }
}
