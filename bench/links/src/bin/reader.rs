//! The limit: a plain range reader that knows neither files nor tensors nor checksums. Threads take ranges in turn and
//! receive them straight into memory of the process, each over its own kept-alive connection. What any real reader does
//! comes on top of this.
//!
//!   reader --connections 16 --range-bytes 8388608 < objects
//!
//! Standard input: one object a line, tab-separated: address (HOST:PORT), path, bytes, then header lines. Prints one line of
//! JSON: {"bytes", "seconds"}, from the first request to the last byte.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

struct Object {
    address: String,
    path: String,
    bytes: usize,
    headers: Vec<String>,
}

struct Range {
    object: usize,
    offset: usize,
    length: usize,
    /// Where its first byte goes.
    place: usize,
}

fn main() -> io::Result<()> {
    let mut connections = 16;
    let mut range_bytes = 8 << 20;
    let mut args = std::env::args().skip(1);
    while let (Some(option), Some(value)) = (args.next(), args.next()) {
        let number: usize = value.parse().map_err(io::Error::other)?;
        match option.as_str() {
            "--connections" => connections = number,
            "--range-bytes" => range_bytes = number,
            other => return Err(io::Error::other(format!("unknown option {other}"))),
        }
    }
    let objects: Vec<Object> = io::stdin()
        .lock()
        .lines()
        .map(|line| parse_object(&line?))
        .collect::<io::Result<_>>()?;
    let ranges = cut(&objects, range_bytes);
    let total: usize = objects.iter().map(|object| object.bytes).sum();
    let memory = allocate(total)?;
    let (objects, ranges) = (Arc::new(objects), Arc::new(ranges));
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (objects, ranges, next) = (objects.clone(), ranges.clone(), next.clone());
            thread::spawn(move || read_ranges(&objects, &ranges, &next, memory))
        })
        .collect();
    for thread in threads {
        thread.join().expect("a reader does not panic")?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(r#"{{"bytes":{total},"seconds":{seconds}}}"#);
    Ok(())
}

fn parse_object(line: &str) -> io::Result<Object> {
    let mut fields = line.split('\t').map(str::to_string);
    let mut field = || fields.next().ok_or(io::Error::other("a field is missing"));
    Ok(Object {
        address: field()?,
        path: field()?,
        bytes: field()?.parse().map_err(io::Error::other)?,
        headers: fields.collect(),
    })
}

fn cut(objects: &[Object], range_bytes: usize) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut place = 0;
    for (object, Object { bytes, .. }) in objects.iter().enumerate() {
        for offset in (0..*bytes).step_by(range_bytes) {
            let length = range_bytes.min(bytes - offset);
            ranges.push(Range {
                object,
                offset,
                length,
                place,
            });
            place += length;
        }
    }
    ranges
}

/// Memory as an engine would allocate it: private, each page touched by its first byte's arrival.
fn allocate(bytes: usize) -> io::Result<usize> {
    // SAFETY: a new private mapping, never unmapped.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut(),
            bytes.max(1),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(memory as usize)
    }
}

fn read_ranges(
    objects: &[Object],
    ranges: &[Range],
    next: &AtomicUsize,
    memory: usize,
) -> io::Result<()> {
    let mut connection: Option<TcpStream> = None;
    while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
        let object = &objects[range.object];
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&object.address)?,
        };
        // SAFETY: ranges do not overlap and lie inside the mapping, which is never unmapped.
        let into = unsafe {
            std::slice::from_raw_parts_mut((memory + range.place) as *mut u8, range.length)
        };
        read_range(&mut stream, object, range, into)?;
        connection = Some(stream);
    }
    Ok(())
}

fn read_range(
    stream: &mut TcpStream,
    object: &Object,
    range: &Range,
    into: &mut [u8],
) -> io::Result<()> {
    let last = range.offset + range.length - 1;
    let mut head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nrange: bytes={}-{last}\r\n",
        object.path, object.address, range.offset
    );
    for header in &object.headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let mut buffer = [0; 8192];
    let mut filled = 0;
    let body = loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        filled += count;
        if let Some(end) = buffer[..filled]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        {
            break end + 4;
        }
    };
    if !buffer.starts_with(b"HTTP/1.1 206") {
        let line = String::from_utf8_lossy(&buffer[..filled.min(80)]).into_owned();
        return Err(io::Error::other(line));
    }
    let first = (filled - body).min(into.len());
    into[..first].copy_from_slice(&buffer[body..body + first]);
    stream.read_exact(&mut into[first..])
}
