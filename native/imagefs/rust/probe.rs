//! What this machine can do, found out by doing it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::view::Watched;
use crate::{fuse, sys};

/// Prints {"fanotify": …, "fuse": …, "userNamespaces": …}; each {"ok": bool, "why": string}.
pub fn print(arguments: &[String]) -> Result<ExitCode, String> {
    let directory = arguments.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let verdict = |outcome: Result<(), String>| match outcome {
        Ok(()) => json!({ "ok": true, "why": "" }),
        Err(why) => json!({ "ok": false, "why": why }),
    };
    let found: Value = json!({
        "fanotify": verdict(fanotify(&directory)),
        "fuse": verdict(erofs(&directory).and_then(|_| fuse::probe(&directory))),
        "userNamespaces": verdict(user_namespaces()),
    });
    println!("{found}");
    Ok(ExitCode::SUCCESS)
}

/// Watches a sparse file, reads it, and expects to be asked first: the kernel's version alone proves nothing.
fn fanotify(directory: &Path) -> Result<(), String> {
    if erofs(directory)? == Erofs::BlockDevices {
        return Err("the kernel's EROFS mounts only block devices (Linux 6.12 and later mount files)".into());
    }
    let group = sys::fanotify_group().map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => "watching file systems needs root (CAP_SYS_ADMIN)".to_string(),
        Some(libc::EINVAL) => "the kernel has no pre-content events (Linux 6.14 and later have them)".to_string(),
        _ => format!("fanotify: {e}"),
    })?;
    let path = directory.join(format!("probe-{}", std::process::id()));
    let outcome = (|| -> std::io::Result<bool> {
        File::create(&path)?.set_len(1 << 20)?;
        let watched = Watched::begin(group.as_raw_fd(), &path)?;
        let reading = watched.path();
        let reader = std::thread::spawn(move || -> std::io::Result<u8> {
            let mut byte = [0u8; 1];
            File::open(reading)?.read_exact(&mut byte)?;
            Ok(byte[0])
        });
        let mut poll = libc::pollfd { fd: group.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        if unsafe { libc::poll(&mut poll, 1, 2_000) } <= 0 {
            return Ok(false);
        }
        let event = sys::fanotify_read(group.as_raw_fd())?;
        sys::fanotify_answer(group.as_raw_fd(), event.fd, sys::FAN_DENY_EIO)?;
        unsafe { libc::close(event.fd) };
        let denied = matches!(reader.join(), Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO));
        Ok(denied && event.count > 0)
    })();
    let _ = std::fs::remove_file(&path);
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("reads below {} raise no pre-content events", directory.display())),
        Err(error) => Err(format!("fanotify below {}: {error}", directory.display())),
    }
}

#[derive(PartialEq)]
pub enum Erofs {
    /// Mounts plain files (Linux 6.12 and later).
    Files,
    /// Mounts block devices only.
    BlockDevices,
}

/// How this kernel mounts EROFS: for what it does not take mount(2) says ENOTBLK before it looks inside.
pub fn erofs(directory: &Path) -> Result<Erofs, String> {
    let path = directory.join(format!("probe-erofs-{}", std::process::id()));
    let target = directory.join(format!("probe-mnt-{}", std::process::id()));
    let outcome = File::create(&path)
        .and_then(|mut file| file.write_all(&[0; 8192]))
        .and_then(|()| std::fs::create_dir(&target))
        .and_then(|()| sys::mount(&path.to_string_lossy(), &target, "erofs", libc::MS_RDONLY, ""));
    let _ = std::fs::remove_dir(&target);
    let _ = std::fs::remove_file(&path);
    match outcome.map_err(|e| e.raw_os_error()) {
        // No valid superblock: it looked inside.
        Err(Some(libc::EINVAL)) => Ok(Erofs::Files),
        Err(Some(libc::ENOTBLK)) => Ok(Erofs::BlockDevices),
        Err(Some(libc::EPERM | libc::EACCES)) => Err("mounting needs root (CAP_SYS_ADMIN)".into()),
        Err(Some(libc::ENODEV)) => Err("the kernel has no EROFS".into()),
        Err(code) => Err(format!(
            "EROFS: {}",
            code.map_or("unknown".into(), |c| std::io::Error::from_raw_os_error(c).to_string())
        )),
        Ok(()) => Err("EROFS mounted an empty file".into()),
    }
}

fn user_namespaces() -> Result<(), String> {
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let made = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } == 0;
        unsafe { libc::_exit(if made { 0 } else { 1 }) };
    }
    let mut status = 0;
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    if pid > 0 && waited == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        Ok(())
    } else {
        Err("user namespaces are not allowed (see user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)".into())
    }
}
