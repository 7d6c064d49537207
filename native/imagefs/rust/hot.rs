//! The hot pack of a start: read as one stream over a few connections, frame by frame, each verified and written to its
//! places in the blob. Readers that need a page of a frame under way wait for the frame instead of fetching the chunk.
//!   P1. The pack is a help only: whatever is wrong with it, readers get their pages from the chunks.
//!   P2. A reader waits for a frame no longer than `PATIENCE`; then the chunk is fetched.
//!   P3. Where several nodes start the image, each reads the frames that it owns from the bucket and the others' from them
//!       (peers.rs). Half of the connections take the own ones first, for others wait for them.

use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::blob::Blob;
use crate::fetch::{Fetcher, ReadWait};
use crate::hot_view::Region;
use crate::image::PAGE;
use crate::peers::{PARTS_MAX, Part, Peer, REQUEST_RAW_BYTES_MAX, STRETCH_BYTES};
use crate::source::FetchError;

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const FRAME_BYTES: usize = 64;
const RUN_BYTES: usize = 16;
const TABLE_BYTES_MAX: usize = 64 << 20;
const FRAME_RAW_BYTES_MAX: u32 = 4 << 20;
/// The first request takes the tables and, for small packs, everything.
const FIRST_BYTES: usize = 256 << 10;
/// Where other nodes have the image too: every node reads this much from the bucket.
const FIRST_BYTES_SHARED: usize = 32 << 10;
/// One request for several frames: long enough that its round trip does not matter, short enough to share the link.
const REQUEST_BYTES: u64 = STRETCH_BYTES;
const CONNECTIONS: usize = 4;
/// Nodes that start at the same moment are not equally fast.
const PEER_PATIENCE: Duration = Duration::from_millis(1_000);
const PATIENCE: Duration = Duration::from_millis(1_500);
/// The pack counts as this many parts: reads of one cost nothing any more once it is there as a whole.
const PARTS: u64 = 8;

struct Frame {
    sha256: [u8; 32],
    offset: u64,
    raw_length: u32,
    wire_length: u32,
    compressed: bool,
    runs: std::ops::Range<usize>,
}

/// A reader that waits for a frame: which bytes it needs, whom to tell.
struct Waiting {
    offset: u64,
    length: u64,
    wait: Arc<ReadWait>,
    since: Instant,
}

pub struct Hot {
    key: String,
    frames: Vec<Frame>,
    /// First page and pages, frame by frame.
    runs: Vec<(u64, u64)>,
    /// The same by page, with the frame's number.
    by_page: Vec<(u64, u64, u32)>,
    state: Mutex<State>,
}

struct State {
    /// Frames that are still to come.
    pending: HashSet<u32>,
    waiting: Vec<(u32, Waiting)>,
    /// Frames that were not given to a connection yet.
    left: BTreeSet<u32>,
}

impl Hot {
    /// Joins a reader to a frame under way that holds the first missing page of its range; false if there is none.
    pub fn join(&self, blob: &Blob, offset: u64, length: u64, wait: &Arc<ReadWait>) -> bool {
        let Some(page) = blob.presence.first_missing(offset, length) else {
            return false;
        };
        let i = self.by_page.partition_point(|(first, pages, _)| first + pages <= page);
        let Some(&(first, _, frame)) = self.by_page.get(i) else {
            return false;
        };
        if page < first {
            return false;
        }
        let mut state = self.state.lock().unwrap();
        // Looked at under the lock: a frame is taken out only after its pages were marked.
        if !state.pending.contains(&frame) {
            return false;
        }
        state.waiting.push((frame, Waiting { offset, length, wait: wait.clone(), since: Instant::now() }));
        true
    }

    /// Which pages the pack holds, by page, and in which of its parts.
    pub fn regions(&self) -> Vec<Region> {
        let mut end = 0;
        let regions = self.by_page.iter().filter_map(|&(first, pages, frame)| {
            let (start, stop) = (first.max(end), first + pages);
            end = end.max(stop);
            (start < stop).then(|| Region { first: start, pages: stop - start, device: self.part_of(frame) })
        });
        regions.collect()
    }

    /// The same in the order in which a start needs them.
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    fn part_of(&self, frame: u32) -> u16 {
        (u64::from(frame) * PARTS / self.frames.len() as u64) as u16
    }

    fn finish(&self, frame: u32, fetcher: &Fetcher, blob: &Arc<Blob>) {
        let mut state = self.state.lock().unwrap();
        state.pending.remove(&frame);
        let (ready, rest) = std::mem::take(&mut state.waiting).into_iter().partition(|(f, _)| *f == frame);
        state.waiting = rest;
        let part = self.part_of(frame);
        let part_came = !state.pending.iter().any(|pending| self.part_of(*pending) == part);
        drop(state);
        go_on(ready, fetcher, blob);
        if part_came && let Some(view) = blob.view() {
            view.release_parts(&blob.presence);
        }
    }

    /// Sends readers that have waited too long to the chunks (P2).
    fn release_impatient(&self, fetcher: &Fetcher, blob: &Arc<Blob>) -> bool {
        let mut state = self.state.lock().unwrap();
        let (late, rest) =
            std::mem::take(&mut state.waiting).into_iter().partition(|(_, w)| w.since.elapsed() > PATIENCE);
        state.waiting = rest;
        let more = !state.pending.is_empty();
        drop(state);
        for (_, Waiting { offset, length, wait, .. }) in late {
            fetcher.demand_chunks(blob, offset, length, &wait);
        }
        more
    }

    /// Frames for the next request, neighbours in the pack, with the peers to ask first: from the first one that is not
    /// there already, or, where others have the image too, the first of the kind (own or theirs) that is preferred.
    fn take(
        &self,
        fetcher: &Fetcher,
        blob: &Arc<Blob>,
        prefers_own: bool,
    ) -> Option<(std::ops::Range<usize>, Vec<Peer>)> {
        let state = &mut *self.state.lock().unwrap();
        let first = if fetcher.peers.has(&blob.key) {
            let preferred = |frame: &&u32| self.route(fetcher, blob, **frame).is_empty() == prefers_own;
            state.left.iter().find(preferred).or(state.left.first()).copied()
        } else {
            state.left.first().copied()
        }?;
        let stretch = self.stretch(first);
        let alone = !fetcher.peers.has(&blob.key);
        let (mut end, mut bytes, mut raw_bytes) = (first, 0, 0);
        while state.left.contains(&end) {
            let frame = &self.frames[end as usize];
            bytes += u64::from(frame.wire_length);
            raw_bytes += u64::from(frame.raw_length);
            let fits = bytes <= REQUEST_BYTES && raw_bytes <= REQUEST_RAW_BYTES_MAX && (end - first) < PARTS_MAX as u32;
            if end > first && !(fits && (alone || self.stretch(end) == stretch)) {
                break;
            }
            state.left.remove(&end);
            end += 1;
        }
        Some((first as usize..end as usize, self.route(fetcher, blob, first)))
    }

    /// Every hot pack has stretches of its own, apart from those of packs.
    fn stretch(&self, frame: u32) -> u64 {
        (1 << 63) + self.frames[frame as usize].offset / STRETCH_BYTES
    }

    fn route(&self, fetcher: &Fetcher, blob: &Blob, frame: u32) -> Vec<Peer> {
        fetcher.peers.route(&blob.key, self.stretch(frame))
    }

    fn is_present(&self, frame: usize, blob: &Blob) -> bool {
        self.runs[self.frames[frame].runs.clone()]
            .iter()
            .all(|(page, pages)| blob.presence.has_range(page * PAGE, pages * PAGE))
    }

    fn fetch(&self, fetcher: &Fetcher, blob: &Arc<Blob>, range: std::ops::Range<usize>, peers: &[Peer]) {
        let mut left: Vec<usize> = Vec::with_capacity(range.len());
        for number in range {
            match self.is_present(number, blob) {
                true => self.finish(number as u32, fetcher, blob),
                false => left.push(number),
            }
        }
        for peer in peers {
            if left.is_empty() {
                return;
            }
            left = self.fetch_from_peer(fetcher, blob, peer, left);
        }
        for neighbours in left.chunk_by(|a, b| a + 1 == *b) {
            self.fetch_from_bucket(fetcher, blob, neighbours[0]..neighbours[neighbours.len() - 1] + 1);
        }
    }

    /// Returns what the peer did not bring.
    fn fetch_from_peer(&self, fetcher: &Fetcher, blob: &Arc<Blob>, peer: &Peer, frames: Vec<usize>) -> Vec<usize> {
        let parts: Vec<Part> = frames.iter().map(|number| self.part(*number)).collect();
        let mut missing = Vec::new();
        for (number, raw) in frames.into_iter().zip(fetcher.peers.read(peer, &blob.key, &parts, PEER_PATIENCE)) {
            let stored = raw.is_some_and(|raw| {
                blob.count_from_peers(raw.len() as u64);
                self.place(blob, &self.frames[number], &raw).is_ok()
            });
            match stored {
                true => self.finish(number as u32, fetcher, blob),
                false => missing.push(number),
            }
        }
        missing
    }

    fn part(&self, number: usize) -> Part {
        let frame = &self.frames[number];
        Part {
            runs: self.runs[frame.runs.clone()].to_vec(),
            raw_length: frame.raw_length as usize,
            sha256: frame.sha256,
        }
    }

    fn fetch_from_bucket(&self, fetcher: &Fetcher, blob: &Arc<Blob>, range: std::ops::Range<usize>) {
        let start = self.frames[range.start].offset;
        let last = &self.frames[range.end - 1];
        let length = (last.offset + u64::from(last.wire_length) - start) as usize;
        let read = blob.source().read(&self.key, start, length);
        if let Ok(bytes) = &read {
            blob.count_fetched(bytes.len() as u64);
        }
        for number in range {
            let frame = &self.frames[number];
            if let Ok(bytes) = &read {
                let at = (frame.offset - start) as usize;
                if let Err(why) = self.store(blob, frame, &bytes[at..at + frame.wire_length as usize]) {
                    say!("imagefs: hot pack {}: {why}", self.key);
                }
            }
            self.finish(number as u32, fetcher, blob);
        }
    }

    fn store(&self, blob: &Blob, frame: &Frame, wire: &[u8]) -> Result<(), String> {
        let raw = if frame.compressed {
            zstd::bulk::decompress(wire, frame.raw_length as usize).map_err(|e| e.to_string())?
        } else {
            wire.to_vec()
        };
        if raw.len() != frame.raw_length as usize || Sha256::digest(&raw).as_slice() != frame.sha256 {
            return Err("a frame has another checksum".into());
        }
        self.place(blob, frame, &raw)
    }

    /// Writes a frame's verified bytes to their places.
    fn place(&self, blob: &Blob, frame: &Frame, raw: &[u8]) -> Result<(), String> {
        let mut at = 0;
        for (page, pages) in &self.runs[frame.runs.clone()] {
            let length = (pages * PAGE) as usize;
            if !blob.presence.has_range(page * PAGE, pages * PAGE) {
                blob.store(page * PAGE, &raw[at..at + length]).map_err(|e| e.to_string())?;
            }
            at += length;
        }
        Ok(())
    }
}

fn go_on(ready: Vec<(u32, Waiting)>, fetcher: &Fetcher, blob: &Arc<Blob>) {
    for (_, Waiting { offset, length, wait, .. }) in ready {
        fetcher.demand(blob, offset, length, &wait);
    }
}

/// Reads the pack's tables, which are sent to the receiver, then its frames, in threads of its own. `done` is called when nothing
/// more will come.
pub fn start(
    fetcher: Arc<Fetcher>,
    blob: Arc<Blob>,
    key: String,
    done: impl FnOnce() + Send + 'static,
) -> Receiver<Arc<Hot>> {
    let (tables, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let first_bytes = if fetcher.peers.has(&blob.key) { FIRST_BYTES_SHARED } else { FIRST_BYTES };
        let opened = open(&blob, key.clone(), first_bytes);
        let came = opened.is_ok();
        match opened {
            Ok((hot, first)) => {
                let hot = Arc::new(hot);
                // Nobody may be waiting for it.
                let _ = tables.send(hot.clone());
                run(&fetcher, &blob, hot, &first);
            }
            // No start was learnt from yet.
            Err(FetchError::Missing(_)) => drop(tables),
            Err(error) => {
                drop(tables);
                say!("imagefs: no hot pack for {}: {error}", blob.key);
            }
        }
        blob.end_hot(&key, came);
        done();
    });
    receiver
}

fn open(blob: &Blob, key: String, first_bytes: usize) -> Result<(Hot, Vec<u8>), FetchError> {
    let source = blob.source();
    let (mut bytes, size) = source.read_first(&key, first_bytes)?;
    let needed = table_end(&bytes).map_err(FetchError::Permanent)?;
    if needed > bytes.len() {
        let rest = source.read(&key, bytes.len() as u64, needed - bytes.len())?;
        bytes.extend_from_slice(&rest);
    }
    let hot =
        parse(key, &bytes, size, &blob.image.image_id, blob.image.data_size / PAGE).map_err(FetchError::Permanent)?;
    Ok((hot, bytes))
}

fn run(fetcher: &Arc<Fetcher>, blob: &Arc<Blob>, hot: Arc<Hot>, first: &[u8]) {
    blob.set_hot(Some(hot.clone()));
    // Frames that came with the tables.
    blob.count_fetched(first.len() as u64);
    for (number, frame) in hot.frames.iter().enumerate() {
        let end = frame.offset + u64::from(frame.wire_length);
        if end > first.len() as u64 {
            break;
        }
        hot.state.lock().unwrap().left.remove(&(number as u32));
        if let Err(why) = hot.store(blob, frame, &first[frame.offset as usize..end as usize]) {
            say!("imagefs: hot pack {}: {why}", hot.key);
        }
        hot.finish(number as u32, fetcher, blob);
    }
    let mut threads = Vec::new();
    for connection in 0..CONNECTIONS {
        let (fetcher, blob, hot) = (fetcher.clone(), blob.clone(), hot.clone());
        threads.push(std::thread::spawn(move || {
            while let Some((range, peers)) = hot.take(&fetcher, &blob, connection % 2 == 0) {
                hot.fetch(&fetcher, &blob, range, &peers);
            }
        }));
    }
    while hot.release_impatient(fetcher, blob) {
        std::thread::sleep(Duration::from_millis(50));
    }
    for thread in threads {
        let _ = thread.join();
    }
    blob.set_hot(None);
}

fn table_end(bytes: &[u8]) -> Result<usize, String> {
    if bytes.len() < HEADER_BYTES || &bytes[..8] != b"PLHOTPK\0" {
        return Err("it does not begin as one".into());
    }
    if u32_at(bytes, 8) != VERSION {
        return Err(format!("version {} is unknown", u32_at(bytes, 8)));
    }
    let tables = u32_at(bytes, 12) as usize * FRAME_BYTES + u32_at(bytes, 16) as usize * RUN_BYTES;
    if tables > TABLE_BYTES_MAX {
        return Err("its tables are too large".into());
    }
    Ok(HEADER_BYTES + tables)
}

/// `size`: of the pack; `image_id` and `pages` (of its data blob): of the image that is to have it.
fn parse(key: String, bytes: &[u8], size: u64, image_id: &str, pages: u64) -> Result<Hot, String> {
    let end = table_end(bytes)?;
    if bytes.len() < end {
        return Err("it is shorter than it says".into());
    }
    let (frame_count, run_count) = (u32_at(bytes, 12) as usize, u32_at(bytes, 16) as usize);
    let hash = Sha256::new().chain_update(&bytes[..32]).chain_update(&bytes[HEADER_BYTES..end]).finalize();
    if hash.as_slice() != &bytes[32..64] {
        return Err("its tables have another checksum".into());
    }
    if crate::image::hex(&bytes[20..32]) != image_id[..24] {
        return Err("it belongs to another image".into());
    }
    let runs_at = HEADER_BYTES + frame_count * FRAME_BYTES;
    let runs: Vec<(u64, u64)> = (0..run_count)
        .map(|i| (u64_at(bytes, runs_at + i * RUN_BYTES), u64::from(u32_at(bytes, runs_at + i * RUN_BYTES + 8))))
        .collect();
    if runs.iter().any(|(page, count)| *count == 0 || page.checked_add(*count).is_none_or(|end| end > pages)) {
        return Err("a run lies outside the blob".into());
    }
    let mut frames = Vec::with_capacity(frame_count);
    for i in 0..frame_count {
        let at = HEADER_BYTES + i * FRAME_BYTES;
        let first = u32_at(bytes, at + 48) as usize;
        let frame = Frame {
            sha256: bytes[at..at + 32].try_into().unwrap(),
            offset: u64_at(bytes, at + 32),
            raw_length: u32_at(bytes, at + 40),
            wire_length: u32_at(bytes, at + 44),
            compressed: bytes[at + 56] == 1,
            runs: first..first.saturating_add(u32_at(bytes, at + 52) as usize),
        };
        let inside = frame.runs.end <= runs.len()
            && frame.offset.checked_add(u64::from(frame.wire_length)).is_some_and(|end| end <= size);
        if !inside || frame.raw_length > FRAME_RAW_BYTES_MAX || frame.wire_length == 0 {
            return Err("a frame lies outside the pack".into());
        }
        let raw: u128 = runs[frame.runs.clone()].iter().map(|(_, count)| u128::from(count * PAGE)).sum();
        if raw != u128::from(frame.raw_length) || (!frame.compressed && frame.raw_length != frame.wire_length) {
            return Err("a frame's length is not that of its runs".into());
        }
        frames.push(frame);
    }
    let mut by_page: Vec<(u64, u64, u32)> = frames
        .iter()
        .enumerate()
        .flat_map(|(n, f)| runs[f.runs.clone()].iter().map(move |(page, count)| (*page, *count, n as u32)))
        .collect();
    by_page.sort_unstable();
    let all = 0..frames.len() as u32;
    let state = State { pending: all.clone().collect(), waiting: Vec::new(), left: all.collect() };
    Ok(Hot { key, frames, runs, by_page, state: Mutex::new(state) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;

    const IMAGE_ID: &str = "0707070707070707070707070707070707070707070707070707070707070707";
    const PAGES: u64 = 1_000;

    /// Two frames, of two runs and of one.
    fn valid_pack() -> Vec<u8> {
        let runs: [(u64, u32); 3] = [(5, 2), (100, 1), (900, 3)];
        let frames: [(u64, u32, u32, u32, u32, u8); 2] =
            [(1_000, 12_288, 700, 0, 2, 1), (1_700, 12_288, 12_288, 2, 1, 0)];
        let mut bytes = b"PLHOTPK\0".to_vec();
        bytes.extend([VERSION, frames.len() as u32, runs.len() as u32].map(u32::to_le_bytes).concat());
        bytes.extend([7; 12]);
        bytes.resize(HEADER_BYTES, 0);
        for (offset, raw, wire, first, count, compressed) in frames {
            bytes.extend([3; 32]);
            bytes.extend(offset.to_le_bytes());
            bytes.extend([raw, wire, first, count].map(u32::to_le_bytes).concat());
            bytes.extend([compressed, 0, 0, 0, 0, 0, 0, 0]);
        }
        for (page, count) in runs {
            bytes.extend(page.to_le_bytes());
            bytes.extend([count, 0].map(u32::to_le_bytes).concat());
        }
        seal(&mut bytes);
        bytes
    }

    /// Makes the checksum of the tables fit.
    fn seal(bytes: &mut [u8]) {
        if let Ok(end) = table_end(bytes)
            && end <= bytes.len()
        {
            let hash = Sha256::new().chain_update(&bytes[..32]).chain_update(&bytes[HEADER_BYTES..end]).finalize();
            bytes[32..64].copy_from_slice(&hash);
        }
    }

    #[test]
    fn a_pack_is_read() {
        let hot = parse("key".into(), &valid_pack(), 20_000, IMAGE_ID, PAGES).unwrap();
        assert_eq!((hot.frames.len(), hot.runs.len()), (2, 3));
        assert!(parse("key".into(), &valid_pack(), 20_000, &IMAGE_ID.replace('7', "8"), PAGES).is_err());
    }

    #[test]
    fn a_damaged_pack_is_refused_or_lies_inside_its_bounds() {
        const SIZE: u64 = 20_000;
        fuzz::with_damage(20_000, &valid_pack(), seal, |bytes| {
            if let Ok(hot) = parse("key".into(), bytes, SIZE, IMAGE_ID, PAGES) {
                for frame in &hot.frames {
                    assert!(frame.offset + u64::from(frame.wire_length) <= SIZE);
                    let pages: u64 = hot.runs[frame.runs.clone()].iter().map(|(_, count)| count).sum();
                    assert_eq!(pages * PAGE, u64::from(frame.raw_length));
                }
                assert!(hot.runs.iter().all(|(page, count)| page + count <= PAGES));
            }
        });
    }
}
