//! An image's EROFS metadata seen through its hot pack: pages that the pack brings are named on devices of their own, so that
//! the kernel stops asking for them as soon as their part of the pack has come. The devices are the data blob again, opened
//! through other mounts (view.rs): block numbers stay what they are.
//!   V1. Nothing that a program sees changes but inode numbers: names, attributes and content are those of the metadata.
//!   V2. Metadata that are not as our writer makes them (docs/image-format.md) are refused, never misread.
//! Format: Linux Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::image::PAGE;

const BLOCK: usize = PAGE as usize;
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: u8 = 12;
const COMPAT_CHECKSUM: u32 = 1;
/// chunked_file and device_table.
const FEATURES: u32 = 0x4 | 0x8;
const SLOT_INDEX: usize = 9;
const SLOT_BYTES: usize = 128;
const SLOT_BLOCKS: usize = 64;
const INODE_BYTES: usize = 64;
const INODE_SLOT_BYTES: usize = 32;
const DIRENT_BYTES: usize = 12;
const CHUNK_INDEX_BYTES: usize = 8;
const CHUNK_BITS: u32 = 0x1f;
const CHUNK_INDEXES: u32 = 0x20;
const DATA_DEVICE: u16 = 1;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;
const CHUNK_BASED: u16 = 4;
const KIND: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
/// Device slots that fit behind the superblock, less that of the data blob.
pub const DEVICES_MAX: usize = (BLOCK - SLOT_INDEX * SLOT_BYTES) / SLOT_BYTES - 1;
/// Bound of the chunk indexes that are added; files that do not fit stay as they are.
const ADDED_BYTES_MAX: usize = 64 << 20;

/// Pages of the data blob, and which of the hot devices (0 and up) names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    pub first: u64,
    pub pages: u64,
    pub device: u16,
}

/// A file that has hot pages: its place in the tree, and its content's in the data blob.
#[derive(Debug, PartialEq)]
pub struct HotFile {
    pub path: PathBuf,
    pub first_page: u64,
    pub bytes: u64,
}

pub struct HotView {
    pub metadata: Vec<u8>,
    pub files: Vec<HotFile>,
}

type Result<T> = std::result::Result<T, String>;

/// `regions` are sorted and do not overlap; device n of theirs becomes device n + 2 of the metadata.
pub fn hot_view(metadata: &[u8], regions: &[Region]) -> Result<HotView> {
    let devices = regions.iter().map(|region| usize::from(region.device) + 1).max().unwrap_or(0);
    if devices > DEVICES_MAX {
        return Err(format!("{devices} devices are more than the {DEVICES_MAX} that there is room for"));
    }
    let root = check_superblock(metadata)?;
    let mut out = Writer { metadata, bytes: metadata.to_vec(), moved: HashMap::new(), files: Vec::new(), regions };
    let mut seen = HashSet::from([root]);
    let mut stack = vec![(root, PathBuf::new())];
    while let Some((nid, path)) = stack.pop() {
        for entry in entries(metadata, nid)? {
            match u16_at(metadata, place(metadata, entry.nid)? + 4)? & KIND {
                DIRECTORY if !seen.insert(entry.nid) => return Err("a directory has two names".into()),
                DIRECTORY => stack.push((entry.nid, path.join(OsStr::from_bytes(entry.name)))),
                REGULAR => out.name(&entry, &path)?,
                _ => {}
            }
        }
    }
    out.finish(devices)
}

struct Writer<'a> {
    metadata: &'a [u8],
    bytes: Vec<u8>,
    /// Inodes with content that were looked at: where they are now.
    moved: HashMap<u64, u64>,
    files: Vec<HotFile>,
    regions: &'a [Region],
}

impl Writer<'_> {
    /// Makes a name lead to the inode's new place, if it has one.
    fn name(&mut self, entry: &Entry, directory: &Path) -> Result<()> {
        let now = match self.moved.get(&entry.nid) {
            Some(now) => *now,
            None => {
                let now = self.file(entry, directory)?;
                self.moved.insert(entry.nid, now);
                now
            }
        };
        if now != entry.nid {
            self.bytes[entry.at..entry.at + 8].copy_from_slice(&now.to_le_bytes());
        }
        Ok(())
    }

    /// Where the inode is from now on: at its place, or behind the others.
    fn file(&mut self, Entry { nid, name, .. }: &Entry, directory: &Path) -> Result<u64> {
        let nid = *nid;
        let inode = Inode::read(self.metadata, nid)?;
        if inode.layout != CHUNK_BASED || inode.size == 0 {
            return Ok(nid);
        }
        let index = inode.tail.next_multiple_of(CHUNK_INDEX_BYTES);
        if inode.union & CHUNK_INDEXES == 0
            || PAGE.checked_shl(inode.union & CHUNK_BITS).is_none_or(|chunk| chunk < inode.size)
            || u16_at(self.metadata, index + 2)? != DATA_DEVICE
        {
            return Err("a file is not one run of the data blob".into());
        }
        let first = u64::from(u32_at(self.metadata, index + 4)?);
        let pages = inode.size.div_ceil(PAGE);
        let pieces = pieces(self.regions, first, pages);
        let now = match pieces.as_slice() {
            [(_, DATA_DEVICE)] => None,
            [(_, device)] => {
                self.bytes[index + 2..index + 4].copy_from_slice(&device.to_le_bytes());
                Some(nid)
            }
            _ => self.move_file(&inode, first, pages, &pieces),
        };
        if now.is_some() {
            let path = directory.join(OsStr::from_bytes(name));
            self.files.push(HotFile { path, first_page: first, bytes: inode.size });
        }
        Ok(now.unwrap_or(nid))
    }

    /// Appends the inode with as many chunk indexes as its pieces need. None when there is no room for them.
    fn move_file(&mut self, inode: &Inode, first: u64, pages: u64, pieces: &[(u64, u16)]) -> Option<u64> {
        // The largest chunk whose multiples all borders are.
        let bits = pieces.iter().filter(|(start, _)| *start > 0).map(|(start, _)| start.trailing_zeros()).min()?;
        let indexes = pages.div_ceil(1 << bits);
        let head = (inode.tail - inode.at).next_multiple_of(CHUNK_INDEX_BYTES);
        let added = self.bytes.len() - self.metadata.len();
        if added + head + indexes as usize * CHUNK_INDEX_BYTES > ADDED_BYTES_MAX {
            return None;
        }
        // At a multiple of its own size no inode crosses a block.
        let at = self.bytes.len().next_multiple_of(INODE_BYTES);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(&self.metadata[inode.at..inode.tail]);
        self.bytes[at + 16..at + 20].copy_from_slice(&(CHUNK_INDEXES | bits).to_le_bytes());
        self.bytes.resize(at + head, 0);
        let table = self.bytes.len();
        self.bytes.resize(table + indexes as usize * CHUNK_INDEX_BYTES, 0);
        let mut records = self.bytes[table..].chunks_exact_mut(CHUNK_INDEX_BYTES);
        for (i, (start, device)) in pieces.iter().enumerate() {
            let end = pieces.get(i + 1).map_or(pages, |(next, _)| *next);
            // Two bytes of nothing, the device, the block: as one number.
            let device = u64::from(*device) << 16;
            for (page, record) in (*start..end).step_by(1 << bits).zip(&mut records) {
                record.copy_from_slice(&(device | (first + page) << 32).to_le_bytes());
            }
        }
        Some((at / INODE_SLOT_BYTES) as u64)
    }

    fn finish(mut self, devices: usize) -> Result<HotView> {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        let blocks = (self.bytes.len() / BLOCK) as u32;
        let compatible = u32_at(&self.bytes, SUPERBLOCK + 8)? & !COMPAT_CHECKSUM;
        let data_blocks = u32_at(&self.bytes, SLOT_INDEX * SLOT_BYTES + SLOT_BLOCKS)?;
        let mut put = |at: usize, value: &[u8]| self.bytes[at..at + value.len()].copy_from_slice(value);
        // Made here and now, of verified metadata: nothing to check.
        put(SUPERBLOCK + 4, &0u32.to_le_bytes());
        put(SUPERBLOCK + 8, &compatible.to_le_bytes());
        put(SUPERBLOCK + 36, &blocks.to_le_bytes());
        put(SUPERBLOCK + 86, &(1 + devices as u16).to_le_bytes());
        for device in 1..=devices {
            put((SLOT_INDEX + device) * SLOT_BYTES + SLOT_BLOCKS, &data_blocks.to_le_bytes());
        }
        Ok(HotView { metadata: self.bytes, files: self.files })
    }
}

/// Cuts a file's pages where the device changes: where each piece begins in the file, and its device in the metadata.
fn pieces(regions: &[Region], first: u64, pages: u64) -> Vec<(u64, u16)> {
    let end = first + pages;
    let mut pieces: Vec<(u64, u16)> = Vec::new();
    let mut put = |start: u64, device: u16| {
        if pieces.last().is_none_or(|(_, last)| *last != device) {
            pieces.push((start - first, device));
        }
    };
    let mut page = first;
    let from = regions.partition_point(|region| region.first + region.pages <= first);
    for region in regions[from..].iter().take_while(|region| region.first < end) {
        if region.first > page {
            put(page, DATA_DEVICE);
        }
        put(region.first.max(page), region.device + DATA_DEVICE + 1);
        page = region.first + region.pages;
    }
    if page < end {
        put(page, DATA_DEVICE);
    }
    pieces
}

fn check_superblock(metadata: &[u8]) -> Result<u64> {
    let known = metadata.len() >= BLOCK
        && metadata.len().is_multiple_of(BLOCK)
        && u32_at(metadata, SUPERBLOCK)? == MAGIC
        && metadata[SUPERBLOCK + 12] == BLOCK_BITS
        && u32_at(metadata, SUPERBLOCK + 80)? == FEATURES
        && u16_at(metadata, SUPERBLOCK + 86)? == 1
        && usize::from(u16_at(metadata, SUPERBLOCK + 88)?) == SLOT_INDEX
        // Inodes are counted from the beginning.
        && u32_at(metadata, SUPERBLOCK + 40)? == 0;
    if !known {
        return Err("not metadata as our writer makes them".into());
    }
    Ok(u64::from(u16_at(metadata, SUPERBLOCK + 14)?))
}

struct Inode {
    at: usize,
    layout: u16,
    size: u64,
    union: u32,
    /// Where its attributes end.
    tail: usize,
}

impl Inode {
    fn read(metadata: &[u8], nid: u64) -> Result<Inode> {
        let at = place(metadata, nid)?;
        let format = u16_at(metadata, at)?;
        if format & 1 == 0 {
            return Err("an inode is compact".into());
        }
        let attributes = match u16_at(metadata, at + 2)? {
            0 => 0,
            count => 12 + (usize::from(count) - 1) * 4,
        };
        let tail = at + INODE_BYTES + attributes;
        part(metadata, at, tail - at)?;
        Ok(Inode {
            at,
            layout: (format >> 1) & 7,
            size: u64_at(metadata, at + 8)?,
            union: u32_at(metadata, at + 16)?,
            tail,
        })
    }
}

struct Entry<'a> {
    /// Where the inode's number stands.
    at: usize,
    nid: u64,
    name: &'a [u8],
}

fn entries(metadata: &[u8], nid: u64) -> Result<Vec<Entry<'_>>> {
    let inode = Inode::read(metadata, nid)?;
    let size = usize::try_from(inode.size).map_err(|e| e.to_string())?;
    let inline = match inode.layout {
        FLAT_INLINE => size % BLOCK,
        FLAT_PLAIN => 0,
        _ => return Err("a directory is laid out as a file".into()),
    };
    let start = inode.union as usize * BLOCK;
    let whole = part(metadata, start, size - inline).map(|_| (start..start + size - inline).step_by(BLOCK))?;
    let blocks = whole.map(|at| (at, BLOCK.min(start + size - inline - at)));
    let mut found = Vec::new();
    for (start, length) in blocks.chain((inline > 0).then_some((inode.tail, inline))) {
        let block = part(metadata, start, length)?;
        let count = usize::from(u16_at(block, 8)?) / DIRENT_BYTES;
        for i in 0..count {
            let at = i * DIRENT_BYTES;
            let from = usize::from(u16_at(block, at + 8)?);
            let to = if i + 1 < count { usize::from(u16_at(block, at + DIRENT_BYTES + 8)?) } else { length };
            let name = block.get(from..to).ok_or("a name lies outside its block")?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if name == b"." || name == b".." {
                continue;
            }
            if name.is_empty() || name.contains(&b'/') {
                return Err("a name is no name".into());
            }
            found.push(Entry { at: start + at, nid: u64_at(block, at)?, name });
        }
    }
    Ok(found)
}

/// Where an inode lies.
fn place(metadata: &[u8], nid: u64) -> Result<usize> {
    let at = usize::try_from(nid).ok().and_then(|nid| nid.checked_mul(INODE_SLOT_BYTES));
    at.filter(|at| at.checked_add(INODE_BYTES).is_some_and(|end| end <= metadata.len()))
        .ok_or("an inode lies outside".into())
}

fn part(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    at.checked_add(length).and_then(|end| bytes.get(at..end)).ok_or("it is shorter than it says".into())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    part(bytes, at, 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    part(bytes, at, 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    part(bytes, at, 8).map(|b| u64::from_le_bytes(b.try_into().unwrap()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;

    fn region(first: u64, pages: u64, device: u16) -> Region {
        Region { first, pages, device }
    }

    const ROOT: usize = BLOCK;
    const FILE: usize = ROOT + 256;
    const FILE_PAGES: u64 = 20;
    const FILE_AT: u64 = 100;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    /// A directory with two names of one file of 20 pages, at page 100 of the data blob.
    fn metadata() -> Vec<u8> {
        let mut bytes = vec![0; 2 * BLOCK];
        put(&mut bytes, SUPERBLOCK, &MAGIC.to_le_bytes());
        put(&mut bytes, SUPERBLOCK + 8, &COMPAT_CHECKSUM.to_le_bytes());
        bytes[SUPERBLOCK + 12] = BLOCK_BITS;
        put(&mut bytes, SUPERBLOCK + 14, &((ROOT / INODE_SLOT_BYTES) as u16).to_le_bytes());
        put(&mut bytes, SUPERBLOCK + 80, &FEATURES.to_le_bytes());
        put(&mut bytes, SUPERBLOCK + 86, &1u16.to_le_bytes());
        put(&mut bytes, SUPERBLOCK + 88, &(SLOT_INDEX as u16).to_le_bytes());
        put(&mut bytes, SLOT_INDEX * SLOT_BYTES + SLOT_BLOCKS, &1000u32.to_le_bytes());
        let names: [(&[u8], usize); 4] = [(b".", ROOT), (b"..", ROOT), (b"a", FILE), (b"bee", FILE)];
        let mut directory = Vec::new();
        let mut name_at = names.len() * DIRENT_BYTES;
        for (name, inode) in names {
            directory.extend(((inode / INODE_SLOT_BYTES) as u64).to_le_bytes());
            directory.extend((name_at as u16).to_le_bytes());
            directory.extend([0, 0]);
            name_at += name.len();
        }
        names.iter().for_each(|(name, _)| directory.extend(*name));
        for (at, layout, kind, size) in [
            (ROOT, FLAT_INLINE, DIRECTORY, directory.len() as u64),
            (FILE, CHUNK_BASED, REGULAR, FILE_PAGES * PAGE - 5),
        ] {
            put(&mut bytes, at, &(1 | layout << 1).to_le_bytes());
            put(&mut bytes, at + 4, &kind.to_le_bytes());
            put(&mut bytes, at + 8, &size.to_le_bytes());
        }
        put(&mut bytes, ROOT + INODE_BYTES, &directory);
        put(&mut bytes, FILE + 16, &(CHUNK_INDEXES | 5).to_le_bytes());
        put(&mut bytes, FILE + INODE_BYTES + 2, &DATA_DEVICE.to_le_bytes());
        put(&mut bytes, FILE + INODE_BYTES + 4, &(FILE_AT as u32).to_le_bytes());
        bytes
    }

    /// Device and block of each page of the file that a name leads to.
    fn pages_of(metadata: &[u8], name: &[u8]) -> Vec<(u16, u64)> {
        let root = u64::from(u16_at(metadata, SUPERBLOCK + 14).unwrap());
        let entry = entries(metadata, root).unwrap().into_iter().find(|entry| entry.name == name).unwrap();
        let inode = Inode::read(metadata, entry.nid).unwrap();
        let bits = inode.union & CHUNK_BITS;
        let page = |page: u64| {
            let at = inode.tail.next_multiple_of(CHUNK_INDEX_BYTES) + (page >> bits) as usize * CHUNK_INDEX_BYTES;
            let block = u64::from(u32_at(metadata, at + 4).unwrap()) + page % (1 << bits);
            (u16_at(metadata, at + 2).unwrap(), block)
        };
        (0..inode.size.div_ceil(PAGE)).map(page).collect()
    }

    #[test]
    fn hot_pages_are_named_on_their_devices_under_every_name() {
        let regions = [region(90, 16, 0), region(106, 2, 1), region(116, 30, 0)];
        let seen = hot_view(&metadata(), &regions).unwrap();
        let expected: Vec<(u16, u64)> = (FILE_AT..FILE_AT + FILE_PAGES)
            .map(|page| match page {
                100..106 | 116.. => (2, page),
                106..108 => (3, page),
                _ => (1, page),
            })
            .collect();
        assert_eq!(pages_of(&seen.metadata, b"a"), expected);
        assert_eq!(pages_of(&seen.metadata, b"bee"), expected);
        let file = HotFile { path: "a".into(), first_page: FILE_AT, bytes: FILE_PAGES * PAGE - 5 };
        assert_eq!(seen.files, [file]);
        assert_eq!(u16_at(&seen.metadata, SUPERBLOCK + 86), Ok(3));
        for device in 1..=3 {
            let slot = (SLOT_INDEX + device - 1) * SLOT_BYTES;
            assert_eq!(u32_at(&seen.metadata, slot + SLOT_BLOCKS), Ok(1000));
        }
    }

    #[test]
    fn a_file_of_one_device_stays_where_it_is() {
        let plain = metadata();
        for (regions, device) in [(vec![region(0, 500, 0)], 2), (vec![region(0, 50, 0)], 1)] {
            let seen = hot_view(&plain, &regions).unwrap();
            assert_eq!(seen.metadata.len(), plain.len());
            assert!(pages_of(&seen.metadata, b"a").iter().all(|(named, _)| *named == device));
            assert_eq!(seen.files.len(), usize::from(device == 2));
        }
    }

    #[test]
    fn damaged_metadata_are_refused_or_read() {
        fuzz::with_damage(20_000, &metadata(), |_| {}, |bytes| drop(hot_view(bytes, &[region(104, 8, 0)])));
        assert!(hot_view(&metadata(), &[region(0, 1, DEVICES_MAX as u16)]).is_err());
    }

    #[test]
    fn a_file_is_cut_where_its_device_changes() {
        let regions = [region(4, 4, 0), region(8, 2, 1), region(20, 10, 0)];
        assert_eq!(pieces(&regions, 0, 4), [(0, 1)]);
        assert_eq!(pieces(&regions, 4, 3), [(0, 2)]);
        assert_eq!(pieces(&regions, 2, 10), [(0, 1), (2, 2), (6, 3), (8, 1)]);
        assert_eq!(pieces(&regions, 22, 4), [(0, 2)]);
        assert_eq!(pieces(&regions, 25, 10), [(0, 2), (5, 1)]);
    }
}
