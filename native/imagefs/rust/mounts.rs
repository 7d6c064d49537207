//! Mounting and unmounting, and what is left of it after a crash.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::sys;

/// The image itself: EROFS metadata from a file, content from one or several devices, all read by the kernel. A `complete` image
/// is read past the cache of the file that holds it (where kernel and file system know how): its pages are in memory once, not
/// twice, and large reads take half the time.
pub fn mount_erofs(metadata: &Path, devices: &[PathBuf], target: &Path, complete: bool) -> io::Result<()> {
    let flags = libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOATIME;
    let mount = |options: &str| sys::mount(&metadata.to_string_lossy(), target, "erofs", flags, options);
    let devices: Vec<String> = devices.iter().map(|path| format!("device={}", path.display())).collect();
    let devices = devices.join(",");
    if complete && mount(&format!("{devices},directio")).is_ok() {
        return Ok(());
    }
    mount(&devices)
}

/// The same for kernels whose EROFS takes block devices only. The devices go with the mount.
pub fn mount_erofs_by_loops(metadata: &Path, data: &Path, target: &Path) -> io::Result<()> {
    let (metadata, data) = (LoopDevice::attach(metadata)?, LoopDevice::attach(data)?);
    let flags = libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOATIME;
    // The descriptors keep the devices until the mount holds them.
    sys::mount(&metadata.path, target, "erofs", flags, &format!("device={}", data.path))
}

/// A read-only loop device that frees itself after its last user.
struct LoopDevice {
    path: String,
    _device: File,
}

/// struct loop_config (linux/loop.h): descriptor, block size, struct loop_info64, reserved.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: [u8; 232],
    reserved: [u64; 8],
}

impl LoopDevice {
    fn attach(path: &Path) -> io::Result<LoopDevice> {
        const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
        const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
        const READ_ONLY_AUTOCLEAR: u32 = 1 | 4;
        const FLAGS_AT: usize = 52;
        let backing = File::open(path)?;
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        loop {
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = format!("/dev/loop{number}");
            let device = File::open(&path)?;
            let mut config =
                LoopConfig { fd: backing.as_raw_fd() as u32, block_size: 4096, info: [0; 232], reserved: [0; 8] };
            config.info[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&READ_ONLY_AUTOCLEAR.to_ne_bytes());
            if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) } == 0 {
                return Ok(LoopDevice { path, _device: device });
            }
            let error = io::Error::last_os_error();
            // Somebody else took it meanwhile.
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(error);
            }
        }
    }
}

const BACKING_DEVICES: &str = "/sys/class/bdi";

/// What the kernel calls the mounted EROFS images where it keeps their read-ahead. The names say nothing about the mounts.
pub fn backing_devices() -> BTreeSet<String> {
    let names = std::fs::read_dir(BACKING_DEVICES).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with("erofs-")).collect()
}

/// The name that a mount in between made; None when somebody else mounted at the same time.
pub fn only_new(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Option<String> {
    let mut fresh = after.difference(before);
    fresh.next().filter(|_| fresh.next().is_none()).cloned()
}

/// For files that are opened from now on. False where the kernel does not let us.
pub fn set_read_ahead(device: &str, kib: u32) -> bool {
    std::fs::write(Path::new(BACKING_DEVICES).join(device).join("read_ahead_kb"), kib.to_string()).is_ok()
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

/// Takes away what a handler that died in the middle of mounting left at `target`; foreign mounts stay.
pub fn clear(cache: &Path, target: &Path) {
    let prefix = format!("{}/", cache.display());
    let entries = list();
    let inside = |entry: &MountEntry| entry.target.to_string_lossy().starts_with(&prefix);
    for entry in entries.iter().filter(|entry| entry.target == target) {
        let of_ours = entries.iter().any(|base| inside(base) && base.device == entry.device);
        if inside(entry) || of_ours || entry.options.contains(&format!("lowerdir={prefix}")) {
            let _ = sys::unmount(target, libc::MNT_DETACH);
        }
    }
}

pub struct MountEntry {
    /// major:minor of the file system: the same for all mounts of one image.
    device: String,
    pub target: PathBuf,
    pub options: String,
}

/// The mounts that this process sees, the latest first.
pub fn list() -> Vec<MountEntry> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut entries: Vec<MountEntry> = text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let device = left.split(' ').nth(2)?.to_string();
            let target = unescape(left.split(' ').nth(4)?);
            let options = unescape(right.split(' ').nth(2).unwrap_or(""));
            Some(MountEntry { device, target: PathBuf::from(target), options })
        })
        .collect();
    entries.reverse();
    entries
}

/// Detaches every mount that an earlier run of this cache made. Mounts whose handlers are gone would show zeros.
pub fn clean_up(cache: &Path) -> usize {
    let prefix = format!("{}/", cache.display());
    let entries = list();
    let inside = |entry: &MountEntry| entry.target.to_string_lossy().starts_with(&prefix);
    let devices: Vec<&str> = entries.iter().filter(|entry| inside(entry)).map(|entry| entry.device.as_str()).collect();
    let ours = |entry: &&MountEntry| {
        inside(entry)
            || devices.contains(&entry.device.as_str())
            || entry.options.contains(&format!("lowerdir={prefix}"))
    };
    // Overlays before what they stand on; a detached mount keeps nothing else busy.
    entries.iter().filter(ours).filter(|entry| sys::unmount(&entry.target, libc::MNT_DETACH).is_ok()).count()
}

/// mountinfo writes space, tab, newline and backslash as \ooo.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal =
            (bytes[i] == b'\\').then(|| text.get(i + 1..i + 4)).flatten().and_then(|o| u8::from_str_radix(o, 8).ok());
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
    fn only_a_single_new_device_is_ours() {
        let names = |text: &str| text.split_whitespace().map(String::from).collect();
        assert_eq!(super::only_new(&names("erofs-1"), &names("erofs-1 erofs-2")), Some("erofs-2".into()));
        assert_eq!(super::only_new(&names("erofs-1"), &names("erofs-1 erofs-2 erofs-3")), None);
        assert_eq!(super::only_new(&names("erofs-1"), &names("erofs-1")), None);
    }

    #[test]
    fn escapes_of_mountinfo_are_read() {
        assert_eq!(super::unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(super::unescape("/a\\9"), "/a\\9");
    }
}
