//! Tensors on their way into the model. Several threads may hand over at once; only bookkeeping is under the lock.

use crate::error::Result;
use crate::model::{Announced, Assembly, Claim, Expected, Model, WeightBytes};
use crate::pool::lock;
use crate::tensor::{Mappings, Place, Tensor};
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
    pub fn push(&self, tensor: &Announced, bytes: &[u8]) -> Result<Option<Model>> {
        let claim = lock(&self.assembly).claim(tensor)?;
        self.deliver(claim, |claim| Ok(Tensor::owned(claim.dtype, claim.shape.clone(), bytes.to_vec())))
    }

    /// Maps the bytes, the first at `offset` of the file. Returns the model when this was the last tensor.
    pub fn push_mapped(&self, tensor: &Announced, path: &Path, offset: usize) -> Result<Option<Model>> {
        let claim = lock(&self.assembly).claim(tensor)?;
        let place = Place { path, offset, length: tensor.length, pieces: tensor.pieces };
        self.deliver(claim, |claim| self.mappings.tensor(claim.dtype, claim.shape.clone(), &place))
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
