//! One image's data blob on this node: the sparse file that EROFS reads, what of it is there, where the rest comes from,
//! and what was touched in which order.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use crate::hot::Hot;
use crate::image::{ImageFile, PAGE};
use crate::presence::Presence;
use crate::source::Source;
use crate::sys;
use crate::view::View;

/// Runs of the first touch, in order; what a profile is made of. Bounded: a start touches thousands of runs, not millions.
const TOUCHES_MAX: usize = 200_000;

pub struct Blob {
    /// The image's key: the hex part of its manifest digest.
    pub key: String,
    pub directory: PathBuf,
    pub image: ImageFile,
    pub file: File,
    /// Of a seed on a read-only file system: complete, and not this cache's to remove.
    pub read_only: bool,
    /// Device and inode of `file`: how events find the blob.
    pub id: (u64, u64),
    pub presence: Presence,
    source: RwLock<Arc<Source>>,
    /// From the bucket, compressed.
    pub fetched_bytes: AtomicU64,
    /// From other nodes, uncompressed.
    pub peer_bytes: AtomicU64,
    /// Written to the cache, and how long that took, in µs.
    pub written_bytes: AtomicU64,
    pub write_micros: AtomicU64,
    pub failed_reads: AtomicU64,
    /// Reads that the kernel asked about before it did them.
    pub read_events: AtomicU64,
    /// Opens of the file as FUSE shows it.
    pub fuse_opens: AtomicU64,
    /// How the mounted image is watched, where the kernel asks us before it reads.
    view: RwLock<Option<Arc<View>>>,
    /// The hot pack, while it is coming.
    hot: RwLock<Option<Arc<Hot>>>,
    /// Hot packs that were asked for, and whether they are still coming: what they bring is brought once, however often the
    /// image is mounted.
    hot_packs: Mutex<HashMap<String, bool>>,
    /// Everything is to be brought once the hot pack is there.
    fill_wanted: AtomicBool,
    /// The kernel's name for the mounted image's read-ahead, while it is kept small.
    narrow_device: Mutex<Option<String>>,
    touches: Mutex<Touches>,
}

#[derive(Default)]
struct Touches {
    recording: bool,
    runs: Vec<(u64, u64)>,
    seen: HashMap<u64, u64>,
}

impl Blob {
    /// Opens the blob of an image in its cache directory. `file` was opened before any mark, by whoever holds it.
    pub fn new(key: String, directory: PathBuf, image: ImageFile, file: File, source: Source) -> io::Result<Blob> {
        let presence = Presence::open(&directory.join("present"), image.data_size)?;
        let id = sys::file_id(file.as_raw_fd())?;
        let read_only = sys::is_read_only(file.as_raw_fd())?;
        Ok(Blob {
            key,
            directory,
            image,
            file,
            read_only,
            id,
            presence,
            source: RwLock::new(Arc::new(source)),
            fetched_bytes: AtomicU64::new(0),
            peer_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            write_micros: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
            read_events: AtomicU64::new(0),
            fuse_opens: AtomicU64::new(0),
            view: RwLock::default(),
            hot: RwLock::default(),
            hot_packs: Mutex::default(),
            fill_wanted: AtomicBool::new(false),
            narrow_device: Mutex::default(),
            touches: Mutex::default(),
        })
    }

    /// Opens (or makes) the blob's file at its full size, by its own path: what is read and written so is never asked about.
    pub fn open_file(directory: &Path, size: u64) -> io::Result<File> {
        let path = Self::data_path(directory);
        let file = match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => return File::open(&path),
            opened => opened?,
        };
        // EROFS wants a device of at least one block, even for an image without content.
        file.set_len(size.max(PAGE))?;
        Ok(file)
    }

    pub fn data_path(directory: &Path) -> PathBuf {
        directory.join("data.blob")
    }

    pub fn metadata_path(&self) -> PathBuf {
        self.directory.join("meta.erofs")
    }

    /// The metadata as they are mounted with a hot pack.
    pub fn hot_metadata_path(&self) -> PathBuf {
        self.directory.join("meta.hot.erofs")
    }

    pub fn view(&self) -> Option<Arc<View>> {
        self.view.read().unwrap().clone()
    }

    pub fn set_view(&self, view: Option<Arc<View>>) {
        *self.view.write().unwrap() = view;
    }

    /// Writes verified bytes to their place and marks them as there, in this order.
    pub fn store(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let began = Instant::now();
        self.file.write_all_at(bytes, offset)?;
        self.write_micros.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.presence.set_range(offset, bytes.len() as u64);
        Ok(())
    }

    /// Bytes of zeros are there without being written: the file is sparse.
    pub fn store_zeros(&self, offset: u64, length: u64) {
        self.presence.set_range(offset, length);
    }

    pub fn hot(&self) -> Option<Arc<Hot>> {
        self.hot.read().unwrap().clone()
    }

    pub fn set_hot(&self, hot: Option<Arc<Hot>>) {
        *self.hot.write().unwrap() = hot;
    }

    /// True when this pack was not asked for yet: the caller does it now.
    pub fn begin_hot(&self, key: &str) -> bool {
        let mut packs = self.hot_packs.lock().unwrap();
        let is_new = !packs.contains_key(key);
        if is_new {
            packs.insert(key.to_string(), true);
        }
        is_new
    }

    /// A pack has come, or (`came` is false) may be asked for again.
    pub fn end_hot(&self, key: &str, came: bool) {
        let mut packs = self.hot_packs.lock().unwrap();
        if came {
            packs.insert(key.to_string(), false);
        } else {
            packs.remove(key);
        }
    }

    pub fn is_hot_coming(&self) -> bool {
        self.hot_packs.lock().unwrap().values().any(|coming| *coming)
    }

    pub fn want_fill(&self, wanted: bool) {
        self.fill_wanted.store(wanted, Ordering::Release);
    }

    pub fn fill_wanted(&self) -> bool {
        self.fill_wanted.load(Ordering::Acquire)
    }

    pub fn narrow_device(&self) -> Option<String> {
        self.narrow_device.lock().unwrap().clone()
    }

    /// Returns the last one.
    pub fn set_narrow_device(&self, device: Option<String>) -> Option<String> {
        std::mem::replace(&mut self.narrow_device.lock().unwrap(), device)
    }

    pub fn source(&self) -> Arc<Source> {
        self.source.read().unwrap().clone()
    }

    /// Requests that are under way go on with the old one.
    pub fn set_source(&self, source: Source) {
        *self.source.write().unwrap() = Arc::new(source);
    }

    pub fn record(&self, on: bool) {
        let mut touches = self.touches.lock().unwrap();
        *touches = Touches { recording: on, ..Touches::default() };
    }

    /// Notes what a read touches, if it was not touched before.
    pub fn touch(&self, offset: u64, length: u64) {
        let mut touches = self.touches.lock().unwrap();
        if !touches.recording || touches.runs.len() >= TOUCHES_MAX {
            return;
        }
        let (mut page, end) = (offset / PAGE, offset.saturating_add(length).min(self.image.data_size).div_ceil(PAGE));
        while page < end {
            let word = page / 64;
            let seen = *touches.seen.get(&word).unwrap_or(&0);
            let start = page;
            let mut bits = 0u64;
            while page < end && page / 64 == word && seen & (1 << (page % 64)) == 0 {
                bits |= 1 << (page % 64);
                page += 1;
            }
            if bits != 0 {
                touches.seen.insert(word, seen | bits);
                match touches.runs.last_mut() {
                    Some(last) if last.0 + last.1 == start => last.1 += page - start,
                    _ => touches.runs.push((start, page - start)),
                }
            } else {
                page += 1;
            }
        }
    }

    pub fn is_recording(&self) -> bool {
        self.touches.lock().unwrap().recording
    }

    /// First page and count of each run that was asked for, in order of first touch.
    pub fn touched_runs(&self) -> Vec<(u64, u64)> {
        self.touches.lock().unwrap().runs.clone()
    }

    pub fn count_fetched(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn count_from_peers(&self, bytes: u64) {
        self.peer_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether what is here can be read, and what is missing can be added.
    pub fn is_usable(&self) -> bool {
        let whole = || self.file.metadata().is_ok_and(|m| m.len() >= self.image.data_size);
        !self.read_only || (self.presence.is_complete() && whole())
    }

    /// Disk space that the blob takes of this cache.
    pub fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        if self.read_only {
            return 0;
        }
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }
}
