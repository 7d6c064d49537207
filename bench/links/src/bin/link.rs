//! A network link in user space, for benchmarks: TCP connections are passed on to a server, what the server sends is held
//! to a rate, what the client sends is delayed, which is the time to the first byte of an answer. Bytes go through
//! splice(2), never through this process's memory, so that the link costs little beside what it stands between.
//!
//!   link --first-byte-ms 10 --rate NAME=BITS_PER_SECOND… [--by-header HEADER] --route HOST:PORT[=NAME+NAME…]…
//!
//! Each route gets a port of its own on 127.0.0.1 and shares the named rates with the routes that name them too (a node's
//! network card, for instance). With `--by-header` a connection's first request may name one more rate, the asking node's, in
//! that header. Prints one line of JSON with the ports. Every line on standard input is answered with the
//! bytes that went to clients so far, route by route; at its end the link ends.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Passed on at once: what the rate brings in this time, so that system calls are few and connections take turns often; within
/// these bounds.
const PIECE: Duration = Duration::from_micros(500);
const PIECE_BYTES_MIN: usize = 64 * 1024;
const PIECE_BYTES_MAX: usize = 1024 * 1024;
/// How far a rate that was idle may run ahead.
const BURST: Duration = Duration::from_millis(1);

/// A rate shared by any number of connections: pieces are given their turn one after the other.
struct Rate {
    bytes_per_second: f64,
    free_at: Mutex<Instant>,
}

impl Rate {
    /// When a piece of this size may go.
    fn reserve(&self, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let mut free_at = self.free_at.lock().expect("no panic while locked");
        let begins = (*free_at).max(Instant::now() - BURST);
        *free_at = begins + takes;
        *free_at
    }
}

type Rates = HashMap<String, Arc<Rate>>;

struct Route {
    to: SocketAddr,
    rates: Vec<Arc<Rate>>,
    bytes: AtomicU64,
}

/// What holds for all routes.
struct Settings {
    first_byte: Duration,
    by_header: Option<String>,
    rates: Rates,
}

fn main() {
    let (settings, routes) = parse(std::env::args().skip(1)).unwrap_or_else(|problem| {
        eprintln!("link: {problem}");
        std::process::exit(2);
    });
    let settings = Arc::new(settings);
    let mut ports = Vec::new();
    for route in &routes {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        ports.push(
            listener
                .local_addr()
                .expect("a bound socket has an address")
                .port()
                .to_string(),
        );
        let route = route.clone();
        let settings = settings.clone();
        thread::spawn(move || accept(&listener, &route, &settings));
    }
    println!("[{}]", ports.join(","));
    for line in io::stdin().lock().lines() {
        if line.is_err() {
            break;
        }
        let bytes: Vec<String> = routes
            .iter()
            .map(|route| route.bytes.load(Ordering::Relaxed).to_string())
            .collect();
        println!("[{}]", bytes.join(","));
    }
}

fn parse(args: impl Iterator<Item = String>) -> Result<(Settings, Vec<Arc<Route>>), String> {
    let mut first_byte = Duration::ZERO;
    let mut by_header = None;
    let mut rates = Rates::new();
    let mut routes = Vec::new();
    let mut args = args;
    while let Some(option) = args.next() {
        let value = args.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--first-byte-ms" => {
                first_byte =
                    Duration::from_millis(value.parse().map_err(|_| "not a number of ms")?);
            }
            "--rate" => {
                let (name, bits) = value.split_once('=').ok_or("write --rate NAME=BITS")?;
                let bits: f64 = bits.parse().map_err(|_| "not a number of bits")?;
                let rate = Rate {
                    bytes_per_second: bits / 8.0,
                    free_at: Mutex::new(Instant::now()),
                };
                rates.insert(name.to_string(), Arc::new(rate));
            }
            "--by-header" => by_header = Some(value.to_ascii_lowercase()),
            "--route" => {
                let (to, names) = value.split_once('=').unwrap_or((&value, ""));
                let rates = names
                    .split('+')
                    .filter(|name| !name.is_empty())
                    .map(|name| rates.get(name).cloned().ok_or(format!("no rate {name}")))
                    .collect::<Result<_, _>>()?;
                let to = to.parse().map_err(|_| format!("{to} is no address"))?;
                routes.push(Arc::new(Route {
                    to,
                    rates,
                    bytes: AtomicU64::new(0),
                }));
            }
            other => return Err(format!("unknown option {other}")),
        }
    }
    let settings = Settings {
        first_byte,
        by_header,
        rates,
    };
    Ok((settings, routes))
}

fn accept(listener: &TcpListener, route: &Arc<Route>, settings: &Arc<Settings>) {
    for client in listener.incoming().flatten() {
        let (route, settings) = (route.clone(), settings.clone());
        thread::spawn(move || {
            // A side that goes away ends the connection, nothing else.
            let _ = connect(client, &route, &settings);
        });
    }
}

fn connect(mut client: TcpStream, route: &Route, settings: &Settings) -> io::Result<()> {
    let mut server = TcpStream::connect(route.to)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut first = vec![0; 64 * 1024];
    let count = client.read(&mut first)?;
    let mut rates = route.rates.clone();
    rates.extend(settings.named_rate(&first[..count]));
    thread::sleep(settings.first_byte);
    server.write_all(&first[..count])?;
    let (asking, asked) = (client.try_clone()?, server.try_clone()?);
    let first_byte = settings.first_byte;
    thread::spawn(move || {
        let _ = delay(&asking, &asked, first_byte);
        let _ = asked.shutdown(Shutdown::Write);
    });
    let outcome = pass(server.as_raw_fd(), client.as_raw_fd(), &rates, &route.bytes);
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    outcome
}

impl Settings {
    /// The rate that a request names, if it names one.
    fn named_rate(&self, request: &[u8]) -> Option<Arc<Rate>> {
        let header = self.by_header.as_ref()?;
        let text = std::str::from_utf8(request).ok()?;
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let found = name.eq_ignore_ascii_case(header);
            found.then(|| self.rates.get(value.trim()).cloned())?
        })
    }
}

/// Requests: small, so they are copied.
fn delay(mut from: &TcpStream, mut to: &TcpStream, first_byte: Duration) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        thread::sleep(first_byte);
        to.write_all(&buffer[..count])?;
    }
}

/// Answers.
fn pass(from: RawFd, to: RawFd, rates: &[Arc<Rate>], bytes: &AtomicU64) -> io::Result<()> {
    let (out, into) = pipe()?;
    let pipe = Pipe { out, into };
    let slowest = rates
        .iter()
        .map(|rate| rate.bytes_per_second)
        .fold(f64::INFINITY, f64::min);
    let piece = (slowest * PIECE.as_secs_f64())
        .clamp(PIECE_BYTES_MIN as f64, PIECE_BYTES_MAX as f64) as usize;
    loop {
        let count = splice(from, pipe.into, piece)?;
        if count == 0 {
            return Ok(());
        }
        if let Some(at) = rates.iter().map(|rate| rate.reserve(count)).max() {
            thread::sleep(at.saturating_duration_since(Instant::now()));
        }
        let mut left = count;
        while left > 0 {
            left -= splice(pipe.out, to, left)?;
        }
        bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}

struct Pipe {
    out: RawFd,
    into: RawFd,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: both descriptors are this pipe's own and closed once.
        unsafe {
            libc::close(self.out);
            libc::close(self.into);
        }
    }
}

fn pipe() -> io::Result<(RawFd, RawFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just opened. A refusal leaves the pipe smaller, which only costs time.
    unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, PIECE_BYTES_MAX as i32) };
    Ok((ends[0], ends[1]))
}

fn splice(from: RawFd, to: RawFd, bytes: usize) -> io::Result<usize> {
    loop {
        // Not SPLICE_F_MORE: it would hold back the end of every answer for 200 ms.
        // SAFETY: no pointers but null; descriptors are open in the caller.
        let count = unsafe {
            libc::splice(
                from,
                std::ptr::null_mut(),
                to,
                std::ptr::null_mut(),
                bytes,
                libc::SPLICE_F_MOVE,
            )
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
