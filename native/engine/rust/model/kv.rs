//! The key/value cache: a fixed number of blocks of BLOCK_TOKENS tokens, reserved at once and backed by memory only
//! where it was written. Which block belongs to whom is the scheduler's matter.
//!
//! Memory: [layer][block][kv head] of keys [head_dim][BLOCK_TOKENS], then values [BLOCK_TOKENS][head_dim].

use crate::error::{Code, Error, Result};
use crate::kernels::{BLOCK_TOKENS, Dtype, Query, f32_to_bf16};
use memmap2::{MmapMut, MmapOptions};

pub struct KvCache {
    memory: MmapMut,
    dtype: Dtype,
    kv_heads: usize,
    head_dim: usize,
    blocks: usize,
}

/// Largest address range reserved for a cache, in bytes.
const BYTES_MAX: usize = 1 << 40;

impl KvCache {
    /// `dtype` is F32 or Bf16.
    pub fn new(dtype: Dtype, layers: usize, kv_heads: usize, head_dim: usize, blocks: usize) -> Result<KvCache> {
        let sizes = [layers, blocks, kv_heads, 2 * head_dim * BLOCK_TOKENS, dtype.bytes()];
        let bytes = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let Some(bytes) = bytes.filter(|bytes| *bytes <= BYTES_MAX) else {
            return Err(Error::invalid("options.kvTokensMax", "a key/value cache of this size cannot be addressed"));
        };
        let memory = MmapOptions::new().len(bytes).no_reserve_swap().map_anon().map_err(|error| {
            Error::new(Code::ResourceExhausted, format!("cannot reserve {bytes} bytes of key/value cache: {error}"))
                .at("options.kvTokensMax")
                .remedy("Lower kvTokensMax or give the process more memory.")
        })?;
        Ok(KvCache { memory, dtype, kv_heads, head_dim, blocks })
    }

    fn area_bytes(&self) -> usize {
        self.head_dim * BLOCK_TOKENS * self.dtype.bytes()
    }
    fn block_bytes(&self) -> usize {
        2 * self.kv_heads * self.area_bytes()
    }
    /// Keys of (layer, head) in block 0.
    fn keys(&self, layer: usize, head: usize) -> usize {
        layer * self.blocks * self.block_bytes() + 2 * head * self.area_bytes()
    }

    /// Stores one token's key and value of one head.
    ///
    /// # Safety
    /// No other thread writes or reads this (layer, head, token) at the same time.
    pub unsafe fn write(&self, layer: usize, head: usize, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        let d = self.head_dim;
        assert!((block as usize) < self.blocks && slot < BLOCK_TOKENS && key.len() == d && value.len() == d);
        let keys = self.keys(layer, head) + block as usize * self.block_bytes();
        let values = keys + self.area_bytes();
        assert!(values + self.area_bytes() <= self.memory.len());
        // SAFETY: in bounds by the assertions; the caller keeps others away.
        unsafe {
            let base = self.memory.as_ptr().cast_mut();
            match self.dtype {
                Dtype::F32 => {
                    let (keys, values) = (base.add(keys).cast::<f32>(), base.add(values).cast::<f32>());
                    for i in 0..d {
                        *keys.add(i * BLOCK_TOKENS + slot) = key[i];
                        *values.add(slot * d + i) = value[i];
                    }
                }
                _ => {
                    let (keys, values) = (base.add(keys).cast::<u16>(), base.add(values).cast::<u16>());
                    for i in 0..d {
                        *keys.add(i * BLOCK_TOKENS + slot) = f32_to_bf16(key[i]);
                        *values.add(slot * d + i) = f32_to_bf16(value[i]);
                    }
                }
            }
        }
    }

    /// What `Isa::attend` needs to see positions start..end of the sequence in `blocks`.
    pub fn query<'a>(
        &self,
        layer: usize,
        head: usize,
        q: &'a [f32],
        blocks: &'a [u32],
        start: usize,
        end: usize,
    ) -> Query<'a> {
        assert!(blocks.iter().all(|block| (*block as usize) < self.blocks) && head < self.kv_heads);
        let keys = self.keys(layer, head);
        assert!(keys + self.area_bytes() <= self.memory.len());
        let base = self.memory.as_ptr();
        Query {
            q,
            head_dim: self.head_dim,
            keys: base.wrapping_add(keys),
            values: base.wrapping_add(keys + self.area_bytes()),
            block_bytes: self.block_bytes(),
            blocks,
            dtype: self.dtype,
            start,
            end,
        }
    }

    /// Gives all memory back to the system; every block's content is lost.
    pub fn forget(&mut self) {
        // SAFETY: an anonymous private mapping reads as zeros afterwards; `&mut self` says nobody uses it.
        unsafe { libc::madvise(self.memory.as_mut_ptr().cast(), self.memory.len(), libc::MADV_DONTNEED) };
    }
}
