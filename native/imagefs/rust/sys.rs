//! System calls and constants that neither std nor the libc crate offers in the form needed here: fanotify pre-content
//! events (Linux 6.14), mount(2), fd passing. Nothing here knows about images.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;

pub const FAN_CLASS_PRE_CONTENT: u32 = 0x08;
pub const FAN_UNLIMITED_QUEUE: u32 = 0x10;
pub const FAN_UNLIMITED_MARKS: u32 = 0x20;
pub const FAN_CLOEXEC: u32 = 0x01;
pub const FAN_PRE_ACCESS: u64 = 0x0010_0000;
pub const FAN_ALLOW: u32 = 0x01;
pub const FAN_DENY: u32 = 0x02;
/// The errno that the reader sees travels in the top byte of the answer.
pub const FAN_DENY_EIO: u32 = FAN_DENY | ((libc::EIO as u32) << 24);
const FAN_MARK_ADD: u32 = 0x01;
const FAN_MARK_REMOVE: u32 = 0x02;
const FAN_MARK_MOUNT: u32 = 0x10;
const FAN_EVENT_INFO_TYPE_RANGE: u8 = 6;
const EVENT_METADATA_BYTES: usize = 24;
const RANGE_INFO_BYTES: usize = 24;

/// One event: somebody is about to read `count` bytes at `offset` of the file behind `fd`.
pub struct PreAccess {
    pub fd: RawFd,
    pub offset: u64,
    /// 0 where the kernel does not say how much: up to the end of the file.
    pub count: u64,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub fn cstring(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A group for pre-content events. EINVAL on kernels that lack them, EPERM without CAP_SYS_ADMIN.
pub fn fanotify_group() -> io::Result<OwnedFd> {
    let flags = FAN_CLASS_PRE_CONTENT | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_CLOEXEC;
    let fd =
        check(unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC) as u32) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Everything that is read through the mount that `path` lies on.
pub fn fanotify_mark(group: RawFd, path: &Path) -> io::Result<()> {
    fanotify_change(group, FAN_MARK_ADD | FAN_MARK_MOUNT, path)
}

pub fn fanotify_unmark(group: RawFd, path: &Path) -> io::Result<()> {
    fanotify_change(group, FAN_MARK_REMOVE | FAN_MARK_MOUNT, path)
}

fn fanotify_change(group: RawFd, what: u32, path: &Path) -> io::Result<()> {
    let path = cstring(path)?;
    check(unsafe { libc::fanotify_mark(group, what, FAN_PRE_ACCESS, libc::AT_FDCWD, path.as_ptr()) })?;
    Ok(())
}

/// Reads one event (a small buffer takes no second one: what was read but not journalled is lost on a crash).
pub fn fanotify_read(group: RawFd) -> io::Result<PreAccess> {
    let mut buffer = [0u8; EVENT_METADATA_BYTES + RANGE_INFO_BYTES];
    let length = loop {
        let n = unsafe { libc::read(group, buffer.as_mut_ptr().cast(), buffer.len()) };
        if n >= 0 {
            break n as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    if length < EVENT_METADATA_BYTES {
        return Err(io::Error::from_raw_os_error(libc::EPROTO));
    }
    let fd = i32::from_ne_bytes(buffer[16..20].try_into().unwrap());
    let mut event = PreAccess { fd, offset: 0, count: 0 };
    let info = &buffer[EVENT_METADATA_BYTES..length];
    if info.len() == RANGE_INFO_BYTES && info[0] == FAN_EVENT_INFO_TYPE_RANGE {
        event.offset = u64::from_ne_bytes(info[8..16].try_into().unwrap());
        event.count = u64::from_ne_bytes(info[16..24].try_into().unwrap());
    }
    Ok(event)
}

/// Answers by number: also an event that another process read. ENOENT when there is no such event.
pub fn fanotify_answer(group: RawFd, fd: RawFd, answer: u32) -> io::Result<()> {
    let mut response = [0u8; 8];
    response[..4].copy_from_slice(&fd.to_ne_bytes());
    response[4..].copy_from_slice(&answer.to_ne_bytes());
    let n = unsafe { libc::write(group, response.as_ptr().cast(), response.len()) };
    if n == response.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// mount(2) itself: mount(8) silently puts a loop device under a plain file.
pub fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let source = CString::new(source)?;
    let target = cstring(target)?;
    let kind = CString::new(kind)?;
    let data = CString::new(data)?;
    let data_pointer = if data.is_empty() { std::ptr::null() } else { data.as_ptr().cast() };
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data_pointer) })?;
    Ok(())
}

/// A file as a mount that lies nowhere in the tree (open_tree, Linux 5.2): it is there for those who open the descriptor.
pub fn private_mount(path: &Path) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let path = cstring(path)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    check(fd as libc::c_int).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn unmount(target: &Path, flags: libc::c_int) -> io::Result<()> {
    let target = cstring(target)?;
    check(unsafe { libc::umount2(target.as_ptr(), flags) })?;
    Ok(())
}

/// Anonymous memory behind a descriptor: survives its writer as long as somebody holds the descriptor.
pub fn memfd(name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Device and inode number: how an event's file is told from others.
pub fn file_id(fd: RawFd) -> io::Result<(u64, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino))
}

/// Whether a descriptor cannot be written to.
pub fn is_read_only(fd: RawFd) -> io::Result<bool> {
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    Ok(flags & libc::O_ACCMODE == libc::O_RDONLY)
}

/// True when no other open of the file exists in the whole system: the kernel grants a write lease only then.
pub fn nobody_else_has_open(fd: RawFd) -> bool {
    let granted = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) } == 0;
    if granted {
        unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    }
    granted
}

/// A pair of sockets that keep message borders.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Sends a message, with a descriptor or without.
pub fn send_message(socket: RawFd, text: &[u8], fd: Option<RawFd>) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: text.as_ptr() as *mut _, iov_len: text.len() };
    let mut control = [0u64; 4];
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as _;
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        }
    }
    let n = unsafe { libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) };
    if n == text.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives a message; an empty one means that the other side is gone.
pub fn receive_message(socket: RawFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = vec![0u8; 4096];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; 4];
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(&control) as _;
    let n = loop {
        let n = unsafe { libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) };
        if n >= 0 {
            break n as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    buffer.truncate(n);
    let mut received = None;
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
            received = Some(OwnedFd::from_raw_fd(fd));
        }
    }
    Ok((buffer, received))
}

/// As many open files as this process may have: every event that waits holds one.
pub fn raise_open_files_limit() {
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            // Root may raise the hard limit too; the journal is sized for this many.
            let wanted = libc::rlimit { rlim_cur: 65_536, rlim_max: limit.rlim_max.max(65_536) };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) != 0 {
                limit.rlim_cur = limit.rlim_max.min(65_536);
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            }
        }
    }
}

/// Makes the kernel's memory killer pass this process over: without it, mounted images return errors.
pub fn shun_memory_killer() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

/// A mount and everything mounted below it (mount_setattr, Linux 5.12).
pub fn make_read_only(target: &Path) -> io::Result<()> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let target = cstring(target)?;
    let attributes: [u64; 4] = [MOUNT_ATTR_RDONLY, 0, 0, 0];
    let size = std::mem::size_of_val(&attributes);
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, target.as_ptr(), AT_RECURSIVE, attributes.as_ptr(), size)
    };
    check(result as libc::c_int).map(|_| ())
}
