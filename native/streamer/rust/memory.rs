//! A shared mapping of a file in memory, and its pages made ready ahead of need. A page that is there already takes received
//! bytes in one copy; one that is not is made when its place is asked for, in the middle of a load, which costs its allocation,
//! on a virtual machine perhaps its host's too.

use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Made ready at once: stopping takes no longer than this.
const STEP_BYTES: usize = 32 << 20;
/// Of the threads that make pages ready: whoever serves goes first.
const NICE: libc::c_int = 19;
/// More bring nothing: by then memory itself is the limit.
const THREADS_MAX: usize = 8;
/// What madvise's addresses are multiples of, on machines of any page size.
const PAGE_BYTES: usize = 64 * 1024;

pub struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    /// So many bytes from the beginning have their pages.
    ready: AtomicUsize,
    /// The next step that a thread takes, and which steps beyond `ready` are done.
    next: AtomicUsize,
    done: Mutex<Vec<bool>>,
    stopped: AtomicBool,
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
        Ok(Memory {
            start,
            bytes,
            ready: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            done: Mutex::new(vec![false; bytes.div_ceil(STEP_BYTES)]),
            stopped: AtomicBool::new(false),
        })
    }

    /// Makes pages ready, front to back and on every core, until all are or it is stopped. An error (a full file system, an old
    /// kernel) leaves what was made ready before.
    ///
    /// A node that just booted may have to get its memory from its host, which takes a core more than a second for each GB.
    pub fn populate(&self) -> io::Result<()> {
        let threads =
            thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX));
        thread::scope(|scope| {
            let work = || scope.spawn(|| self.populate_steps());
            let running: Vec<_> = (0..threads).map(|_| work()).collect();
            let mut outcomes = running.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("making memory ready panicked")))
            });
            outcomes.try_fold((), |(), one| one)
        })
    }

    fn populate_steps(&self) -> io::Result<()> {
        // SAFETY: changes the calling thread's own priority. Refusal only means that it does not stand back.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
        while !self.stopped.load(Ordering::Acquire) {
            let step = self.next.fetch_add(1, Ordering::Relaxed);
            let begin = step.saturating_mul(STEP_BYTES);
            if begin >= self.bytes {
                break;
            }
            let end = self.bytes.min(begin + STEP_BYTES);
            self.make_pages(begin, end).inspect_err(|_| self.stop())?;
            self.finish(step);
        }
        Ok(())
    }

    /// What is ready reaches as far as every step before is done.
    fn finish(&self, step: usize) {
        let mut done = self.done.lock().expect("no panic while locked");
        done[step] = true;
        let mut steps = self.ready() / STEP_BYTES;
        while done.get(steps).is_some_and(|done| *done) {
            steps += 1;
        }
        self.ready
            .store(self.bytes.min(steps * STEP_BYTES), Ordering::Release);
    }

    /// Both ends inside the mapping.
    fn make_pages(&self, begin: usize, end: usize) -> io::Result<()> {
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
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Ends `populate` soon. What is ready stays so.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub fn ready(&self) -> usize {
        self.ready.load(Ordering::Acquire)
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
        if end > self.ready() {
            self.make_pages(begin, end).ok()?;
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

    const BYTES: usize = STEP_BYTES + 12_345;

    #[test]
    fn places_reach_the_file_whether_their_pages_were_made_ready_or_not() {
        let file = nameless_file(BYTES as u64);
        let memory = Memory::map(file.as_raw_fd(), BYTES).unwrap();
        // SAFETY: one place at a time.
        unsafe { memory.slice(7, 4) }
            .unwrap()
            .copy_from_slice(b"head");
        assert_eq!(memory.ready(), 0);
        memory.populate().unwrap();
        assert_eq!(memory.ready(), BYTES);
        let mut head = [0; 4];
        file.read_exact_at(&mut head, 7).unwrap();
        assert_eq!(&head, b"head");
        let place = unsafe { memory.slice(BYTES as u64 - 4, 4) }.unwrap();
        place.copy_from_slice(b"tail");
        let mut read = [0; 4];
        file.read_exact_at(&mut read, BYTES as u64 - 4).unwrap();
        assert_eq!(&read, b"tail");
        assert!(unsafe { memory.slice(BYTES as u64 - 4, 5) }.is_none());
        assert!(unsafe { memory.slice(u64::MAX, 2) }.is_none());
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error_not_a_signal() {
        let file = nameless_file(STEP_BYTES as u64);
        let memory = Memory::map(file.as_raw_fd(), 2 * STEP_BYTES).unwrap();
        assert!(memory.populate().is_err());
        assert_eq!(memory.ready(), STEP_BYTES);
    }

    #[test]
    fn a_file_that_became_shorter_has_no_place_rather_than_a_signal() {
        let file = nameless_file(BYTES as u64);
        let memory = Memory::map(file.as_raw_fd(), BYTES).unwrap();
        file.set_len(BYTES as u64 / 2).unwrap();
        assert!(unsafe { memory.slice(BYTES as u64 - 4, 4) }.is_none());
    }

    #[test]
    fn stopped_before_it_began_it_makes_nothing_ready() {
        let file = nameless_file(BYTES as u64);
        let memory = Memory::map(file.as_raw_fd(), BYTES).unwrap();
        memory.stop();
        memory.populate().unwrap();
        assert_eq!(memory.ready(), 0);
    }
}
