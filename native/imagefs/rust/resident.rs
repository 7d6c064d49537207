//! Which pages of files the kernel has in its cache: what was read of files that raise no events (mincore(2)).

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::hot_view::HotFile;
use crate::image::PAGE;

/// Runs of pages of the data blob, sorted. A file that cannot be looked at counts as not read.
pub fn resident_runs(root: &Path, files: &[HotFile]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for file in files {
        let pages = pages_in_cache(&root.join(&file.path), file.bytes).unwrap_or_default();
        let mut page = 0;
        for same in pages.chunk_by(|a, b| a == b) {
            if same[0] {
                runs.push((file.first_page + page, same.len() as u64));
            }
            page += same.len() as u64;
        }
    }
    runs.sort_unstable();
    runs
}

fn pages_in_cache(path: &Path, bytes: u64) -> io::Result<Vec<bool>> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let length = bytes as usize;
    let mut pages = vec![0u8; bytes.div_ceil(PAGE) as usize];
    // Mapped without being touched.
    let map =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let result = unsafe { libc::mincore(map, length, pages.as_mut_ptr().cast()) };
    let error = io::Error::last_os_error();
    unsafe { libc::munmap(map.cast::<c_void>(), length) };
    if result != 0 {
        return Err(error);
    }
    Ok(pages.into_iter().map(|state| state & 1 == 1).collect())
}
