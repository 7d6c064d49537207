//! Mounting and unmounting, and what is left of it after a crash.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys;

/// The image itself: EROFS metadata from a file, content from another, both read by the kernel.
pub fn mount_erofs(metadata: &Path, data: &Path, target: &Path) -> io::Result<()> {
    let flags = libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOATIME;
    sys::mount(&metadata.to_string_lossy(), target, "erofs", flags, &format!("device={}", data.display()))
}

/// The same tree once more, at another place.
pub fn bind_read_only(from: &Path, target: &Path) -> io::Result<()> {
    sys::mount(&from.to_string_lossy(), target, "none", libc::MS_BIND, "")?;
    sys::mount("none", target, "none", libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NODEV, "")
}

/// A writable view: changes go to `upper`, the image stays as it is.
pub fn mount_overlay(lower: &Path, upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let escape = |path: &Path| path.to_string_lossy().replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:");
    let options = format!("lowerdir={},upperdir={},workdir={}", escape(lower), escape(upper), escape(work));
    sys::mount("overlay", target, "overlay", libc::MS_NODEV, &options)
}

/// Takes a mount away; what is in use is detached and goes with its last user.
pub fn unmount(target: &Path) -> io::Result<()> {
    match sys::unmount(target, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => sys::unmount(target, libc::MNT_DETACH),
        other => other,
    }
}

pub struct MountEntry {
    pub target: PathBuf,
    pub source: String,
    pub options: String,
}

/// The mounts that this process sees, the latest first.
pub fn list() -> Vec<MountEntry> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut entries: Vec<MountEntry> = text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let target = unescape(left.split(' ').nth(4)?);
            let mut fields = right.split(' ').skip(1);
            let source = unescape(fields.next()?);
            Some(MountEntry { target: PathBuf::from(target), source, options: unescape(fields.next().unwrap_or("")) })
        })
        .collect();
    entries.reverse();
    entries
}

/// Detaches every mount that an earlier run of this cache made. Mounts whose handlers are gone would show zeros.
pub fn clean_up(cache: &Path) -> usize {
    let cache = cache.to_string_lossy().into_owned();
    let ours = |entry: &MountEntry| {
        let below = |text: &str| text.starts_with(&format!("{cache}/"));
        below(&entry.target.to_string_lossy()) || below(&entry.source) || entry.options.contains(&format!("lowerdir={cache}/"))
    };
    // Overlays before what they stand on; a detached mount keeps nothing else busy.
    list().iter().filter(|entry| ours(entry) && sys::unmount(&entry.target, libc::MNT_DETACH).is_ok()).count()
}

/// mountinfo writes space, tab, newline and backslash as \ooo.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4)).flatten().and_then(|o| u8::from_str_radix(o, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_of_mountinfo_are_read() {
        assert_eq!(super::unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(super::unescape("/a\\9"), "/a\\9");
    }
}
