//! One range: ask, receive, check, write.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::connection::{Connection, Patience, Server, Shelf};
use crate::failure::{Failure, Kind};
use crate::head::{parse_answer, request_head};
use crate::memory::Memory;

/// Fits a core's second-level cache beside the kernel's own buffers.
pub const BUFFER_BYTES: usize = 512 * 1024;
/// Read at once while the answer's head is awaited: what comes with it is copied to its place.
const HEAD_READ_BYTES: usize = 16 * 1024;

#[derive(Clone)]
pub struct Request {
    pub server: Server,
    /// The Host header.
    pub authority: String,
    /// Path and query, encoded.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Unquoted; the answer must have it.
    pub etag: Option<String>,
    pub offset: u64,
    /// At least 1.
    pub length: u64,
    /// Receives the bytes. Stays the caller's, who keeps it open.
    pub file: RawFd,
    /// Where in the file the range begins.
    pub position: u64,
    /// The file's mapped beginning: bytes are received there where its pages are or can be made, else written.
    pub memory: Option<Arc<Memory>>,
    pub checksums: Option<Checksums>,
}

/// CRC-32 of each block of the object; a range begins on a block.
#[derive(Clone, Debug)]
pub struct Checksums {
    pub block_bytes: u64,
    /// Of the range's blocks only, in order.
    pub blocks: Vec<u32>,
}

/// The caller's side of a running transfer.
#[derive(Default)]
pub struct Control {
    cancelled: AtomicBool,
    /// The socket in use, to be shut down when the caller cancels.
    socket: Mutex<Option<TcpStream>>,
}

impl Control {
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(socket) = self.socket.lock().expect("no panic while locked").take() {
            // Already closed by the other side: nothing left to stop.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(Failure::new(Kind::Cancelled, "cancelled"));
        }
        Ok(())
    }

    /// Makes `connection` the one that `cancel` stops.
    fn watch(&self, connection: &Connection) -> Result<(), Failure> {
        let socket = connection
            .socket()
            .try_clone()
            .map_err(|error| Failure::connection(&error))?;
        *self.socket.lock().expect("no panic while locked") = Some(socket);
        self.check()
    }

    fn unwatch(&self) {
        *self.socket.lock().expect("no panic while locked") = None;
    }
}

/// Moves the range. A kept connection that turns out to be closed is replaced once by a new one.
pub fn transfer(
    request: &Request,
    control: &Control,
    shelf: &Shelf,
    patience: Patience,
    buffer: &mut [u8],
) -> Result<(), Failure> {
    let head = request_head(request)?;
    if let Some(kept) = shelf.take(&request.server) {
        match exchange(kept, &head, request, control, shelf, buffer) {
            Err(Step {
                failure,
                stale: true,
            }) if failure.kind == Kind::Connection => {}
            other => return other.map_err(|step| step.failure),
        }
    }
    control.check()?;
    let fresh =
        Connection::open(&request.server, patience).map_err(|error| Failure::connection(&error))?;
    exchange(fresh, &head, request, control, shelf, buffer).map_err(|step| step.failure)
}

/// A failure, and whether it came before the first byte of an answer.
struct Step {
    failure: Failure,
    stale: bool,
}

fn exchange(
    mut connection: Connection,
    head: &[u8],
    request: &Request,
    control: &Control,
    shelf: &Shelf,
    buffer: &mut [u8],
) -> Result<(), Step> {
    let outcome = control
        .watch(&connection)
        .map_err(|failure| Step {
            failure,
            stale: false,
        })
        .and_then(|()| receive(&mut connection, head, request, buffer));
    control.unwatch();
    // A socket that `cancel` shut down fails like a broken one; what counts is why.
    control.check().map_err(|failure| Step {
        failure,
        stale: false,
    })?;
    if outcome? {
        shelf.put(request.server.clone(), connection);
    }
    Ok(())
}

/// True when the connection may be used again.
fn receive(
    connection: &mut Connection,
    head: &[u8],
    request: &Request,
    buffer: &mut [u8],
) -> Result<bool, Step> {
    let before = |error: &io::Error| Step {
        failure: Failure::connection(error),
        stale: true,
    };
    let during = |failure: Failure| Step {
        failure,
        stale: false,
    };
    connection
        .write_all(head)
        .and_then(|()| connection.flush())
        .map_err(|error| before(&error))?;
    let mut filled = 0;
    let answer = loop {
        if filled == buffer.len() {
            return Err(during(Failure::new(
                Kind::Answer,
                "the answer's head is too long",
            )));
        }
        let end = buffer.len().min(filled + HEAD_READ_BYTES);
        let count = read_some(connection, &mut buffer[filled..end]).map_err(|error| Step {
            failure: Failure::connection(&error),
            stale: filled == 0,
        })?;
        filled += count;
        if let Some(answer) = parse_answer(&buffer[..filled], request).map_err(during)? {
            break answer;
        }
    };
    let mut body = Body::new(request);
    buffer.copy_within(answer.head..filled, 0);
    filled -= answer.head;
    if filled as u64 > request.length {
        return Err(during(Failure::new(
            Kind::Answer,
            "more bytes than announced",
        )));
    }
    // SAFETY: the caller keeps the file as long as it is, and gives a place to one transfer at a time.
    let place = request
        .memory
        .as_ref()
        .and_then(|memory| unsafe { memory.slice(request.position, request.length) });
    match place {
        Some(place) => receive_in_place(connection, &mut body, &buffer[..filled], place),
        None => receive_through(connection, &mut body, buffer, filled),
    }
    .map_err(during)?;
    body.finish().map_err(during)?;
    Ok(answer.keep_alive)
}

/// Bytes are received where they stay; `first` came with the head.
fn receive_in_place(
    connection: &mut Connection,
    body: &mut Body,
    first: &[u8],
    place: &mut [u8],
) -> Result<(), Failure> {
    place[..first.len()].copy_from_slice(first);
    body.arrived(first)?;
    let mut rest = &mut place[first.len()..];
    while !rest.is_empty() {
        // No more at once than what is still in the cache when it is summed.
        let end = rest.len().min(BUFFER_BYTES);
        let count =
            read_some(connection, &mut rest[..end]).map_err(|error| Failure::connection(&error))?;
        let (now, later) = rest.split_at_mut(count);
        body.arrived(now)?;
        rest = later;
    }
    Ok(())
}

/// Bytes pass through the buffer, which holds `filled` of them already.
fn receive_through(
    connection: &mut Connection,
    body: &mut Body,
    buffer: &mut [u8],
    mut filled: usize,
) -> Result<(), Failure> {
    while body.missing() > 0 {
        let end = buffer
            .len()
            .min(usize::try_from(body.missing()).unwrap_or(usize::MAX));
        while filled < end {
            filled += read_some(connection, &mut buffer[filled..end])
                .map_err(|error| Failure::connection(&error))?;
        }
        body.write(&buffer[..filled])?;
        filled = 0;
    }
    Ok(())
}

fn read_some(connection: &mut Connection, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match connection.read(buffer) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection ended early",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the server was silent for too long",
                ));
            }
            other => return other,
        }
    }
}

/// The range's bytes on their way into the file. A block is checked before the range is reported as arrived.
struct Body<'a> {
    request: &'a Request,
    /// Borrowed: never closed here.
    file: ManuallyDrop<File>,
    done: u64,
    block: usize,
    in_block: u64,
    sum: crc32fast::Hasher,
}

impl<'a> Body<'a> {
    fn new(request: &'a Request) -> Self {
        // SAFETY: the caller keeps the descriptor open until the transfer has ended; ManuallyDrop never closes it.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(request.file) });
        Body {
            request,
            file,
            done: 0,
            block: 0,
            in_block: 0,
            sum: crc32fast::Hasher::new(),
        }
    }

    fn missing(&self) -> u64 {
        self.request.length - self.done
    }

    /// Writes the next bytes into the file.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let position = self.request.position + self.done;
        self.file
            .write_all_at(bytes, position)
            .map_err(|error| Failure::file(&error))?;
        self.arrived(bytes)
    }

    /// The next bytes are in their place.
    fn arrived(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.check(bytes)?;
        self.done += bytes.len() as u64;
        Ok(())
    }

    fn check(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        let Some(block_bytes) = self
            .request
            .checksums
            .as_ref()
            .map(|checksums| checksums.block_bytes)
        else {
            return Ok(());
        };
        while !bytes.is_empty() {
            let room = usize::try_from(block_bytes - self.in_block).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.sum.update(now);
            self.in_block += now.len() as u64;
            if self.in_block == block_bytes {
                self.end_block()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), Failure> {
        let sum = std::mem::take(&mut self.sum).finalize();
        let checksums = self
            .request
            .checksums
            .as_ref()
            .expect("only called with checksums");
        if checksums.blocks.get(self.block) != Some(&sum) {
            let block = self.request.offset / checksums.block_bytes + self.block as u64;
            return Err(Failure::new(
                Kind::Corrupt,
                format!("block {block} does not match its checksum"),
            ));
        }
        self.block += 1;
        self.in_block = 0;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if self.in_block > 0 {
            self.end_block()
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
impl Request {
    pub fn for_tests() -> Request {
        Request {
            server: Server {
                secure: false,
                host: "127.0.0.1".into(),
                port: 1,
            },
            authority: "127.0.0.1:1".into(),
            path: "/bucket/key".into(),
            headers: Vec::new(),
            etag: None,
            offset: 0,
            length: 1,
            file: -1,
            position: 0,
            memory: None,
            checksums: None,
        }
    }
}
