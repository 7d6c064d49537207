//! The FUSE side: one small read-only file system that shows each blob as a file, for kernels without pre-content events.
//! EROFS reads the file, FUSE asks here, the answer waits until the bytes are there.
//!   U1. Requests of a killed handler are not lost: kernels from 6.9 on send them again when asked to; for older ones they
//!       stand in the journal.
//!   U2. Nodes are named by the inode number of the blob's file, so that a new handler knows them.
//! Protocol: Linux include/uapi/linux/fuse.h, version 7.31; structs little endian, as on every machine this runs on.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::blob::Blob;
use crate::fanotify::BlobsById;
use crate::fetch::Fetcher;
use crate::journal::{FuseEntry, Journal};
use crate::sys;

const ROOT: u64 = 1;
/// A request is a header and little else: nothing is ever written to us.
const REQUEST_BYTES_MAX: usize = 64 << 10;
const READ_BYTES_MAX: u32 = 1 << 20;
/// Attributes never change: the kernel may keep them.
const VALID_SECONDS: u64 = 1 << 30;
const THREADS: usize = 3;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const ACCESS: u32 = 34;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;

const NOTIFY_RESEND: i32 = 7;
const INIT_ASYNC_READ: u32 = 1;
const INIT_MAX_PAGES: u32 = 1 << 22;
const OPEN_KEEP_CACHE: u32 = 2;

/// Opens the device and mounts the file system at `target`.
pub fn mount(target: &Path) -> io::Result<OwnedFd> {
    let fd = unsafe { libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let device = unsafe { OwnedFd::from_raw_fd(fd) };
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,max_read={READ_BYTES_MAX}");
    sys::mount("pilotlight-imagefs", target, "fuse", libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOSUID, &options)?;
    Ok(device)
}

pub struct Fuse {
    pub device: RawFd,
    pub journal: Arc<Journal>,
    pub fetcher: Arc<Fetcher>,
    pub blobs: Arc<BlobsById>,
}

#[derive(Clone, Copy)]
struct Header {
    opcode: u32,
    unique: u64,
    node: u64,
}

impl Fuse {
    /// Starts answering. `taking_over`: the connection was used by an earlier handler.
    pub fn start(self: Arc<Self>, taking_over: bool) {
        if taking_over {
            self.take_over();
        }
        for i in 0..THREADS {
            let fuse = self.clone();
            std::thread::Builder::new().name(format!("fuse-{i}")).spawn(move || fuse.run()).expect("a thread");
        }
    }

    fn take_over(self: &Arc<Self>) {
        let left = self.journal.drain_fuse();
        let mut notice = [0u8; 16];
        notice[..4].copy_from_slice(&16u32.to_le_bytes());
        notice[4..8].copy_from_slice(&NOTIFY_RESEND.to_le_bytes());
        let resent = unsafe { libc::write(self.device, notice.as_ptr().cast(), notice.len()) } == notice.len() as isize;
        if !resent {
            for entry in left {
                self.read(entry);
            }
        }
    }

    fn run(self: &Arc<Self>) {
        let mut buffer = vec![0u8; REQUEST_BYTES_MAX + 4096];
        loop {
            let n = unsafe { libc::read(self.device, buffer.as_mut_ptr().cast(), buffer.len()) };
            if n < 0 {
                match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => continue,
                    // Unmounted.
                    _ => return,
                }
            }
            let request = &buffer[..n as usize];
            if request.len() < 40 {
                continue;
            }
            let header = Header { opcode: u32_at(request, 4), unique: u64_at(request, 8), node: u64_at(request, 16) };
            self.handle(header, &request[40..]);
        }
    }

    fn handle(self: &Arc<Self>, header: Header, body: &[u8]) {
        match header.opcode {
            READ if body.len() >= 20 => {
                let entry = FuseEntry {
                    unique: header.unique,
                    node: header.node,
                    offset: u64_at(body, 8),
                    size: u64::from(u32_at(body, 16)),
                };
                self.journal.put_fuse(entry);
                self.read(entry);
            }
            INIT => self.init(header, body),
            LOOKUP => self.lookup(header, body),
            GETATTR => self.getattr(header),
            OPEN => self.open(header),
            RELEASE => {
                if let Some(blob) = self.blob(header.node) {
                    let _ = blob
                        .fuse_opens
                        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| Some(n.saturating_sub(1)));
                }
                self.reply(header.unique, 0, &[]);
            }
            OPENDIR => self.reply(header.unique, 0, &[0; 16]),
            READDIR | RELEASEDIR | FLUSH | ACCESS => self.reply(header.unique, 0, &[]),
            STATFS => self.reply(header.unique, 0, &[0; 80]),
            FORGET | BATCH_FORGET | INTERRUPT | DESTROY => {}
            _ => self.reply(header.unique, -libc::ENOSYS, &[]),
        }
    }

    fn init(&self, header: Header, body: &[u8]) {
        let mut out = [0u8; 64];
        out[..4].copy_from_slice(&7u32.to_le_bytes());
        out[4..8].copy_from_slice(&31u32.to_le_bytes());
        // As much read-ahead as the kernel offers.
        out[8..12].copy_from_slice(body.get(8..12).unwrap_or(&[0; 4]));
        out[12..16].copy_from_slice(&(INIT_ASYNC_READ | INIT_MAX_PAGES).to_le_bytes());
        out[16..18].copy_from_slice(&64u16.to_le_bytes()); // requests in the background
        out[18..20].copy_from_slice(&48u16.to_le_bytes());
        out[20..24].copy_from_slice(&4096u32.to_le_bytes()); // max_write: never used
        out[24..28].copy_from_slice(&1u32.to_le_bytes()); // time granularity
        out[28..30].copy_from_slice(&((READ_BYTES_MAX / 4096) as u16).to_le_bytes());
        self.reply(header.unique, 0, &out);
    }

    fn lookup(&self, header: Header, body: &[u8]) {
        let name = String::from_utf8_lossy(body.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let found = self.blobs.read().unwrap().values().find(|blob| blob.key == name).cloned();
        let Some(blob) = found.filter(|_| header.node == ROOT) else {
            return self.reply(header.unique, -libc::ENOENT, &[]);
        };
        let mut out = Vec::with_capacity(128);
        for word in [blob.id.1, 0, VALID_SECONDS, VALID_SECONDS, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&attributes(blob.id.1, Some(&blob)));
        self.reply(header.unique, 0, &out);
    }

    fn getattr(&self, header: Header) {
        let blob = self.blob(header.node);
        if header.node != ROOT && blob.is_none() {
            return self.reply(header.unique, -libc::EIO, &[]);
        }
        let mut out = Vec::with_capacity(104);
        out.extend_from_slice(&VALID_SECONDS.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&attributes(header.node, blob.as_deref()));
        self.reply(header.unique, 0, &out);
    }

    fn open(&self, header: Header) {
        let Some(blob) = self.blob(header.node) else {
            return self.reply(header.unique, -libc::EIO, &[]);
        };
        blob.fuse_opens.fetch_add(1, Ordering::AcqRel);
        let mut out = [0u8; 16];
        out[8..12].copy_from_slice(&OPEN_KEEP_CACHE.to_le_bytes());
        self.reply(header.unique, 0, &out);
    }

    fn read(self: &Arc<Self>, entry: FuseEntry) {
        let Some(blob) = self.blob(entry.node) else {
            return self.answer_read(entry, None);
        };
        blob.touch(entry.offset, entry.size);
        let fuse = self.clone();
        let held = blob.clone();
        self.fetcher.read(&blob, entry.offset, entry.size, move |ok| fuse.answer_read(entry, ok.then_some(&held)));
    }

    /// With the bytes, or EIO.
    fn answer_read(&self, entry: FuseEntry, blob: Option<&Arc<Blob>>) {
        let bytes = blob.and_then(|blob| {
            let size = (blob.file.metadata().ok()?.len().saturating_sub(entry.offset))
                .min(entry.size)
                .min(u64::from(READ_BYTES_MAX));
            let mut bytes = vec![0; size as usize];
            blob.file.read_exact_at(&mut bytes, entry.offset).ok()?;
            Some(bytes)
        });
        match bytes {
            Some(bytes) => self.reply(entry.unique, 0, &bytes),
            None => self.reply(entry.unique, -libc::EIO, &[]),
        }
        self.journal.clear_fuse(entry.unique);
    }

    fn blob(&self, node: u64) -> Option<Arc<Blob>> {
        self.blobs.read().unwrap().values().find(|blob| blob.id.1 == node).cloned()
    }

    fn reply(&self, unique: u64, error: i32, body: &[u8]) {
        let mut header = [0u8; 16];
        header[..4].copy_from_slice(&((16 + body.len()) as u32).to_le_bytes());
        header[4..8].copy_from_slice(&error.to_le_bytes());
        header[8..].copy_from_slice(&unique.to_le_bytes());
        let parts = [
            libc::iovec { iov_base: header.as_ptr() as *mut _, iov_len: header.len() },
            libc::iovec { iov_base: body.as_ptr() as *mut _, iov_len: body.len() },
        ];
        // ENOENT: the reader was killed meanwhile.
        unsafe { libc::writev(self.device, parts.as_ptr(), if body.is_empty() { 1 } else { 2 }) };
    }
}

/// struct fuse_attr: the root directory, or a blob.
fn attributes(node: u64, blob: Option<&Blob>) -> [u8; 88] {
    let mut out = [0u8; 88];
    let size = blob.map_or(0, |b| b.image.data_size.max(4096));
    let mode = if blob.is_some() { libc::S_IFREG | 0o400 } else { libc::S_IFDIR | 0o500 };
    out[..8].copy_from_slice(&node.to_le_bytes());
    out[8..16].copy_from_slice(&size.to_le_bytes());
    out[16..24].copy_from_slice(&size.div_ceil(512).to_le_bytes());
    out[60..64].copy_from_slice(&mode.to_le_bytes());
    out[64..68].copy_from_slice(&1u32.to_le_bytes());
    out[80..84].copy_from_slice(&4096u32.to_le_bytes());
    out
}

/// Whether a FUSE file system can be mounted here, found out by mounting one.
pub fn probe(directory: &Path) -> Result<(), String> {
    let target = directory.join(format!("probe-fuse-{}", std::process::id()));
    let outcome = std::fs::create_dir(&target).and_then(|()| mount(&target)).map(drop);
    let _ = sys::unmount(&target, libc::MNT_DETACH);
    let _ = std::fs::remove_dir(&target);
    outcome.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "the kernel has no FUSE (/dev/fuse)".to_string(),
        Some(libc::EPERM | libc::EACCES) => "mounting needs root (CAP_SYS_ADMIN)".to_string(),
        _ => format!("FUSE: {e}"),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
