//! Tensors as the engine keeps them: bytes it owns, or bytes of a mapped file that other processes map too.

use crate::error::{Code, Error, Result};
use crate::kernels::{Dtype, bf16_to_f32, f16_to_f32, f32_to_bf16};
use memmap2::{Mmap, MmapOptions};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::pool::lock;

enum Bytes {
    Owned(Vec<u8>),
    Mapped { map: Arc<Mmap>, offset: usize, length: usize },
}

pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Tensor {
    /// `bytes` has exactly the length that dtype and shape ask for; the caller checked.
    pub fn owned(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Tensor {
        Tensor { dtype, shape, bytes: Bytes::Owned(bytes) }
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped { map, offset, length } => &map[*offset..*offset + *length],
        }
    }
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped { .. })
    }

    /// All elements, widened.
    pub fn to_f32(&self) -> Vec<f32> {
        widen(self.dtype, self.bytes())
    }

    /// The same values as `dtype`; mapped bytes stay mapped when nothing changes. f32 rounds to bf16; nothing becomes f16.
    pub fn convert(self, dtype: Dtype) -> Tensor {
        if self.dtype == dtype {
            return self;
        }
        let values = self.to_f32();
        let bytes = match dtype {
            Dtype::Bf16 => values.iter().flat_map(|v| f32_to_bf16(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let dtype = if dtype == Dtype::Bf16 { Dtype::Bf16 } else { Dtype::F32 };
        Tensor::owned(dtype, self.shape, bytes)
    }
}

/// Little-endian elements as f32; incomplete trailing bytes are ignored.
pub fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::Bf16 => halves().map(bf16_to_f32).collect(),
        Dtype::F16 => halves().map(f16_to_f32).collect(),
    }
}

/// A weight matrix [rows][columns], rows being outputs.
pub struct Matrix {
    tensor: Tensor,
    pub rows: usize,
    pub columns: usize,
}

impl Matrix {
    /// The shape was checked against the model's list of expected tensors.
    pub fn new(tensor: Tensor) -> Matrix {
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        Matrix { tensor, rows, columns }
    }
    pub fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }
    pub fn as_ptr(&self) -> *const u8 {
        self.tensor.bytes().as_ptr()
    }
    /// One row, widened into `out`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let width = self.columns * self.tensor.dtype.bytes();
        let bytes = &self.tensor.bytes()[row * width..(row + 1) * width];
        out.copy_from_slice(&widen(self.tensor.dtype, bytes));
    }
}

/// Maps each file once for all tensors in it; a file is unmapped with its last tensor.
#[derive(Default)]
pub struct Mappings {
    files: Mutex<HashMap<PathBuf, Weak<Mmap>>>,
}

impl Mappings {
    /// A tensor over `length` bytes at `offset` of the file. Elements that would lie unaligned in memory are copied.
    pub fn tensor(&self, dtype: Dtype, shape: Vec<usize>, path: &Path, offset: usize, length: usize) -> Result<Tensor> {
        let map = self.map(path)?;
        let end = offset.checked_add(length).filter(|end| *end <= map.len());
        let Some(end) = end else {
            return Err(Error::new(
                Code::Corrupt,
                format!("{}: {length} bytes at {offset} lie outside the file's {} bytes", path.display(), map.len()),
            )
            .at("offset")
            .remedy("Load the file again; it is shorter than its header says."));
        };
        if !offset.is_multiple_of(dtype.bytes()) {
            return Ok(Tensor::owned(dtype, shape, map[offset..end].to_vec()));
        }
        Ok(Tensor { dtype, shape, bytes: Bytes::Mapped { map, offset, length } })
    }

    fn map(&self, path: &Path) -> Result<Arc<Mmap>> {
        let mut files = lock(&self.files);
        if let Some(map) = files.get(path).and_then(Weak::upgrade) {
            return Ok(map);
        }
        let failed = |error: std::io::Error| {
            let code = match error.kind() {
                std::io::ErrorKind::NotFound => Code::NotFound,
                std::io::ErrorKind::OutOfMemory => Code::ResourceExhausted,
                _ => Code::Unavailable,
            };
            Error::new(code, format!("cannot map {}: {error}", path.display())).at("path")
        };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the boundary's contract: whoever hands over the file neither changes nor shortens it while the engine
        // lives. A file that shrinks all the same ends in SIGBUS, as with every mapped file.
        let map = Arc::new(unsafe { MmapOptions::new().map(&file) }.map_err(failed)?);
        files.retain(|_, map| map.strong_count() > 0);
        files.insert(path.to_path_buf(), Arc::downgrade(&map));
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_types_widen_and_round() {
        assert_eq!(widen(Dtype::Bf16, &[0x80, 0x3f, 0x00, 0xc0]), [1.0, -2.0]);
        assert_eq!(widen(Dtype::F16, &[0x00, 0x3c, 0x01, 0x00, 0x00, 0xfc]), [1.0, 2f32.powi(-24), f32::NEG_INFINITY]);
        let bytes: Vec<u8> = [1.0f32, 1.003_906_3, 3.0e38].iter().flat_map(|v| v.to_le_bytes()).collect();
        let rounded = Tensor::owned(Dtype::F32, vec![3], bytes).convert(Dtype::Bf16);
        assert_eq!(rounded.to_f32()[..2], [1.0, 1.0]);
    }

    #[test]
    fn a_file_is_mapped_once_and_its_end_is_checked() {
        let path = std::env::temp_dir().join(format!("pilotlight-tensor-{}", std::process::id()));
        std::fs::write(&path, [0u8; 4099]).unwrap();
        let mappings = Mappings::default();
        let a = mappings.tensor(Dtype::F32, vec![4], &path, 8, 16).unwrap();
        let b = mappings.tensor(Dtype::F32, vec![4], &path, 9, 16).unwrap();
        assert!(a.is_mapped() && !b.is_mapped());
        let past_end = mappings.tensor(Dtype::F32, vec![4], &path, 4088, 16);
        assert_eq!(past_end.err().unwrap().code, Code::Corrupt);
        assert_eq!(
            mappings.tensor(Dtype::F32, vec![1], Path::new("/nonexistent"), 0, 4).err().unwrap().code,
            Code::NotFound
        );
        std::fs::remove_file(&path).unwrap();
    }
}
