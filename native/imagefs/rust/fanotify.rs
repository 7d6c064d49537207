//! The fanotify side: the kernel asks before it reads a marked blob, and is answered when the bytes are there.
//!   N1. An event is journalled before anything else is done with it, and cleared only after its answer: a handler that
//!       takes over answers every event that its predecessor left (journal.rs).
//!   N2. Every event is answered: allowed when all its bytes are there, EIO otherwise. Never allowed with a hole.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use crate::blob::Blob;
use crate::fetch::Fetcher;
use crate::journal::{Entry, Journal};
use crate::sys;

/// Blobs by device and inode of their file.
pub type BlobsById = RwLock<HashMap<(u64, u64), Arc<Blob>>>;

pub struct Events {
    pub group: RawFd,
    pub journal: Arc<Journal>,
    pub fetcher: Arc<Fetcher>,
    pub blobs: Arc<BlobsById>,
}

impl Events {
    /// Serves what a killed predecessor left behind, with the numbers that `reserve_left` kept.
    pub fn take_over(self: &Arc<Self>, left: Vec<(RawFd, Entry)>) {
        for (number, entry) in left {
            self.serve(number, entry);
        }
    }

    /// Reads events until the group is gone.
    pub fn run(self: &Arc<Self>) {
        loop {
            match sys::fanotify_read(self.group) {
                Ok(event) => self.on_event(event),
                Err(error) => match error.raw_os_error() {
                    // No descriptor is free: the event stays queued; others will be answered and free theirs.
                    Some(libc::EMFILE | libc::ENFILE) => std::thread::sleep(std::time::Duration::from_millis(5)),
                    _ => {
                        say!("fanotify: {error}");
                        std::process::exit(1);
                    }
                },
            }
        }
    }

    fn on_event(self: &Arc<Self>, event: sys::PreAccess) {
        let Ok(id) = sys::file_id(event.fd) else {
            return self.answer(event.fd, false);
        };
        let count = if event.count == 0 { u64::MAX - event.offset } else { event.count };
        let entry = Entry { id, offset: event.offset, count };
        self.journal.put(event.fd, entry);
        self.serve(event.fd, entry);
    }

    fn serve(self: &Arc<Self>, fd: RawFd, entry: Entry) {
        let Some(blob) = self.blobs.read().unwrap().get(&entry.id).cloned() else {
            return self.answer(fd, false);
        };
        blob.read_events.fetch_add(1, Ordering::Relaxed);
        blob.touch(entry.offset, entry.count);
        if blob.presence.has_range(entry.offset, entry.count) {
            return self.answer(fd, true);
        }
        let events = self.clone();
        self.fetcher.read(&blob, entry.offset, entry.count, move |ok| events.answer(fd, ok));
    }

    fn answer(&self, fd: RawFd, ok: bool) {
        let _ = sys::fanotify_answer(self.group, fd, if ok { sys::FAN_ALLOW } else { sys::FAN_DENY_EIO });
        self.journal.clear(fd);
        unsafe { libc::close(fd) };
    }
}

/// What a killed predecessor was working on. To be called before this process opens anything: the kernel knows events by
/// descriptor number, so those numbers are occupied until they are answered. An event that was read but not journalled
/// when the handler died cannot be served any more: it gets EIO.
pub fn reserve_left(group: RawFd, journal: &Journal) -> Vec<(RawFd, Entry)> {
    let mut left = Vec::new();
    for number in 0..journal.len() as RawFd {
        match journal.get(number) {
            None => {
                let _ = sys::fanotify_answer(group, number, sys::FAN_DENY_EIO);
            }
            Some(entry) => {
                occupy(number);
                left.push((number, entry));
            }
        }
    }
    left
}

fn occupy(number: RawFd) {
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if null != number && null >= 0 {
            libc::dup3(null, number, libc::O_CLOEXEC);
            libc::close(null);
        }
    }
}
