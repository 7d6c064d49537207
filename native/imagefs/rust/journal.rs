//! Which events are being worked on, in memory that outlives the handler: the keeper holds the descriptor, each handler
//! maps it. One slot for each descriptor number, since the kernel knows a pending event by that number.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 65_536;
/// used, device, inode, offset, count
const WORDS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub id: (u64, u64),
    pub offset: u64,
    pub count: u64,
}

pub struct Journal {
    map: memmap2::MmapRaw,
}

impl Journal {
    /// Maps the journal behind `fd`, growing a new one to its size.
    pub fn open(fd: RawFd) -> io::Result<Journal> {
        let bytes = SLOTS * WORDS * 8;
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
        // Mapped for as long as self lives; SLOTS * WORDS words long.
        let words = unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), SLOTS * WORDS) };
        Some(&words[index * WORDS..(index + 1) * WORDS])
    }

    pub fn put(&self, number: RawFd, entry: Entry) {
        let Some(slot) = self.slot(number) else { return };
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
