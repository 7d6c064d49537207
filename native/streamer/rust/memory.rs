//! A shared mapping of a file in memory, whose pages are made when a place in it is asked for. A page that is there takes
//! received bytes in one copy. Worth it where pages are huge (2 MiB): small ones cost more to make than the copy that they save.

use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

/// What madvise's addresses are multiples of, on machines of any page size.
const PAGE_BYTES: usize = 64 * 1024;

pub struct Memory {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to no thread; who writes where is settled by `slice`'s contract.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `bytes` of a file, which has that length at least.
    pub fn map(file: RawFd, bytes: usize) -> io::Result<Memory> {
        // SAFETY: a new mapping; the file's pages live as long as it, whatever happens to the descriptor.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Memory { start, bytes })
    }

    /// A place for received bytes, with its pages; `None` where they cannot be made (a full file system, an old kernel).
    ///
    /// # Safety
    /// The file still reaches to the end of the place, and nobody else has this place while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, offset: u64, length: u64) -> Option<&mut [u8]> {
        let begin = usize::try_from(offset).ok()?;
        let length = usize::try_from(length).ok()?;
        let end = begin.checked_add(length).filter(|end| *end <= self.bytes)?;
        let page = begin - begin % PAGE_BYTES;
        // SAFETY: inside the mapping. Pages beyond the file's end are an error here, not a signal.
        let outcome = unsafe {
            libc::madvise(
                self.start.as_ptr().add(page).cast(),
                end - page,
                libc::MADV_POPULATE_WRITE,
            )
        };
        if outcome != 0 {
            return None;
        }
        // SAFETY: inside the mapping and its pages are there; exclusive by the caller's promise.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(begin), length) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this mapping, once.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A file in memory without a name, for tests.
#[cfg(test)]
pub fn nameless_file(bytes: u64) -> std::fs::File {
    use std::fs::File;
    use std::os::fd::FromRawFd;
    // SAFETY: a new descriptor, owned by the File.
    let file = unsafe {
        let descriptor = libc::memfd_create(c"memory".as_ptr(), libc::MFD_CLOEXEC);
        assert!(descriptor >= 0);
        File::from_raw_fd(descriptor)
    };
    file.set_len(bytes).unwrap();
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    const BYTES: usize = 1_000_000;

    #[test]
    fn places_reach_the_file_and_end_where_it_was_mapped_to() {
        let file = nameless_file(BYTES as u64);
        let memory = Memory::map(file.as_raw_fd(), BYTES).unwrap();
        // SAFETY: one place at a time.
        let place = unsafe { memory.slice(BYTES as u64 - 4, 4) }.unwrap();
        place.copy_from_slice(b"tail");
        let mut read = [0; 4];
        file.read_exact_at(&mut read, BYTES as u64 - 4).unwrap();
        assert_eq!(&read, b"tail");
        assert!(unsafe { memory.slice(BYTES as u64 - 4, 5) }.is_none());
        assert!(unsafe { memory.slice(u64::MAX, 2) }.is_none());
    }

    #[test]
    fn a_file_that_became_shorter_has_no_place_rather_than_a_signal() {
        let file = nameless_file(BYTES as u64);
        let memory = Memory::map(file.as_raw_fd(), BYTES).unwrap();
        file.set_len(BYTES as u64 / 2).unwrap();
        assert!(unsafe { memory.slice(BYTES as u64 - 4, 4) }.is_none());
    }
}
