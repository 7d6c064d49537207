//! How a mounted image's data blob is watched: the kernel opens it once for each device of the metadata, every time through a
//! private mount of the one file, and asks us before it reads through a mount that is marked. A mount whose pages have all
//! come loses its mark, and reads through it cost what reads of any file cost.
//!   V3. A mark goes only when all pages that are named on its device are there.
//!   V4. Marks live as long as somebody has the blob open through their mount: a detached image that is still in use goes on
//!       asking without anybody keeping it in mind.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::hot_view::{HotFile, Region};
use crate::presence::Presence;
use crate::resident::resident_runs;
use crate::sys;

/// A file as a mount of its own, which only this descriptor and those who opened the file through it hold.
pub struct Watched {
    mount: OwnedFd,
    group: RawFd,
    is_watched: AtomicBool,
}

impl Watched {
    pub fn begin(group: RawFd, file: &Path) -> io::Result<Watched> {
        let mount = sys::private_mount(file)?;
        let watched = Watched { mount, group, is_watched: AtomicBool::new(true) };
        sys::fanotify_mark(group, &watched.path())?;
        Ok(watched)
    }

    /// For mount(2) and open(2) in this process.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_raw_fd()))
    }

    fn end(&self) {
        if self.is_watched.swap(false, Ordering::AcqRel)
            && let Err(error) = sys::fanotify_unmark(self.group, &self.path())
            // A handler before this one did it.
            && error.raw_os_error() != Some(libc::ENOENT)
        {
            say!("imagefs: cannot stop watching: {error}");
        }
    }
}

/// Part of a hot pack: its device, and the pages that are named there; None where they are not known any more.
struct HotPart {
    device: Watched,
    regions: Option<Vec<Region>>,
}

/// What a hot pack holds, as the mounted metadata name it (`hot_view`).
#[derive(Default)]
pub struct HotPages {
    pub regions: Vec<Region>,
    /// Runs in the order in which a start needs them.
    pub order: Vec<(u64, u64)>,
    /// The files that have some of it.
    pub files: Vec<HotFile>,
}

pub struct View {
    cold: Watched,
    hot: Vec<HotPart>,
    order: Vec<(u64, u64)>,
    files: Vec<HotFile>,
}

impl View {
    /// To be mounted with the image's own metadata, or with those of a hot pack.
    pub fn open(group: RawFd, data: &Path, hot: Option<HotPages>) -> io::Result<View> {
        let HotPages { regions, order, files } = hot.unwrap_or_default();
        let devices = regions.iter().map(|region| region.device + 1).max().unwrap_or(0);
        let hot = (0..devices).map(|device| {
            let named = regions.iter().filter(|region| region.device == device).copied().collect();
            Ok(HotPart { device: Watched::begin(group, data)?, regions: Some(named) })
        });
        Ok(View { hot: hot.collect::<io::Result<_>>()?, cold: Watched::begin(group, data)?, order, files })
    }

    /// Of an earlier handler: `mounts` are what `kept` listed then. What its parts hold is not known any more.
    pub fn adopt(group: RawFd, mounts: Vec<OwnedFd>) -> Option<View> {
        let mut mounts = mounts.into_iter().map(|mount| Watched { mount, group, is_watched: AtomicBool::new(true) });
        let cold = mounts.next()?;
        let hot = mounts.map(|device| HotPart { device, regions: None }).collect();
        Some(View { cold, hot, order: Vec::new(), files: Vec::new() })
    }

    fn devices(&self) -> impl Iterator<Item = &Watched> {
        std::iter::once(&self.cold).chain(self.hot.iter().map(|part| &part.device))
    }

    /// In the metadata's order.
    pub fn device_paths(&self) -> Vec<PathBuf> {
        self.devices().map(Watched::path).collect()
    }

    /// What a later handler needs.
    pub fn kept(&self) -> Vec<RawFd> {
        self.devices().map(|device| device.mount.as_raw_fd()).collect()
    }

    pub fn is_watching(&self) -> bool {
        self.devices().any(|device| device.is_watched.load(Ordering::Acquire))
    }

    /// Stops watching the parts that have come.
    pub fn release_parts(&self, presence: &Presence) {
        for HotPart { device, regions } in &self.hot {
            let Some(regions) = regions else { continue };
            if device.is_watched.load(Ordering::Acquire)
                && regions.iter().all(|region| presence.has_pages(region.first, region.pages))
            {
                device.end();
            }
        }
    }

    /// The blob is complete.
    pub fn release_all(&self) {
        self.devices().for_each(Watched::end);
    }

    /// Everything that was read: of the files below `root` what the kernel has in its cache of the hot pages, in the pack's
    /// order, for reads of a part that is there leave no other trace; then what else was `asked` for, in order.
    pub fn all_read(&self, root: &Path, asked: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let resident = resident_runs(root, &self.files);
        let mut read: Vec<(u64, u64)> =
            self.order.iter().flat_map(|(first, pages)| common(&resident, *first, *pages)).collect();
        let mut hot = read.clone();
        hot.sort_unstable();
        read.extend(asked.iter().flat_map(|(first, pages)| others(&hot, *first, *pages)));
        read
    }
}

/// What sorted runs have in common with one more.
fn common(runs: &[(u64, u64)], first: u64, pages: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = first + pages;
    let from = runs.partition_point(|(start, count)| start + count <= first);
    runs[from..].iter().take_while(move |(start, _)| *start < end).map(move |(start, count)| {
        let (from, to) = (first.max(*start), end.min(start + count));
        (from, to - from)
    })
}

/// What of one more run is in none of the sorted ones.
fn others(runs: &[(u64, u64)], first: u64, pages: u64) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut page = first;
    for (start, count) in common(runs, first, pages).chain([(first + pages, 0)]) {
        if start > page {
            left.push((page, start - page));
        }
        page = start + count;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_have_in_common_is_found_and_what_not() {
        let read = [(2, 3), (5, 5), (20, 1)];
        assert_eq!(common(&read, 0, 2).count(), 0);
        assert_eq!(common(&read, 4, 4).collect::<Vec<_>>(), [(4, 1), (5, 3)]);
        assert_eq!(others(&read, 0, 7), [(0, 2)]);
        assert_eq!(others(&read, 5, 3), []);
        assert_eq!(others(&read, 9, 20), [(10, 10), (21, 8)]);
        assert_eq!(common(&read, 9, 100).collect::<Vec<_>>(), [(9, 1), (20, 1)]);
    }
}
