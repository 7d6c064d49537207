//! Runs a program inside a root directory, with mounts, processes and host name of its own: what a container runtime does
//! at its core, for the backend that has none. Three processes: the launcher (waits, passes signals on), the first
//! process of the new PID namespace (sets the mounts up, reaps, dies with the launcher), and the program.
//!   R1. When the launcher dies, however it dies, everything inside dies: the kernel kills a PID namespace whose first
//!       process ends, and that one has asked to be killed with its parent. The launcher itself dies with its caller,
//!       unless the spec says that it outlives it.
//!   R2. Nothing of the host is reachable inside but what the spec names: the old root is detached before the program runs.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;

use crate::sys;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    /// The root, read-only or not; a mount or a plain directory.
    root: PathBuf,
    /// Writable layer that is put over `root` inside the namespaces (without root rights it cannot be done outside).
    overlay: Option<Overlay>,
    args: Vec<String>,
    /// `NAME=value`
    env: Vec<String>,
    cwd: String,
    /// `user[:group]`, names or numbers; empty is root.
    user: String,
    #[serde(default)]
    binds: Vec<Bind>,
    hostname: Option<String>,
    /// Without root rights: everything happens in a user namespace.
    user_namespace: bool,
    /// The program goes on when the caller ends.
    #[serde(default)]
    outlives_caller: bool,
}

#[derive(Deserialize)]
struct Overlay {
    upper: PathBuf,
    work: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bind {
    source: PathBuf,
    /// Absolute, inside.
    target: PathBuf,
    read_only: bool,
}

struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: Option<String>,
}

type Outcome<T> = Result<T, String>;

fn at<T>(what: impl std::fmt::Display, result: io::Result<T>) -> Outcome<T> {
    result.map_err(|e| format!("{what}: {e}"))
}

fn check(what: &str, result: libc::c_int) -> Outcome<libc::c_int> {
    if result < 0 { at(what, Err(io::Error::last_os_error())) } else { Ok(result) }
}

/// `run`: the spec comes as JSON on descriptor 3. Ends with the program's exit code, 128 + n for signal n.
pub fn run(_arguments: &[String]) -> Outcome<ExitCode> {
    let text = at("reading the spec from descriptor 3", {
        use std::io::Read;
        use std::os::fd::FromRawFd;
        let mut text = String::new();
        unsafe { fs::File::from_raw_fd(3) }.read_to_string(&mut text).map(|_| text)
    })?;
    let spec: Spec = serde_json::from_str(&text).map_err(|e| format!("the spec: {e}"))?;
    if spec.args.is_empty() {
        return Err("the image has neither entrypoint nor command".into());
    }
    if !spec.outlives_caller {
        check("prctl", unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    }
    let identity = identify(&spec.root, &spec.user)?;
    enter_namespaces(&spec, &identity)?;
    let signals = block_signals();
    let pid = check("fork", unsafe { libc::fork() })?;
    if pid == 0 {
        exit_with(first_process(&spec, &identity, &signals));
    }
    Ok(ExitCode::from(wait_for(pid, &signals)))
}

fn enter_namespaces(spec: &Spec, identity: &Identity) -> Outcome<()> {
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.user_namespace {
        flags |= libc::CLONE_NEWUSER;
    }
    check("making namespaces", unsafe { libc::unshare(flags) })?;
    if spec.user_namespace {
        // One user can be mapped without help: the caller becomes the one that the image wants to run as.
        at("setgroups", fs::write("/proc/self/setgroups", "deny"))?;
        at("uid_map", fs::write("/proc/self/uid_map", format!("{} {uid} 1", identity.uid)))?;
        at("gid_map", fs::write("/proc/self/gid_map", format!("{} {gid} 1", identity.gid)))?;
    }
    at("making mounts private", sys::mount("none", Path::new("/"), "none", libc::MS_REC | libc::MS_PRIVATE, ""))
}

/// The first process of the namespace: prepares the root, starts the program, reaps everything, returns its exit code.
fn first_process(spec: &Spec, identity: &Identity, signals: &libc::sigset_t) -> Outcome<u8> {
    check("prctl", unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    let root = prepare_root(spec)?;
    if let Some(name) = &spec.hostname {
        check("setting the host name", unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    }
    change_root(&root)?;
    let pid = check("fork", unsafe { libc::fork() })?;
    if pid == 0 {
        exit_with(execute(spec, identity, signals).map(|()| 0));
    }
    Ok(wait_for(pid, signals))
}

fn prepare_root(spec: &Spec) -> Outcome<PathBuf> {
    let root = spec.root.clone();
    match &spec.overlay {
        Some(Overlay { upper, work }) => {
            at("making the writable layer", fs::create_dir_all(upper).and_then(|()| fs::create_dir_all(work)))?;
            // Over itself: inside this namespace nobody needs the bare tree any more.
            let options = format!(
                "lowerdir={},upperdir={},workdir={},userxattr",
                root.display(),
                upper.display(),
                work.display()
            );
            at(
                "putting the writable layer over the image",
                sys::mount("overlay", &root, "overlay", libc::MS_NODEV, &options),
            )?;
        }
        // pivot_root wants a mount point.
        None => at(
            "binding the root",
            sys::mount(&root.to_string_lossy(), &root, "none", libc::MS_BIND | libc::MS_REC, ""),
        )?,
    }
    mount_system(&root, spec.user_namespace)?;
    for bind in &spec.binds {
        add_bind(&root, bind)?;
    }
    Ok(root)
}

/// /proc, /sys, /dev with what programs expect in it, /dev/shm, and /tmp where the root cannot be written.
fn mount_system(root: &Path, user_namespace: bool) -> Outcome<()> {
    let quiet = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let proc = place(root, "/proc", true)?;
    at("mounting /proc", sys::mount("proc", &proc, "proc", quiet, ""))?;
    if let Ok(sys_directory) = place(root, "/sys", true) {
        // The host's, all of it read-only: a new sysfs needs a network namespace of one's own.
        at("binding /sys", sys::mount("/sys", &sys_directory, "none", libc::MS_BIND | libc::MS_REC, ""))?;
        at("making /sys read-only", sys::make_read_only(&sys_directory))?;
    }
    let dev = place(root, "/dev", true)?;
    at("mounting /dev", sys::mount("tmpfs", &dev, "tmpfs", libc::MS_NOSUID, "mode=755,size=65536k"))?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        at(name, fs::write(dev.join(name), ""))?;
        at(name, sys::mount(&format!("/dev/{name}"), &dev.join(name), "none", libc::MS_BIND, ""))?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ] {
        at(name, symlink(target, dev.join(name)))?;
    }
    at("/dev/pts", fs::create_dir(dev.join("pts")))?;
    let pts = sys::mount(
        "devpts",
        &dev.join("pts"),
        "devpts",
        libc::MS_NOSUID | libc::MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    );
    if !user_namespace {
        at("mounting /dev/pts", pts)?;
    }
    at("/dev/shm", fs::create_dir(dev.join("shm")))?;
    at(
        "mounting /dev/shm",
        sys::mount("tmpfs", &dev.join("shm"), "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
    )?;
    let tmp = root.join("tmp");
    let writable = unsafe { libc::access(sys::cstring(&tmp).map_err(|e| e.to_string())?.as_ptr(), libc::W_OK) } == 0;
    if tmp.is_dir() && !writable {
        at("mounting /tmp", sys::mount("tmpfs", &tmp, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"))?;
    }
    Ok(())
}

fn add_bind(root: &Path, bind: &Bind) -> Outcome<()> {
    let what = bind.source.display();
    let info = at(&what, fs::metadata(&bind.source))?;
    let target = place(root, &bind.target.to_string_lossy(), info.is_dir())?;
    at(&what, sys::mount(&bind.source.to_string_lossy(), &target, "none", libc::MS_BIND | libc::MS_REC, ""))?;
    let device = info.file_type().is_char_device() || info.file_type().is_block_device();
    if bind.read_only && !device {
        let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
        at(&what, sys::mount("none", &target, "none", flags, ""))?;
    }
    Ok(())
}

/// Where something is mounted inside: the place is made if it is missing and never leads outside by a symbolic link.
fn place(root: &Path, inside: &str, directory: bool) -> Outcome<PathBuf> {
    let mut path = root.to_path_buf();
    for part in inside.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(format!("{inside} climbs out of the root"));
        }
        // Links are resolved here, against the root, as the program inside will see them.
        path = resolve_link(root, &path.join(part))?;
        let last = inside.trim_end_matches('/').ends_with(part);
        if fs::symlink_metadata(&path).is_err() {
            let made = if directory || !last { fs::create_dir(&path) } else { fs::write(&path, "") };
            made.map_err(|e| {
                format!("{inside} is not in the image and cannot be made ({e}): give the mount a writable layer")
            })?;
        }
    }
    Ok(path)
}

fn resolve_link(root: &Path, path: &Path) -> Outcome<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else {
            return Ok(path);
        };
        let from = if target.is_absolute() {
            PathBuf::from("/")
        } else {
            path.parent().unwrap_or(root).strip_prefix(root).unwrap_or(Path::new("")).to_path_buf()
        };
        let mut inside = PathBuf::new();
        for part in from.join(&target).components() {
            match part {
                std::path::Component::Normal(name) => inside.push(name),
                std::path::Component::ParentDir => {
                    inside.pop();
                }
                _ => {}
            }
        }
        path = root.join(inside);
    }
    Err(format!("{}: too many symbolic links", path.display()))
}

fn change_root(root: &Path) -> Outcome<()> {
    at("entering the root", std::env::set_current_dir(root))?;
    // pivot_root(".", "."): the old root comes to lie on top of the new one and is detached from there (pivot_root(2)).
    check("pivot_root", unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as libc::c_int })?;
    check("leaving the old root", unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    at("entering /", std::env::set_current_dir("/"))
}

fn execute(spec: &Spec, identity: &Identity, signals: &libc::sigset_t) -> Outcome<()> {
    if !spec.user_namespace {
        check("setgroups", unsafe { libc::setgroups(identity.groups.len(), identity.groups.as_ptr()) })?;
        check("setgid", unsafe { libc::setgid(identity.gid) })?;
        check("setuid", unsafe { libc::setuid(identity.uid) })?;
    }
    // As docker does: a working directory that is not there is made, where that is possible.
    if std::env::set_current_dir(&spec.cwd).is_err() {
        let _ = fs::create_dir_all(&spec.cwd);
        at(format!("the working directory {}", spec.cwd), std::env::set_current_dir(&spec.cwd))?;
    }
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, signals, std::ptr::null_mut()) };
    let mut env = spec.env.clone();
    if let (Some(home), false) = (&identity.home, env.iter().any(|e| e.starts_with("HOME="))) {
        env.push(format!("HOME={home}"));
    }
    let program = find_program(&spec.args[0], &env)?;
    let to_c = |list: &[String]| {
        list.iter()
            .map(|s| CString::new(s.as_str()).map_err(|_| format!("{s:?} holds a NUL")))
            .collect::<Outcome<Vec<_>>>()
    };
    let (args, envs) = (to_c(&spec.args)?, to_c(&env)?);
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let path = CString::new(program.clone()).map_err(|_| "NUL in the program's name")?;
    unsafe { libc::execve(path.as_ptr(), pointers(&args).as_ptr(), pointers(&envs).as_ptr()) };
    at(format!("starting {program}"), Err(io::Error::last_os_error()))
}

/// A name without a slash is looked for in the image's own PATH.
fn find_program(name: &str, env: &[String]) -> Outcome<String> {
    if name.contains('/') {
        return Ok(name.to_string());
    }
    let path = env
        .iter()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let candidates = path.split(':').map(|directory| format!("{directory}/{name}"));
    let is_program =
        |path: &String| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    candidates.into_iter().find(is_program).ok_or(format!("{name} is not in the image's PATH ({path})"))
}

/// Reads `user[:group]` against the image's own /etc/passwd and /etc/group.
fn identify(root: &Path, text: &str) -> Outcome<Identity> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let user = if user.is_empty() { "0" } else { user };
    let read = |inside: &str| {
        resolve_link(root, &root.join(inside))
            .and_then(|p| fs::read_to_string(p).map_err(|e| e.to_string()))
            .unwrap_or_default()
    };
    let (passwd, groups) = (read("etc/passwd"), read("etc/group"));
    let fields = |line: &str| line.split(':').map(str::to_string).collect::<Vec<_>>();
    let wanted: Option<u32> = user.parse().ok();
    let row = passwd.lines().map(fields).find(|f| {
        f.len() >= 6
            && match wanted {
                Some(uid) => f[2].parse() == Ok(uid),
                None => f[0] == user,
            }
    });
    let uid =
        row.as_ref().and_then(|f| f[2].parse().ok()).or(wanted).ok_or(format!("the image has no user {user:?}"))?;
    let group_row = |name: &str| groups.lines().map(fields).find(|f| f.len() >= 4 && f[0] == name);
    let gid = match group {
        "" => row.as_ref().and_then(|f| f[3].parse().ok()).unwrap_or(0),
        name => name
            .parse()
            .ok()
            .or_else(|| group_row(name).and_then(|f| f[2].parse().ok()))
            .ok_or(format!("the image has no group {name:?}"))?,
    };
    let name = row.as_ref().map(|f| f[0].clone()).unwrap_or_default();
    let mut all: Vec<u32> = groups
        .lines()
        .map(fields)
        .filter(|f| f.len() >= 4 && !name.is_empty() && f[3].split(',').any(|member| member == name))
        .filter_map(|f| f[2].parse().ok())
        .collect();
    all.push(gid);
    all.sort_unstable();
    all.dedup();
    Ok(Identity { uid, gid, groups: all, home: row.map(|f| f[5].clone()) })
}

/// Signals are waited for, not handled: nothing runs in a handler.
fn block_signals() -> libc::sigset_t {
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGWINCH,
            libc::SIGCONT,
        ] {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    }
}

/// Reaps everything and passes signals on until `child` ends; returns its exit code.
fn wait_for(child: libc::pid_t, signals: &libc::sigset_t) -> u8 {
    loop {
        let mut status = 0;
        loop {
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid == child {
                return if libc::WIFEXITED(status) {
                    libc::WEXITSTATUS(status) as u8
                } else {
                    128 + libc::WTERMSIG(status) as u8
                };
            }
            if pid <= 0 {
                break;
            }
        }
        let mut signal = 0;
        unsafe { libc::sigwait(signals, &mut signal) };
        if signal != libc::SIGCHLD {
            unsafe { libc::kill(child, signal) };
        }
    }
}

/// Ends a forked process: its exit code, or 125 with a message, as container runtimes do when the start itself fails.
fn exit_with(outcome: Outcome<u8>) -> ! {
    let code = outcome.unwrap_or_else(|message| {
        say!("pilotlight-imagefs run: {message}");
        125
    });
    unsafe { libc::_exit(i32::from(code)) }
}
