//! Lists a directory tree with everything that an image keeps, one JSON line an entry: for comparing a mount with what
//! another tool extracted. Node can read neither extended attributes nor device numbers of links.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::image::hex;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Bytes in hex, relative to the root, which is "".
    path: String,
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// Nanoseconds since 1970, as text: JSON numbers are too small.
    mtime: String,
    /// Equal for the names of one file.
    inode: u64,
    links: u64,
    device: String,
    /// SHA-256 of a file's content; a link's target in hex.
    content: String,
    xattrs: BTreeMap<String, String>,
}

/// `tree DIR`: depth first, by name.
pub fn print(arguments: &[String]) -> Result<ExitCode, String> {
    let root = arguments.first().ok_or("tree needs a directory")?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    walk(Path::new(root), &[], &mut out).map_err(|e| format!("{root}: {e}"))?;
    out.flush().map_err(|e| e.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn walk(path: &Path, name: &[u8], out: &mut impl Write) -> io::Result<()> {
    let info = fs::symlink_metadata(path)?;
    let kind = info.file_type();
    let label = if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_file() {
        "file"
    } else if kind.is_char_device() {
        "charDevice"
    } else if kind.is_block_device() {
        "blockDevice"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        "socket"
    };
    let entry = Entry {
        path: hex(name),
        kind: label,
        mode: info.mode() & 0o7777,
        uid: info.uid(),
        gid: info.gid(),
        size: if kind.is_dir() { 0 } else { info.size() },
        mtime: (i128::from(info.mtime()) * 1_000_000_000 + i128::from(info.mtime_nsec())).to_string(),
        inode: info.ino(),
        links: info.nlink(),
        device: if kind.is_char_device() || kind.is_block_device() {
            format!("{}:{}", libc::major(info.rdev()), libc::minor(info.rdev()))
        } else {
            String::new()
        },
        content: match label {
            "file" => digest(path)?,
            "symlink" => hex(fs::read_link(path)?.as_os_str().as_bytes()),
            _ => String::new(),
        },
        xattrs: xattrs(path)?,
    };
    serde_json::to_writer(&mut *out, &entry)?;
    out.write_all(b"\n")?;
    if !kind.is_dir() {
        return Ok(());
    }
    let mut children: Vec<_> =
        fs::read_dir(path)?.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<_>>()?;
    children.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for child in children {
        let name = if name.is_empty() { child.as_bytes().to_vec() } else { [name, b"/", child.as_bytes()].concat() };
        walk(&path.join(OsStr::new(&child)), &name, out)?;
    }
    Ok(())
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut names = vec![0u8; 64 << 10];
    let n = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    if n < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(BTreeMap::new()) } else { Err(error) };
    }
    let mut found = BTreeMap::new();
    for name in names[..n as usize].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let c_name = CString::new(name)?;
        let mut value = vec![0u8; 64 << 10];
        let n = unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        if n >= 0 {
            found.insert(String::from_utf8_lossy(name).into_owned(), hex(&value[..n as usize]));
        }
    }
    Ok(found)
}
