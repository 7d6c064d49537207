//! The image object, parsed and checked to the letter: header, manifest, index. docs/image-format.md describes it; the
//! TypeScript package @pilotlight/image-format is the other implementation.

use serde::Deserialize;
use sha2::{Digest, Sha256};

pub const PAGE: u64 = 4096;
const IMAGE_VERSION: u32 = 1;
const INDEX_VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const MANIFEST_BYTES_MAX: usize = 32 << 20;
const INDEX_BYTES_MAX: usize = 256 << 20;
const CHUNK_BYTES_MAX: u32 = 4 << 20;
const BLOB_METADATA: u32 = 1;
const BLOB_DATA: u32 = 2;

#[derive(Debug)]
pub enum ImageError {
    Corrupt(String),
    Unsupported(String),
}

type Result<T> = std::result::Result<T, ImageError>;

fn corrupt<T>(why: impl Into<String>) -> Result<T> {
    Err(ImageError::Corrupt(why.into()))
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Encoding {
    Raw,
    Zstd,
    Zeros,
}

#[derive(Clone, Debug)]
pub struct Chunk {
    pub sha256: [u8; 32],
    /// Position of its first byte in the blob.
    pub offset: u64,
    pub raw_length: u32,
    pub pack: u32,
    pub pack_offset: u64,
    pub wire_length: u32,
    pub encoding: Encoding,
}

impl Chunk {
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.raw_length)
    }
}

/// A parsed image object.
#[derive(Debug)]
pub struct ImageFile {
    pub image_id: String,
    pub metadata: Vec<Chunk>,
    pub data: Vec<Chunk>,
    pub data_size: u64,
    /// Names (hex SHA-256) of the packs; the first stands for the image object itself and is empty.
    pub packs: Vec<String>,
    metadata_pack: std::ops::Range<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    format_version: u32,
    image_id: String,
    manifest_digest: String,
    index: IndexPlace,
    metadata: Place,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexPlace {
    offset: u64,
    length: u64,
    raw_length: u64,
    sha256: String,
}

#[derive(Deserialize)]
struct Place {
    offset: u64,
    length: u64,
}

impl ImageFile {
    pub fn parse(bytes: &[u8]) -> Result<ImageFile> {
        let manifest = parse_manifest(bytes)?;
        if manifest.index.raw_length as usize > INDEX_BYTES_MAX {
            return corrupt("its index is too large");
        }
        let place = range(bytes.len(), manifest.index.offset, manifest.index.length)?;
        let index = zstd::bulk::decompress(&bytes[place], manifest.index.raw_length as usize)
            .map_err(|e| ImageError::Corrupt(format!("its index cannot be decompressed: {e}")))?;
        if index.len() as u64 != manifest.index.raw_length || hex(&Sha256::digest(&index)) != manifest.index.sha256 {
            return corrupt("its index has another checksum");
        }
        let metadata_pack = range(bytes.len(), manifest.metadata.offset, manifest.metadata.length)?;
        let tables = parse_index(&index)?;
        if tables.packs.first().map(|p| p.1) != Some(metadata_pack.len() as u64) {
            return corrupt("its metadata section has another length than the index says");
        }
        if identity(&manifest.manifest_digest, &tables) != manifest.image_id {
            return corrupt("its identity is not that of its chunks");
        }
        let mut blobs = tables.blobs.into_iter();
        let (metadata, data) = match (blobs.next(), blobs.next()) {
            (Some(m), Some(d)) if m.kind == BLOB_METADATA && d.kind == BLOB_DATA => (m, d),
            _ => return corrupt("its first blobs are not EROFS metadata and data"),
        };
        Ok(ImageFile {
            image_id: manifest.image_id,
            data_size: data.chunks.last().map_or(0, Chunk::end),
            metadata: metadata.chunks,
            data: data.chunks,
            packs: tables
                .packs
                .into_iter()
                .enumerate()
                .map(|(i, (sha, _))| if i == 0 { String::new() } else { hex(&sha) })
                .collect(),
            metadata_pack,
        })
    }

    /// The EROFS metadata image, verified chunk by chunk. `bytes` is the object that this was parsed from.
    pub fn metadata_image(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let pack = &bytes[self.metadata_pack.clone()];
        let mut out = Vec::with_capacity(self.metadata.last().map_or(0, Chunk::end) as usize);
        for chunk in &self.metadata {
            let place = range(pack.len(), chunk.pack_offset, u64::from(chunk.wire_length))?;
            out.extend_from_slice(&decode(chunk, &pack[place])?);
        }
        Ok(out)
    }

    /// Position of the chunk that holds this byte of the data blob.
    pub fn chunk_at(&self, offset: u64) -> Option<usize> {
        let i = self.data.partition_point(|chunk| chunk.end() <= offset);
        (i < self.data.len()).then_some(i)
    }
}

/// Decompresses and verifies a chunk's stored bytes.
pub fn decode(chunk: &Chunk, wire: &[u8]) -> Result<Vec<u8>> {
    let length = chunk.raw_length as usize;
    let raw = match chunk.encoding {
        Encoding::Zeros => vec![0; length],
        Encoding::Raw => wire.to_vec(),
        Encoding::Zstd => zstd::bulk::decompress(wire, length)
            .map_err(|e| ImageError::Corrupt(format!("a chunk cannot be decompressed: {e}")))?,
    };
    if raw.len() != length || Sha256::digest(&raw).as_slice() != chunk.sha256 {
        return corrupt("a chunk has another checksum");
    }
    Ok(raw)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest> {
    if bytes.len() < HEADER_BYTES || &bytes[..8] != b"PLIMAGE\0" {
        return corrupt("it does not begin as an image");
    }
    let version = u32_at(bytes, 8);
    if version != IMAGE_VERSION {
        return Err(ImageError::Unsupported(format!(
            "the image has format version {version}; this reader knows {IMAGE_VERSION}"
        )));
    }
    let length = u32_at(bytes, 12) as usize;
    if length > MANIFEST_BYTES_MAX {
        return corrupt("its manifest is too large");
    }
    let json = &bytes[range(bytes.len(), HEADER_BYTES as u64, length as u64)?];
    if Sha256::digest(json).as_slice() != &bytes[16..48] {
        return corrupt("its manifest has another checksum");
    }
    let manifest: Manifest =
        serde_json::from_slice(json).map_err(|e| ImageError::Corrupt(format!("its manifest is malformed: {e}")))?;
    if manifest.format_version != IMAGE_VERSION {
        return corrupt("its manifest and header disagree on the version");
    }
    Ok(manifest)
}

struct Blob {
    kind: u32,
    chunks: Vec<Chunk>,
}

struct Tables {
    blobs: Vec<Blob>,
    packs: Vec<([u8; 32], u64)>,
}

fn parse_index(bytes: &[u8]) -> Result<Tables> {
    const BLOB_BYTES: usize = 32;
    const PACK_BYTES: usize = 48;
    const CHUNK_BYTES: usize = 64;
    if bytes.len() < HEADER_BYTES || &bytes[..8] != b"PLINDEX\0" {
        return corrupt("its index does not begin as one");
    }
    let version = u32_at(bytes, 8);
    if version != INDEX_VERSION {
        return Err(ImageError::Unsupported(format!(
            "the image index has version {version}; this reader knows {INDEX_VERSION}"
        )));
    }
    let [blob_count, pack_count, chunk_count] = [12, 16, 20].map(|at| u32_at(bytes, at) as usize);
    let packs_at = HEADER_BYTES + blob_count * BLOB_BYTES;
    let chunks_at = (packs_at + pack_count * PACK_BYTES).div_ceil(CHUNK_BYTES) * CHUNK_BYTES;
    if bytes.len() != chunks_at + chunk_count * CHUNK_BYTES {
        return corrupt("the index's length does not fit its tables");
    }
    let packs: Vec<([u8; 32], u64)> = (0..pack_count)
        .map(|i| {
            let at = packs_at + i * PACK_BYTES;
            (bytes[at..at + 32].try_into().unwrap(), u64_at(bytes, at + 32))
        })
        .collect();
    let mut next = 0usize;
    let mut blobs = Vec::with_capacity(blob_count);
    for i in 0..blob_count {
        let at = HEADER_BYTES + i * BLOB_BYTES;
        let (first, count) = (u32_at(bytes, at + 4) as usize, u32_at(bytes, at + 8) as usize);
        if first != next || count > chunk_count - next {
            return corrupt("blobs do not partition the chunks");
        }
        let mut offset = 0u64;
        let mut chunks = Vec::with_capacity(count);
        for c in first..first + count {
            let chunk = parse_chunk(&bytes[chunks_at + c * CHUNK_BYTES..][..CHUNK_BYTES], &packs, offset)?;
            offset = chunk.end();
            chunks.push(chunk);
        }
        if u64_at(bytes, at + 16) != offset {
            return corrupt("a blob's size is not that of its chunks");
        }
        next += count;
        blobs.push(Blob { kind: u32_at(bytes, at), chunks });
    }
    if next != chunk_count {
        return corrupt("some chunks belong to no blob");
    }
    Ok(Tables { blobs, packs })
}

fn parse_chunk(record: &[u8], packs: &[([u8; 32], u64)], expected_offset: u64) -> Result<Chunk> {
    let chunk = Chunk {
        sha256: record[..32].try_into().unwrap(),
        offset: u64_at(record, 32),
        pack_offset: u64_at(record, 40),
        pack: u32_at(record, 48),
        raw_length: u32_at(record, 52),
        wire_length: u32_at(record, 56),
        encoding: match record[60] {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            2 => Encoding::Zeros,
            _ => return corrupt("a chunk has an unknown encoding"),
        },
    };
    if chunk.offset != expected_offset {
        return corrupt("chunks overlap or leave a gap");
    }
    if chunk.raw_length == 0 || chunk.raw_length > CHUNK_BYTES_MAX || u64::from(chunk.raw_length) % PAGE != 0 {
        return corrupt("a chunk has an impossible length");
    }
    let wire_fits = match chunk.encoding {
        Encoding::Raw => chunk.wire_length == chunk.raw_length,
        Encoding::Zstd => chunk.wire_length > 0 && chunk.wire_length < chunk.raw_length,
        Encoding::Zeros => chunk.wire_length == 0,
    };
    if !wire_fits {
        return corrupt("a chunk's stored length is impossible");
    }
    if chunk.encoding != Encoding::Zeros {
        let inside = packs.get(chunk.pack as usize).is_some_and(|(_, size)| {
            chunk.pack_offset.checked_add(u64::from(chunk.wire_length)).is_some_and(|end| end <= *size)
        });
        if !inside {
            return corrupt("a chunk lies outside its pack");
        }
    }
    Ok(chunk)
}

fn identity(manifest_digest: &str, tables: &Tables) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("pilotlight image 1\n{manifest_digest}\n"));
    for blob in &tables.blobs {
        let size = blob.chunks.last().map_or(0, Chunk::end);
        hash.update(format!("blob {} {} {}\n", blob.kind, size, blob.chunks.len()));
        for chunk in &blob.chunks {
            hash.update(chunk.sha256);
            hash.update(chunk.raw_length.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}

fn range(total: usize, offset: u64, length: u64) -> Result<std::ops::Range<usize>> {
    match offset.checked_add(length) {
        Some(end) if end <= total as u64 => Ok(offset as usize..end as usize),
        _ => corrupt("it is shorter than it says"),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;

    /// Metadata of two chunks in pack 0, data of three in pack 1 (one of them zeros).
    fn valid_index() -> Vec<u8> {
        let chunks: [(u64, u64, u32, u32, u32, u8); 5] = [
            (0, 0, 0, 8192, 100, 1),
            (8192, 100, 0, 4096, 4096, 0),
            (0, 0, 1, 4096, 4096, 0),
            (4096, 0, 0, 8192, 0, 2),
            (12288, 4096, 1, 16384, 5000, 1),
        ];
        let mut bytes = b"PLINDEX\0".to_vec();
        for number in [INDEX_VERSION, 2, 2, chunks.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        for (kind, first, count, size) in [(BLOB_METADATA, 0u32, 2u32, 12288u64), (BLOB_DATA, 2, 3, 28672)] {
            bytes.extend([kind, first, count, 0].map(u32::to_le_bytes).concat());
            bytes.extend([size, 0].map(u64::to_le_bytes).concat());
        }
        for (sha, size) in [(0u8, 4196u64), (7, 9096)] {
            bytes.extend([sha; 32]);
            bytes.extend([size, 0].map(u64::to_le_bytes).concat());
        }
        bytes.resize(bytes.len().div_ceil(64) * 64, 0);
        for (offset, pack_offset, pack, raw, wire, encoding) in chunks {
            bytes.extend([3; 32]);
            bytes.extend([offset, pack_offset].map(u64::to_le_bytes).concat());
            bytes.extend([pack, raw, wire].map(u32::to_le_bytes).concat());
            bytes.extend([encoding, 0, 0, 0]);
        }
        bytes
    }

    fn image_with(index: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let stored = zstd::bulk::compress(index, 1).unwrap();
        let identity = parse_index(index).map_or(String::new(), |tables| identity("sha256:00", &tables));
        let mut manifest = serde_json::json!({
            "formatVersion": 1, "imageId": identity, "manifestDigest": "sha256:00",
            "index": { "offset": 4096, "length": stored.len(), "rawLength": index.len(), "sha256": hex(&Sha256::digest(index)) },
            "metadata": { "offset": 4096 + stored.len(), "length": 4196 },
        });
        change(&mut manifest);
        let json = manifest.to_string();
        let mut bytes = b"PLIMAGE\0".to_vec();
        bytes.extend([IMAGE_VERSION, json.len() as u32].map(u32::to_le_bytes).concat());
        bytes.extend(Sha256::digest(&json));
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(json.bytes());
        bytes.resize(4096, b' ');
        bytes.extend(stored);
        bytes.resize(bytes.len() + 4196, 0);
        bytes
    }

    fn assert_sound(tables: &Tables) {
        for blob in &tables.blobs {
            let mut end = 0;
            for chunk in &blob.chunks {
                assert_eq!(chunk.offset, end);
                end = chunk.end();
                assert!(chunk.raw_length > 0 && chunk.raw_length <= CHUNK_BYTES_MAX && end % PAGE == 0);
                if chunk.encoding != Encoding::Zeros {
                    let size = tables.packs[chunk.pack as usize].1;
                    assert!(chunk.pack_offset + u64::from(chunk.wire_length) <= size);
                }
            }
        }
    }

    #[test]
    fn an_image_is_read() {
        let image = ImageFile::parse(&image_with(&valid_index(), |_| {})).unwrap();
        assert_eq!((image.metadata.len(), image.data.len(), image.data_size), (2, 3, 28672));
        assert_eq!((image.chunk_at(4096), image.chunk_at(28671), image.chunk_at(28672)), (Some(1), Some(2), None));
    }

    #[test]
    fn a_damaged_index_is_refused_or_sound() {
        fuzz::with_damage(
            20_000,
            &valid_index(),
            |_| {},
            |bytes| {
                if let Ok(tables) = parse_index(bytes) {
                    assert_sound(&tables);
                }
            },
        );
    }

    #[test]
    fn a_damaged_image_is_refused_or_read_with_all_checks() {
        fuzz::with_damage(
            1_000,
            &image_with(&valid_index(), |_| {}),
            |_| {},
            |bytes| {
                if let Ok(image) = ImageFile::parse(bytes) {
                    assert_eq!(image.data_size, 28672);
                    assert!(image.metadata_image(bytes).is_err());
                }
            },
        );
    }

    #[test]
    fn places_beyond_all_bounds_are_refused() {
        for place in ["index", "metadata"] {
            for field in ["offset", "length", "rawLength"] {
                for value in [u64::MAX, u64::MAX - 4096, 1 << 62, 1 << 32, (256 << 20) + 1] {
                    let bytes = image_with(&valid_index(), |manifest| manifest[place][field] = value.into());
                    let is_read = ImageFile::parse(&bytes).is_ok();
                    assert_eq!(is_read, place == "metadata" && field == "rawLength", "{place}.{field} = {value}");
                }
            }
        }
    }
}
