//! Which 4 KiB pages of a blob are there. The bits live in a mapped file beside the blob, so that a handler that was
//! killed finds them again. A bit is set only after its page was written: a set bit never lies within one boot; across
//! boots the cache decides (see cache.rs).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::image::PAGE;

pub struct Presence {
    map: memmap2::MmapMut,
    pages: u64,
}

impl Presence {
    pub fn open(path: &Path, blob_size: u64) -> io::Result<Presence> {
        let pages = blob_size.div_ceil(PAGE);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(pages.div_ceil(64).max(1) * 8)?;
        // Shared only with ourselves, before and after a restart.
        let map = unsafe { memmap2::MmapMut::map_mut(&file)? };
        Ok(Presence { map, pages })
    }

    fn words(&self) -> &[AtomicU64] {
        // The mapping is page aligned and a multiple of 8 bytes long.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / 8) }
    }

    /// Whether all of `[offset, offset + length)` is there. Bytes beyond the blob's end count as present.
    pub fn has_range(&self, offset: u64, length: u64) -> bool {
        self.first_missing(offset, length).is_none()
    }

    pub fn has_pages(&self, first: u64, pages: u64) -> bool {
        self.has_range(first * PAGE, pages * PAGE)
    }

    /// The first missing page of the range.
    pub fn first_missing(&self, offset: u64, length: u64) -> Option<u64> {
        let end = offset.saturating_add(length).div_ceil(PAGE).min(self.pages);
        let mut page = offset / PAGE;
        while page < end {
            let word = self.words()[(page / 64) as usize].load(Ordering::Acquire);
            let missing = !word >> (page % 64);
            if missing == 0 {
                page = (page / 64 + 1) * 64;
                continue;
            }
            page += u64::from(missing.trailing_zeros());
            return (page < end).then_some(page);
        }
        None
    }

    /// Marks pages as there; to be called after their bytes were written.
    pub fn set_range(&self, offset: u64, length: u64) {
        let words = self.words();
        for page in offset / PAGE..(offset + length).div_ceil(PAGE).min(self.pages) {
            words[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::Release);
        }
    }

    pub fn present_pages(&self) -> u64 {
        self.words().iter().map(|w| u64::from(w.load(Ordering::Relaxed).count_ones())).sum()
    }

    pub fn is_complete(&self) -> bool {
        self.present_pages() >= self.pages
    }

    /// To disk, for a clean end. The blob must be synced before.
    pub fn sync(&self) -> io::Result<()> {
        self.map.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_across_words() {
        let path = std::env::temp_dir().join(format!("presence-{}", std::process::id()));
        let presence = Presence::open(&path, 200 * PAGE + 1).unwrap();
        assert_eq!(presence.first_missing(0, 201 * PAGE), Some(0));
        presence.set_range(0, 130 * PAGE);
        assert!(presence.has_range(0, 130 * PAGE));
        assert_eq!(presence.first_missing(5 * PAGE, 190 * PAGE), Some(130));
        assert!(!presence.has_range(129 * PAGE, PAGE + 1));
        presence.set_range(130 * PAGE, 71 * PAGE);
        assert!(presence.is_complete());
        assert!(presence.has_range(0, u64::MAX));
        std::fs::remove_file(path).unwrap();
    }
}
