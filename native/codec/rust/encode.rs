//! What becomes of one chunk of an image, off the event loop and without allocating: hashed, and compressed into the buffer that
//! it came in. Runs on libuv's thread pool. JavaScript keeps its hands off the buffer until the promise has settled.

use std::cell::RefCell;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use sha2::{Digest, Sha256};
use zstd_safe::{CCtx, CParameter, compress_bound};

/// Codes of `Encoded::encoding`.
const RAW: u32 = 0;
const ZSTD: u32 = 1;
const ZEROS: u32 = 2;

struct Compressor {
    context: CCtx<'static>,
    scratch: Vec<u8>,
}

thread_local! {
    static COMPRESSOR: RefCell<Compressor> = RefCell::new(Compressor { context: CCtx::create(), scratch: Vec::new() });
}

#[napi(object)]
pub struct Encoded {
    pub sha256: Buffer,
    /// 0: as it is; 1: zstd; 2: nothing but zeros.
    pub encoding: u32,
    /// Bytes at the beginning of the chunk's buffer that are to be stored.
    pub wire_length: u32,
}

pub struct Encode {
    buffer: Buffer,
    length: usize,
    /// None: only hashed.
    level: Option<i32>,
    gain_min: f64,
}

pub struct Outcome {
    sha256: [u8; 32],
    encoding: u32,
    wire_length: usize,
}

impl Task for Encode {
    type Output = Outcome;
    type JsValue = Encoded;

    fn compute(&mut self) -> Result<Outcome> {
        let raw = &mut self.buffer[..self.length];
        let sha256 = Sha256::digest(&*raw).into();
        if raw.iter().all(|byte| *byte == 0) {
            return Ok(Outcome { sha256, encoding: ZEROS, wire_length: 0 });
        }
        let compressed = match self.level {
            Some(level) => compress_in_place(raw, level, self.gain_min)?,
            None => None,
        };
        Ok(match compressed {
            Some(wire_length) => Outcome { sha256, encoding: ZSTD, wire_length },
            None => Outcome { sha256, encoding: RAW, wire_length: raw.len() },
        })
    }

    fn resolve(&mut self, _: Env, outcome: Outcome) -> Result<Encoded> {
        Ok(Encoded {
            sha256: outcome.sha256.to_vec().into(),
            encoding: outcome.encoding,
            wire_length: outcome.wire_length as u32,
        })
    }
}

/// One frame with its content size and without a checksum, or None where it saves too little: then the bytes are as they were.
fn compress_in_place(raw: &mut [u8], level: i32, gain_min: f64) -> Result<Option<usize>> {
    let failed = |code| Error::from_reason(zstd_safe::get_error_name(code));
    COMPRESSOR.with_borrow_mut(|Compressor { context, scratch }| {
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
        ] {
            context.set_parameter(parameter).map_err(failed)?;
        }
        scratch.clear();
        scratch.reserve(compress_bound(raw.len()));
        let length = context.compress2(scratch, raw).map_err(failed)?;
        if length as f64 > raw.len() as f64 * (1.0 - gain_min) {
            return Ok(None);
        }
        raw[..length].copy_from_slice(&scratch[..length]);
        Ok(Some(length))
    })
}

/// Hashes the first `length` bytes of a buffer and, with a level, replaces them by a compressed frame where that saves at least
/// `gain_min` of them. Resolves with what is to be stored.
#[napi(ts_return_type = "Promise<Encoded>")]
pub fn encode(buffer: Buffer, length: u32, level: Option<i32>, gain_min: f64) -> Result<AsyncTask<Encode>> {
    let length = length as usize;
    if length > buffer.len() {
        return Err(Error::from_reason("a chunk is longer than its buffer"));
    }
    Ok(AsyncTask::new(Encode { buffer, length, level, gain_min }))
}
