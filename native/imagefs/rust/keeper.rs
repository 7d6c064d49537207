//! The keeper: a process that does almost nothing and therefore does not fall over. It owns what must survive the
//! handler: the fanotify group (its end would let reads of holes through as zeros), the journal, the control socket, and
//! descriptors that the handler gives it to keep. When the handler dies, it starts the next one; when the keeper dies,
//! the handler starts the next keeper.
//!   K1. Some process holds the group as long as either of the two lives.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::sys;

/// Fixed numbers of the descriptors that both processes inherit.
pub const FD_SOCKET: RawFd = 100;
pub const FD_LISTENER: RawFd = 101;
pub const FD_JOURNAL: RawFd = 102;
pub const FD_LOCK: RawFd = 103;
/// Only where the kernel has pre-content events.
pub const FD_GROUP: RawFd = 104;

/// A handler that ends with this was asked to: the keeper ends too.
pub const EXIT_STOPPED: i32 = 0;

/// What both processes share, in this process's own numbers.
pub struct Shared {
    pub listener: OwnedFd,
    pub journal: OwnedFd,
    pub lock: OwnedFd,
    pub group: Option<OwnedFd>,
}

impl Shared {
    /// Takes over the inherited descriptors.
    pub fn inherited() -> Shared {
        let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
        let has_group = unsafe { libc::fcntl(FD_GROUP, libc::F_GETFD) } >= 0;
        Shared {
            listener: own(FD_LISTENER),
            journal: own(FD_JOURNAL),
            lock: own(FD_LOCK),
            group: has_group.then(|| own(FD_GROUP)),
        }
    }

    /// Starts this program again as `role`, with one end of a new socket pair; returns the other end and the process.
    fn spawn(&self, role: &str, arguments: &[String]) -> io::Result<(OwnedFd, u32)> {
        let (ours, theirs) = sys::message_pair()?;
        let mut moves = vec![
            (theirs.as_raw_fd(), FD_SOCKET),
            (self.listener.as_raw_fd(), FD_LISTENER),
            (self.journal.as_raw_fd(), FD_JOURNAL),
            (self.lock.as_raw_fd(), FD_LOCK),
        ];
        moves.extend(self.group.as_ref().map(|group| (group.as_raw_fd(), FD_GROUP)));
        let mut command = Command::new("/proc/self/exe");
        command.arg(role).args(arguments);
        unsafe {
            command.pre_exec(move || {
                // A process of its own group: what kills its parent's group does not reach it.
                libc::setsid();
                for &(from, to) in &moves {
                    let done = if from == to { libc::fcntl(to, libc::F_SETFD, 0) } else { libc::dup2(from, to) };
                    if done < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        Ok((ours, child.id()))
    }
}

/// Runs the keeper until the handler says that it was stopped. `adopted`: a running handler and the socket to it.
pub fn run(shared: Shared, arguments: &[String], adopted: Option<(OwnedFd, u32)>) -> io::Result<()> {
    sys::raise_open_files_limit();
    sys::shun_memory_killer();
    let mut kept: HashMap<String, OwnedFd> = HashMap::new();
    let mut current = adopted;
    let mut failures = 0u32;
    loop {
        let (socket, pid) = match current.take() {
            Some(handler) => handler,
            None => shared.spawn("handler", arguments)?,
        };
        let began = Instant::now();
        let stopped = attend(&socket, pid, &mut kept)?;
        if stopped {
            return Ok(());
        }
        say!("imagefs: the handler {pid} ended; starting another");
        failures = if began.elapsed() > Duration::from_secs(10) { 0 } else { failures + 1 };
        // At once the first time: readers wait. A handler that cannot start must not spin.
        std::thread::sleep(
            Duration::from_millis(u64::from(failures.saturating_sub(1)) * 200).min(Duration::from_secs(5)),
        );
    }
}

/// Serves one handler until it ends; true when it was stopped on purpose.
fn attend(socket: &OwnedFd, pid: u32, kept: &mut HashMap<String, OwnedFd>) -> io::Result<bool> {
    let mut stopped = false;
    loop {
        let (message, fd) = sys::receive_message(socket.as_raw_fd())?;
        let text = String::from_utf8_lossy(&message).into_owned();
        match (text.split_once(' ').unwrap_or((&text, "")), fd) {
            (("keep", name), Some(fd)) => {
                kept.insert(name.to_string(), fd);
            }
            (("drop", name), _) => {
                kept.remove(name);
            }
            (("list", _), _) => {
                for (name, fd) in kept.iter() {
                    sys::send_message(socket.as_raw_fd(), format!("fd {name}").as_bytes(), Some(fd.as_raw_fd()))?;
                }
                sys::send_message(socket.as_raw_fd(), b"end", None)?;
            }
            (("stopped", _), _) => stopped = true,
            (("", _), _) => {
                // Its end of the socket is closed: it is gone, or going.
                unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
                return Ok(stopped);
            }
            _ => {}
        }
    }
}

/// The handler's side of the socket.
pub struct KeeperLink {
    socket: std::sync::Mutex<OwnedFd>,
    arguments: Vec<String>,
}

impl KeeperLink {
    pub fn new(socket: OwnedFd, arguments: Vec<String>) -> KeeperLink {
        KeeperLink { socket: std::sync::Mutex::new(socket), arguments }
    }

    /// Everything that earlier handlers gave to keep.
    pub fn kept(&self) -> io::Result<HashMap<String, OwnedFd>> {
        let socket = self.socket.lock().unwrap();
        sys::send_message(socket.as_raw_fd(), b"list", None)?;
        let mut kept = HashMap::new();
        loop {
            let (message, fd) = sys::receive_message(socket.as_raw_fd())?;
            let text = String::from_utf8_lossy(&message).into_owned();
            match (text.strip_prefix("fd "), fd) {
                (Some(name), Some(fd)) => {
                    kept.insert(name.to_string(), fd);
                }
                _ => return Ok(kept),
            }
        }
    }

    pub fn keep(&self, name: &str, fd: RawFd) {
        let _ = sys::send_message(self.socket.lock().unwrap().as_raw_fd(), format!("keep {name}").as_bytes(), Some(fd));
    }

    pub fn drop_kept(&self, name: &str) {
        let _ = sys::send_message(self.socket.lock().unwrap().as_raw_fd(), format!("drop {name}").as_bytes(), None);
    }

    pub fn stopped(&self) {
        let _ = sys::send_message(self.socket.lock().unwrap().as_raw_fd(), b"stopped", None);
    }

    /// Waits for the keeper's end, starts another one and gives it what `kept` lists (K1). Never returns.
    pub fn guard(&self, shared: &Shared, kept: impl Fn() -> Vec<(String, RawFd)>) -> ! {
        loop {
            let socket = self.socket.lock().unwrap().as_raw_fd();
            let mut poll = libc::pollfd { fd: socket, events: 0, revents: 0 };
            let hung_up = unsafe { libc::poll(&mut poll, 1, 1_000) } > 0 && poll.revents & libc::POLLHUP != 0;
            if !hung_up {
                continue;
            }
            say!("imagefs: the keeper is gone; starting another");
            let mut arguments = vec!["--adopt".to_string(), std::process::id().to_string()];
            arguments.extend(self.arguments.iter().cloned());
            match shared.spawn("keeper", &arguments) {
                Ok((ours, _)) => {
                    *self.socket.lock().unwrap() = ours;
                    for (name, fd) in kept() {
                        self.keep(&name, fd);
                    }
                }
                Err(error) => {
                    say!("imagefs: no new keeper: {error}");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }
}

/// A killed server holds the lock until the last of its threads is gone; on a busy machine that takes its time.
const LOCK_WAIT: Duration = Duration::from_secs(20);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// Takes the cache directory for this process and those it starts. None: another one serves it.
pub fn take_lock(cache: &Path, socket: &Path) -> io::Result<Option<OwnedFd>> {
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(cache.join("lock"))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(Some(file.into()));
        }
        if UnixStream::connect(socket).is_ok() || Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}
