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
    /// From the first byte of the first piece to the last byte of the last.
    Mapped {
        map: Arc<Mmap>,
        offset: usize,
        length: usize,
    },
}

/// Elements in one piece, or a matrix whose rows lie apart: a slice along the columns of a wider one.
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    pieces: Pieces,
    bytes: Bytes,
}

/// Where a tensor's bytes lie in a file or in memory: `count` pieces of equal length, `stride` bytes from start to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    pub count: usize,
    /// Means nothing with a single piece.
    pub stride: usize,
}

/// Where a tensor's bytes lie in a file.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub path: &'a Path,
    /// Of the first piece.
    pub offset: usize,
    /// Of all pieces.
    pub length: usize,
    pub pieces: Pieces,
}

impl Pieces {
    pub const ONE: Pieces = Pieces { count: 1, stride: 0 };
}

impl Tensor {
    /// `bytes` has exactly the length that dtype and shape ask for; the caller checked.
    pub fn owned(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Tensor {
        Tensor { dtype, shape, pieces: Pieces::ONE, bytes: Bytes::Owned(bytes) }
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Bytes of all elements.
    pub fn length(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bytes()
    }
    /// The elements' bytes, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let Pieces { count, stride } = self.pieces;
        let length = self.length() / count.max(1);
        let span = self.span();
        (0..count).map(move |i| &span[i * stride..i * stride + length])
    }
    /// Pieces and what lies between them.
    fn span(&self) -> &[u8] {
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
        self.pieces().flat_map(|piece| widen(self.dtype, piece)).collect()
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
    /// Bytes from the start of a row to the start of the next.
    pub stride: usize,
}

impl Matrix {
    /// The shape was checked against the model's list of expected tensors.
    pub fn new(tensor: Tensor) -> Matrix {
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        let stride = if tensor.pieces.count > 1 { tensor.pieces.stride } else { columns * tensor.dtype.bytes() };
        Matrix { tensor, rows, columns, stride }
    }
    pub fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }
    pub fn as_ptr(&self) -> *const u8 {
        self.tensor.span().as_ptr()
    }
    /// One row, widened into `out`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let start = row * self.stride;
        let bytes = &self.tensor.span()[start..start + self.columns * self.tensor.dtype.bytes()];
        out.copy_from_slice(&widen(self.tensor.dtype, bytes));
    }
}

/// Maps each file once for all tensors in it; a file is unmapped with its last tensor.
#[derive(Default)]
pub struct Mappings {
    files: Mutex<HashMap<PathBuf, Weak<Mmap>>>,
}

impl Mappings {
    /// A tensor over bytes of a file, whose length and pieces fit its shape; the caller checked. Elements that would lie
    /// unaligned in memory are copied.
    pub fn tensor(&self, dtype: Dtype, shape: Vec<usize>, place: &Place) -> Result<Tensor> {
        let Place { path, offset, length, pieces } = *place;
        let map = self.map(path)?;
        let span = span(length, pieces);
        let end = span.and_then(|span| offset.checked_add(span)).filter(|end| *end <= map.len());
        let Some(end) = end else {
            let message = format!(
                "{}: {} at {offset} lie outside the file's {} bytes",
                path.display(),
                described(length, pieces),
                map.len()
            );
            return Err(Error::new(Code::Corrupt, message)
                .at("offset")
                .remedy("Load the file again; it is shorter than its header says."));
        };
        let tensor = Tensor { dtype, shape, pieces, bytes: Bytes::Mapped { map, offset, length: end - offset } };
        if offset.is_multiple_of(dtype.bytes()) {
            return Ok(tensor);
        }
        let bytes = tensor.pieces().collect::<Vec<_>>().concat();
        Ok(Tensor::owned(dtype, tensor.shape, bytes))
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

/// Bytes from the first to the last; none where that is beyond all numbers.
fn span(length: usize, Pieces { count, stride }: Pieces) -> Option<usize> {
    let count = count.max(1);
    (count - 1).checked_mul(stride)?.checked_add(length / count)
}

fn described(length: usize, Pieces { count, stride }: Pieces) -> String {
    if count > 1 { format!("{length} bytes in {count} runs every {stride}") } else { format!("{length} bytes") }
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
        let at = |offset| Place { path: &path, offset, length: 16, pieces: Pieces::ONE };
        let a = mappings.tensor(Dtype::F32, vec![4], &at(8)).unwrap();
        let b = mappings.tensor(Dtype::F32, vec![4], &at(9)).unwrap();
        assert!(a.is_mapped() && !b.is_mapped());
        let past_end = mappings.tensor(Dtype::F32, vec![4], &at(4088));
        assert_eq!(past_end.err().unwrap().code, Code::Corrupt);
        let nowhere = Place { path: Path::new("/nonexistent"), ..at(0) };
        assert_eq!(mappings.tensor(Dtype::F32, vec![4], &nowhere).err().unwrap().code, Code::NotFound);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_slice_of_the_columns_stays_where_it_is() {
        let path = std::env::temp_dir().join(format!("pilotlight-slice-{}", std::process::id()));
        // A byte, then 3 rows of 4 columns.
        let values: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        std::fs::write(&path, [&[0u8; 4][..], &values, &[0], &values].concat()).unwrap();
        let mappings = Mappings::default();
        let right = |begin: usize| Place {
            path: &path,
            offset: begin + 8,
            length: 24,
            pieces: Pieces { count: 3, stride: 16 },
        };
        for (begin, mapped) in [(4, true), (53, false)] {
            let slice = mappings.tensor(Dtype::F32, vec![3, 2], &right(begin)).unwrap();
            assert_eq!((slice.is_mapped(), slice.length()), (mapped, 24));
            assert_eq!(slice.to_f32(), [2.0, 3.0, 6.0, 7.0, 10.0, 11.0]);
            let matrix = Matrix::new(slice);
            let mut row = [0.0; 2];
            matrix.row(2, &mut row);
            assert_eq!((matrix.stride, row), (if mapped { 16 } else { 8 }, [10.0, 11.0]));
        }
        let past_end = Place { pieces: Pieces { count: 3, stride: 40 }, ..right(53) };
        let error = mappings.tensor(Dtype::F32, vec![3, 2], &past_end).err().unwrap();
        assert!(error.message.contains("24 bytes in 3 runs every 40 at 61"), "{}", error.message);
        std::fs::remove_file(&path).unwrap();
    }
}
