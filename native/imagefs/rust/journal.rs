//! Which events are being worked on, in memory that outlives the handler: the keeper holds the descriptor, each handler
//! maps it. One slot for each descriptor number, since the kernel knows a pending event by that number.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 65_536;
/// used, device, inode, offset, count
const WORDS: usize = 5;
/// FUSE requests: more than the kernel keeps in the air for one connection.
const FUSE_SLOTS: usize = 4_096;
/// unique (0: free), node, offset, size
const FUSE_WORDS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub id: (u64, u64),
    pub offset: u64,
    pub count: u64,
}

/// A read request of FUSE; `unique` is the kernel's number for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FuseEntry {
    pub unique: u64,
    pub node: u64,
    pub offset: u64,
    pub size: u64,
}

pub struct Journal {
    map: memmap2::MmapRaw,
}

impl Journal {
    /// Maps the journal behind `fd`, growing a new one to its size.
    pub fn open(fd: RawFd) -> io::Result<Journal> {
        let bytes = (SLOTS * WORDS + FUSE_SLOTS * FUSE_WORDS) * 8;
        if unsafe { libc::ftruncate(fd, bytes as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Journal { map: memmap2::MmapOptions::new().len(bytes).map_raw(fd)? })
    }

    pub fn len(&self) -> usize {
        SLOTS
    }

    fn slot(&self, number: RawFd) -> Option<&[AtomicU64]> {
        let index = usize::try_from(number).ok().filter(|i| *i < SLOTS)?;
        Some(&self.words()[index * WORDS..(index + 1) * WORDS])
    }

    fn words(&self) -> &[AtomicU64] {
        // Mapped for as long as self lives, at this length.
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), SLOTS * WORDS + FUSE_SLOTS * FUSE_WORDS)
        }
    }

    fn fuse_slots(&self) -> std::slice::ChunksExact<'_, AtomicU64> {
        self.words()[SLOTS * WORDS..].chunks_exact(FUSE_WORDS)
    }

    pub fn put_fuse(&self, entry: FuseEntry) {
        // The slot is chosen by the number, so that it is found again without a search in nearly every case.
        let start = (entry.unique / 2) as usize % FUSE_SLOTS;
        for slot in self.fuse_slots().cycle().skip(start).take(FUSE_SLOTS) {
            if slot[0].compare_exchange(0, entry.unique, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                for (word, value) in slot[1..].iter().zip([entry.node, entry.offset, entry.size]) {
                    word.store(value, Ordering::Release);
                }
                return;
            }
        }
    }

    pub fn clear_fuse(&self, unique: u64) {
        let start = (unique / 2) as usize % FUSE_SLOTS;
        for slot in self.fuse_slots().cycle().skip(start).take(FUSE_SLOTS) {
            if slot[0].compare_exchange(unique, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Takes out what a killed handler left.
    pub fn drain_fuse(&self) -> Vec<FuseEntry> {
        let mut left = Vec::new();
        for slot in self.fuse_slots() {
            let word = |i: usize| slot[i].load(Ordering::Acquire);
            if word(0) != 0 {
                left.push(FuseEntry { unique: word(0), node: word(1), offset: word(2), size: word(3) });
                slot[0].store(0, Ordering::Release);
            }
        }
        left
    }

    pub fn put(&self, number: RawFd, entry: Entry) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        for (word, value) in slot[1..].iter().zip([entry.id.0, entry.id.1, entry.offset, entry.count]) {
            word.store(value, Ordering::Relaxed);
        }
        slot[0].store(1, Ordering::Release);
    }

    pub fn clear(&self, number: RawFd) {
        if let Some(slot) = self.slot(number) {
            slot[0].store(0, Ordering::Release);
        }
    }

    pub fn get(&self, number: RawFd) -> Option<Entry> {
        let slot = self.slot(number)?;
        if slot[0].load(Ordering::Acquire) == 0 {
            return None;
        }
        let word = |i: usize| slot[i].load(Ordering::Relaxed);
        Some(Entry { id: (word(1), word(2)), offset: word(3), count: word(4) })
    }
}
