//! pilotlight-imagefs: the mounting side of Pilotlight's images. One program, several roles:
//!   serve    the keeper of a cache directory; starts the handler
//!   clear    takes away the mounts of a cache directory whose server was killed
//!   handler  answers the kernel, fetches, mounts (started by the keeper)
//!   keeper   a keeper that adopts a running handler (started by the handler)
//!   probe    says what this machine can do, as JSON
//!   tree     lists a directory with everything that an image keeps, as JSON lines
//!   run      a process inside a root directory with namespaces of its own

#[macro_use]
mod say;

mod blob;
mod control;
mod door;
mod fanotify;
mod fetch;
mod fuse;
#[cfg(test)]
mod fuzz;
mod hot;
mod hot_view;
mod image;
mod journal;
mod keeper;
mod launch;
mod mounts;
mod node;
mod peers;
mod presence;
mod probe;
mod resident;
mod source;
mod sys;
mod tree;
mod view;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use keeper::{KeeperLink, Shared};

/// Another process serves this cache directory.
const EXIT_TAKEN: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((role, rest)) = arguments.split_first() else {
        say!("usage: pilotlight-imagefs serve|clear|probe|tree|run …");
        return ExitCode::from(2);
    };
    let outcome = match role.as_str() {
        "serve" => serve(rest),
        "clear" => clear(rest),
        "handler" => handler(rest),
        "keeper" => adopt(rest),
        "probe" => probe::print(rest),
        "tree" => tree::print(rest),
        "run" => launch::run(rest),
        _ => Err(format!("unknown role {role}")),
    };
    match outcome {
        Ok(code) => code,
        Err(message) => {
            say!("pilotlight-imagefs: {message}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    cache: PathBuf,
    cache_bytes_max: u64,
    read_deadline_ms: u64,
    /// EROFS from loop devices even where files would do: what older kernels need.
    block_devices: bool,
    adopt: Option<u32>,
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        cache: PathBuf::new(),
        cache_bytes_max: 64 << 30,
        read_deadline_ms: 30_000,
        block_devices: false,
        adopt: None,
    };
    let mut iterator = arguments.iter();
    while let Some(name) = iterator.next() {
        let value = iterator.next().ok_or(format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} {value} is not a number"));
        match name.as_str() {
            "--cache" => options.cache = PathBuf::from(value),
            "--cache-bytes-max" => options.cache_bytes_max = number()?,
            "--read-deadline-ms" => options.read_deadline_ms = number()?,
            "--block-devices" => options.block_devices = value == "true",
            "--adopt" => options.adopt = Some(number()? as u32),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if !options.cache.is_absolute() {
        return Err("--cache needs an absolute path".into());
    }
    Ok(options)
}

fn serve(arguments: &[String]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let cache = &options.cache;
    for part in ["images", "mnt"] {
        std::fs::create_dir_all(cache.join(part)).map_err(|e| format!("{}: {e}", cache.display()))?;
    }
    let Some(lock) = take_over(cache)? else {
        return Ok(ExitCode::from(EXIT_TAKEN));
    };
    let socket = socket_path(cache);
    let listener = UnixListener::bind(&socket).map_err(|e| format!("{}: {e}", socket.display()))?;
    let shared = Shared {
        listener: listener.into(),
        journal: sys::memfd("journal").map_err(|e| e.to_string())?,
        lock,
        group: sys::fanotify_group().ok(),
    };
    keeper::run(shared, arguments, None).map_err(|e| e.to_string())?;
    let _ = std::fs::remove_file(socket);
    Ok(ExitCode::SUCCESS)
}

/// Takes away what servers that were killed left behind, and starts none.
fn clear(arguments: &[String]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let taken = take_over(&options.cache)?;
    Ok(if taken.is_some() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TAKEN) })
}

/// The lock of the cache directory, with nothing left there of an earlier run. None: somebody serves it.
fn take_over(cache: &Path) -> Result<Option<OwnedFd>, String> {
    let socket = socket_path(cache);
    let lock = keeper::take_lock(cache, &socket).map_err(|e| format!("{}: {e}", cache.display()))?;
    if lock.is_some() {
        let cleaned = mounts::clean_up(cache);
        if cleaned > 0 {
            say!("imagefs: detached {cleaned} mounts of an earlier run");
        }
        let _ = std::fs::remove_file(cache.join("state.json"));
        let _ = std::fs::remove_file(&socket);
    }
    Ok(lock)
}

fn socket_path(cache: &Path) -> PathBuf {
    cache.join("control.sock")
}

fn adopt(arguments: &[String]) -> Result<ExitCode, String> {
    let pid = parse(arguments)?.adopt.ok_or("--adopt is missing")?;
    let socket = unsafe { OwnedFd::from_raw_fd(keeper::FD_SOCKET) };
    let shared = Shared::inherited();
    keeper::run(shared, &arguments[2..], Some((socket, pid))).map_err(|e| e.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn handler(arguments: &[String]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let shared = Shared::inherited();
    let group = shared.group.as_ref().map(AsRawFd::as_raw_fd);
    let journal = Arc::new(journal::Journal::open(shared.journal.as_raw_fd()).map_err(|e| e.to_string())?);
    // Before anything is opened: see reserve_left.
    let left = group.map(|group| fanotify::reserve_left(group, &journal)).unwrap_or_default();
    sys::raise_open_files_limit();
    sys::shun_memory_killer();
    let keeper = Arc::new(KeeperLink::new(unsafe { OwnedFd::from_raw_fd(keeper::FD_SOCKET) }, arguments.to_vec()));
    let kept = keeper.kept().map_err(|e| e.to_string())?;
    let fresh = kept.is_empty();
    let clients = Arc::new(control::Clients::default());
    let config = fetch::Config {
        demand_deadline: std::time::Duration::from_millis(options.read_deadline_ms),
        ..fetch::Config::default()
    };
    let agent = source::agent(config.workers);
    let asking = clients.clone();
    let fetcher =
        fetch::Fetcher::start(config, move |blob, pack| asking.locate(&blob.key, pack), |text| say!("imagefs: {text}"));
    let blobs = Arc::new(fanotify::BlobsById::default());
    let block_devices = options.block_devices || matches!(probe::erofs(&options.cache), Ok(probe::Erofs::BlockDevices));
    let node = Arc::new(node::Node {
        cache: options.cache,
        cache_bytes_max: options.cache_bytes_max,
        group,
        fetcher: fetcher.clone(),
        blobs: blobs.clone(),
        keeper: keeper.clone(),
        journal: journal.clone(),
        block_devices,
        agent,
        entries: Mutex::default(),
        fuse: Mutex::default(),
        door: Mutex::default(),
    });
    if fresh {
        node.abandon_used_blobs();
    }
    node.adopt(kept);
    if let Some(group) = group {
        let events = Arc::new(fanotify::Events { group, journal, fetcher, blobs });
        events.take_over(left);
        std::thread::spawn(move || events.run());
    }
    node.load_idle();
    let listener = shared.listener.try_clone().map_err(|e| e.to_string())?;
    let serving = node.clone();
    std::thread::spawn(move || control::serve(listener, serving, clients));
    let tidying = node.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(500));
            tidying.tidy();
        }
    });
    keeper.guard(&shared, move || node.kept())
}
