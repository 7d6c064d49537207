//! The door for other nodes of the zone: pages of images that are here, or will be soon. `POST /images/KEY/pages` names parts,
//! each a list of runs of pages; the answer holds them in order, compressed anew. `GET /images/KEY/image` is the image object.
//!   D1. Whoever asks without the zone's token learns nothing.
//!   D2. Everything is bounded: connections, heads, bodies, pages of a request, uploads at once and bytes a second.
//!   D3. What is missing here is brought for a peer only while the image is mounted here, and not longer than `WAIT`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::blob::Blob;
use crate::fetch::{Fetcher, ReadWait};
use crate::image::PAGE;
use crate::node::{Node, is_key};
use crate::peers::{
    PART_ABSENT, PART_HEADER_BYTES, PART_RAW, PART_RAW_BYTES_MAX, PART_ZSTD, PARTS_MAX, PagesRequest,
    REQUEST_RAW_BYTES_MAX,
};

const CONNECTIONS_MAX: usize = 256;
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 32;
const BODY_BYTES_MAX: usize = 1 << 20;
/// A connection on which nothing happens for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that takes nothing for this long is left.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a peer waits for pages that are on their way; then for its turn; then for the rate.
const WAIT: Duration = Duration::from_millis(1_500);
const TURN_WAIT: Duration = Duration::from_millis(500);
/// Uploads at once; others wait for their turn.
const UPLOADS_MAX: usize = 8;
/// Fast, and still a third of the bytes: links between nodes are seldom faster than that.
const ZSTD_LEVEL: i32 = 1;
/// How far the rate limit lets an idle door run ahead.
const BURST: Duration = Duration::from_millis(100);

/// Uploads at once and bytes a second.
struct Pace {
    free: Mutex<usize>,
    freed: Condvar,
    bytes_per_second: AtomicU64,
    /// When the bytes that were sent so far would have been sent at the rate.
    paid_until: Mutex<Instant>,
}

impl Pace {
    /// Waits for a turn, which is held until the answer was taken; None when it does not come in time.
    fn enter(&self) -> Option<Turn<'_>> {
        let free = self.free.lock().unwrap();
        let (mut free, waited) = self.freed.wait_timeout_while(free, TURN_WAIT, |free| *free == 0).unwrap();
        if waited.timed_out() {
            return None;
        }
        *free -= 1;
        Some(Turn(self))
    }

    /// Waits until the rate allows these bytes; false, and nothing is paid, where that would take too long.
    fn pay(&self, bytes: usize) -> bool {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return true;
        }
        let now = Instant::now();
        let wait = {
            let mut paid = self.paid_until.lock().unwrap();
            let from = (*paid).max(now.checked_sub(BURST).unwrap_or(now));
            let wait = from.saturating_duration_since(now);
            if wait > TURN_WAIT {
                return false;
            }
            *paid = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
            wait
        };
        std::thread::sleep(wait);
        true
    }
}

struct Turn<'a>(&'a Pace);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap() += 1;
        self.0.freed.notify_one();
    }
}

pub struct Door {
    node: std::sync::Weak<Node>,
    fetcher: Arc<Fetcher>,
    pace: Pace,
    connections: AtomicUsize,
    pub uploaded_bytes: AtomicU64,
    pub refused: AtomicU64,
    pub address: SocketAddr,
}

impl Door {
    /// Listens from now on, in threads of its own. `bytes_per_second` 0: as fast as it goes.
    pub fn open(node: &Arc<Node>, host: &str, port: u16, bytes_per_second: u64) -> io::Result<Arc<Door>> {
        let listener = TcpListener::bind((host, port))?;
        let door = Arc::new(Door {
            node: Arc::downgrade(node),
            fetcher: node.fetcher.clone(),
            pace: Pace {
                free: Mutex::new(UPLOADS_MAX),
                freed: Condvar::new(),
                bytes_per_second: AtomicU64::new(bytes_per_second),
                paid_until: Mutex::new(Instant::now()),
            },
            connections: AtomicUsize::new(0),
            uploaded_bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            address: listener.local_addr()?,
        });
        let serving = door.clone();
        std::thread::Builder::new().name("peer-door".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                serving.clone().take_in(stream);
            }
        })?;
        Ok(door)
    }

    pub fn set_rate(&self, bytes_per_second: u64) {
        self.pace.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    fn take_in(self: Arc<Door>, stream: TcpStream) {
        if self.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            return; // Closed by being dropped.
        }
        let door = self.clone();
        let spawned = std::thread::Builder::new().name("peer".into()).spawn(move || {
            let _ = door.attend(&stream);
            door.connections.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            self.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn attend(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let is_allowed = |authorization: Option<&str>| self.fetcher.peers.is_allowed(authorization);
        while let Some(request) = read_request(&mut reader, is_allowed)? {
            let (answer, _turn) = self.answer(&request);
            if answer.status != 200 {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            send(stream, &answer)?;
            if !request.is_allowed {
                return Ok(()); // its body was not read
            }
            self.uploaded_bytes.fetch_add(answer.body.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The answer, with the turn that is held until it was taken: it bounds the memory of all answers.
    fn answer(&self, request: &Request) -> (Answer, Option<Turn<'_>>) {
        let asked = match self.admit(request) {
            Ok(asked) => asked,
            Err(status) => return (Answer::empty(status), None),
        };
        if let Asked::Pages { blob, pages, may_bring: true } = &asked {
            self.bring(blob, pages);
        }
        let Some(turn) = self.pace.enter() else {
            return (Answer::empty(503), None);
        };
        let answer = match &asked {
            Asked::Image { blob } => match std::fs::read(blob.directory.join("image.plimage")) {
                Ok(body) => Answer { status: 200, body },
                Err(_) => Answer::empty(404),
            },
            Asked::Pages { blob, pages, .. } => Answer { status: 200, body: parts(blob, pages) },
        };
        match self.pace.pay(answer.body.len()) {
            true => (answer, Some(turn)),
            false => (Answer::empty(503), None),
        }
    }

    /// What is asked for; or the status that says why not.
    fn admit(&self, request: &Request) -> Result<Asked, u16> {
        let node = self.node.upgrade().ok_or(503u16)?;
        if !request.is_allowed {
            return Err(401);
        }
        let mut path = request.path.strip_prefix("/images/").unwrap_or("").split('/');
        let (Some(key), Some(what), None) = (path.next(), path.next(), path.next()) else {
            return Err(404);
        };
        if !is_key(key) {
            return Err(404);
        }
        let blob = node.blob(key).ok_or(404u16)?;
        match (request.method.as_str(), what) {
            ("GET", "image") => Ok(Asked::Image { blob }),
            ("POST", "pages") => match serde_json::from_slice::<PagesRequest>(&request.body) {
                Ok(pages) if is_bounded(&pages, &blob) => {
                    Ok(Asked::Pages { blob, pages, may_bring: node.is_mounted(key) })
                }
                _ => Err(400),
            },
            _ => Err(404),
        }
    }

    /// Asks for what is missing, and waits for it a little (D3).
    fn bring(&self, blob: &Arc<Blob>, asked: &PagesRequest) {
        let missing: Vec<(u64, u64)> = asked
            .parts
            .iter()
            .flatten()
            .map(|(page, pages)| (page * PAGE, pages * PAGE))
            .filter(|(offset, length)| !blob.presence.has_range(*offset, *length))
            .collect();
        if missing.is_empty() {
            return;
        }
        let (sender, receiver) = mpsc::channel();
        let wait = ReadWait::new(missing.len(), move |ok| {
            let _ = sender.send(ok);
        });
        for (offset, length) in missing {
            self.fetcher.demand(blob, offset, length, &wait);
        }
        let _ = receiver.recv_timeout(WAIT);
    }
}

enum Asked {
    Image { blob: Arc<Blob> },
    Pages { blob: Arc<Blob>, pages: PagesRequest, may_bring: bool },
}

fn parts(blob: &Blob, asked: &PagesRequest) -> Vec<u8> {
    let mut body = Vec::new();
    for runs in &asked.parts {
        let (encoding, wire) = encode(blob, runs).unwrap_or((PART_ABSENT, Vec::new()));
        body.reserve(PART_HEADER_BYTES + wire.len());
        body.extend_from_slice(&(wire.len() as u32).to_le_bytes());
        body.push(encoding);
        body.extend_from_slice(&wire);
    }
    body
}

/// D2; and inside the image.
fn is_bounded(asked: &PagesRequest, blob: &Blob) -> bool {
    let pages_of_image = blob.image.data_size / PAGE;
    let inside = |(page, pages): &(u64, u64)| {
        *pages > 0
            && *pages <= PART_RAW_BYTES_MAX / PAGE
            && page.checked_add(*pages).is_some_and(|end| end <= pages_of_image)
    };
    let bytes = |runs: &Vec<(u64, u64)>| runs.iter().map(|(_, pages)| pages * PAGE).sum::<u64>();
    asked.parts.len() <= PARTS_MAX
        && asked.parts.iter().flatten().all(inside)
        && asked.parts.iter().all(|runs| bytes(runs) <= PART_RAW_BYTES_MAX)
        && asked.parts.iter().map(bytes).sum::<u64>() <= REQUEST_RAW_BYTES_MAX
}

/// A part's bytes as they are sent; None: not all of it is here.
fn encode(blob: &Blob, runs: &[(u64, u64)]) -> Option<(u8, Vec<u8>)> {
    let mut raw = vec![0; runs.iter().map(|(_, pages)| (pages * PAGE) as usize).sum()];
    let mut at = 0;
    for (page, pages) in runs {
        let length = (pages * PAGE) as usize;
        if !blob.presence.has_range(page * PAGE, pages * PAGE) {
            return None;
        }
        blob.file.read_exact_at(&mut raw[at..at + length], page * PAGE).ok()?;
        at += length;
    }
    match zstd::bulk::compress(&raw, ZSTD_LEVEL) {
        Ok(wire) if wire.len() < raw.len() => Some((PART_ZSTD, wire)),
        _ => Some((PART_RAW, raw)),
    }
}

struct Request {
    method: String,
    path: String,
    /// False: nothing but the head was read.
    is_allowed: bool,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn empty(status: u16) -> Answer {
        Answer { status, body: Vec::new() }
    }
}

/// None: the other side has closed the connection. `is_allowed` is asked with the Authorization header.
fn read_request(
    reader: &mut BufReader<&TcpStream>,
    is_allowed: impl Fn(Option<&str>) -> bool,
) -> io::Result<Option<Request>> {
    let Some(head) = read_head(reader)? else {
        return Ok(None);
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(&head).map_err(|_| malformed())?.is_complete() {
        return Err(malformed());
    }
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = match (header("transfer-encoding"), header("content-length")) {
        (Some(_), _) => return Err(malformed()),
        (None, None) => 0,
        (None, Some(text)) => text.parse::<usize>().map_err(|_| malformed())?,
    };
    if length > BODY_BYTES_MAX {
        return Err(malformed());
    }
    let is_allowed = is_allowed(header("authorization"));
    let mut body = vec![0; if is_allowed { length } else { 0 }];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method: parsed.method.unwrap_or("").to_string(),
        path: parsed.path.unwrap_or("").to_string(),
        is_allowed,
        body,
    }))
}

/// Everything up to the empty line.
fn read_head(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let mut line = reader.by_ref().take((HEAD_BYTES_MAX - before) as u64);
        if line.read_until(b'\n', &mut head)? == 0 {
            return if before == 0 { Ok(None) } else { Err(malformed()) };
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(Some(head));
        }
        if head.len() >= HEAD_BYTES_MAX || !head.ends_with(b"\n") {
            return Err(malformed());
        }
    }
}

fn malformed() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
}

fn send(mut stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    let reason = match answer.status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        answer.status,
        answer.body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&answer.body)
}
