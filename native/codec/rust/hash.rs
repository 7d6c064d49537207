//! SHA-256 piece by piece, off the event loop. JavaScript keeps its hands off a piece until the promise has settled.

use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::*;
use napi_derive::napi;
use sha2::{Digest, Sha256};

pub struct Update {
    hash: Arc<Mutex<Sha256>>,
    piece: Buffer,
}

impl Task for Update {
    type Output = ();
    type JsValue = ();

    fn compute(&mut self) -> Result<()> {
        locked(&self.hash)?.update(&self.piece[..]);
        Ok(())
    }

    fn resolve(&mut self, _: Env, (): ()) -> Result<()> {
        Ok(())
    }
}

fn locked(hash: &Mutex<Sha256>) -> Result<std::sync::MutexGuard<'_, Sha256>> {
    hash.lock().map_err(|_| Error::from_reason("an earlier piece failed"))
}

/// The hash of one stream. One piece at a time.
#[napi]
pub struct Sha256Stream {
    hash: Arc<Mutex<Sha256>>,
}

#[napi]
impl Sha256Stream {
    #[napi(constructor)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Sha256Stream { hash: Arc::new(Mutex::new(Sha256::new())) }
    }

    #[napi(ts_return_type = "Promise<void>")]
    pub fn update(&self, piece: Buffer) -> AsyncTask<Update> {
        AsyncTask::new(Update { hash: self.hash.clone(), piece })
    }

    /// The hash of all pieces.
    #[napi]
    pub fn digest(&self) -> Result<Buffer> {
        Ok(locked(&self.hash)?.clone().finalize().to_vec().into())
    }
}
