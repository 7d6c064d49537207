//! Brings chunks: one queue with three priorities over all images, a fixed set of workers, one flight per chunk however
//! many readers wait for it.
//!   F1. Bytes reach a blob only after their checksum was verified; what cannot be had ends as an error for its readers.
//!   F2. A chunk is in flight once: a reader that needs it joins the flight, a demand lifts a prefetch to its own urgency.
//!   F3. A reader waits `demand_deadline` at most. The flight may go on after it and serve the next read.
//!   F4. Demand always finds a worker: prefetch and background may only hold their share of them.
//!   F5. Other nodes are asked at the first attempt only; retries and hedges go to the bucket.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::blob::Blob;
use crate::image::{Chunk, Encoding, ImageError, PAGE, decode};
use crate::peers::{Part, Peers, REQUEST_RAW_BYTES_MAX, STRETCH_BYTES};
use crate::source::FetchError;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Priority {
    Demand = 0,
    Prefetch = 1,
    Background = 2,
}

pub struct Config {
    pub workers: usize,
    pub prefetch_workers_max: usize,
    pub background_workers_max: usize,
    /// A reader gets EIO after this.
    pub demand_deadline: Duration,
    /// Another request is sent when the last has not answered for this long, or for four times the usual, if longer; twice
    /// as long for each that is under way.
    pub hedge_after_min: Duration,
    /// Requests for one chunk under way at once.
    pub requests_per_chunk_max: u32,
    /// Failed attempts before a flight without readers is given up.
    pub attempts_max: u32,
    /// Neighbouring chunks are fetched by one request up to this size, where nobody waits.
    pub batch_bytes_max: u64,
    /// How much longer a request to another node may take before it is hedged.
    pub peer_patience: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            workers: 20,
            prefetch_workers_max: 8,
            background_workers_max: 2,
            demand_deadline: Duration::from_secs(30),
            hedge_after_min: Duration::from_millis(150),
            requests_per_chunk_max: 6,
            attempts_max: 5,
            batch_bytes_max: 4 << 20,
            peer_patience: 4,
        }
    }
}

/// A read that waits for one or several chunks; `done` is called once, with whether all of them came.
pub struct ReadWait {
    remaining: AtomicUsize,
    failed: AtomicBool,
    done: Box<dyn Fn(bool) + Send + Sync>,
}

impl ReadWait {
    /// Done after `parts` settlements.
    pub fn new(parts: usize, done: impl Fn(bool) + Send + Sync + 'static) -> Arc<ReadWait> {
        Arc::new(ReadWait { remaining: AtomicUsize::new(parts), failed: AtomicBool::new(false), done: Box::new(done) })
    }

    /// One part became `more` parts more.
    fn expect(&self, more: usize) {
        self.remaining.fetch_add(more, Ordering::AcqRel);
    }

    pub fn settle(&self, ok: bool) {
        if !ok {
            self.failed.store(true, Ordering::Release);
        }
        if self.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            (self.done)(!self.failed.load(Ordering::Acquire));
        }
    }
}

/// Read ahead blindly when a request takes longer than this: 20 ms of round trip halve the time of a start without a
/// profile at 1.8 times the bytes; on a fast link they only cost.
const READ_AHEAD_FROM_MICROS: u64 = 6_000;
const READ_AHEAD_CHUNKS: usize = 8;
/// Requests to other nodes at once, of a node: fewer than workers, so that nodes that wait for each other get on.
const PEER_REQUESTS_MAX: usize = 12;

type FlightKey = (usize, u32);

struct Flight {
    blob: Arc<Blob>,
    chunk: u32,
    priority: Priority,
    waits: Vec<(Arc<ReadWait>, Instant)>,
    /// Requests under way, and when the last of them began.
    running: u32,
    last_request: Instant,
    attempts: u32,
    /// One more request is queued although some are under way.
    hedge_queued: bool,
    /// Wrong bytes are asked for once more only.
    corrupt: bool,
    /// The request under way may ask other nodes.
    asks_peers: bool,
}

#[derive(Default)]
struct Queues {
    flights: HashMap<FlightKey, Flight>,
    queue: [VecDeque<FlightKey>; 3],
    /// Flights that wait before their next attempt.
    delayed: Vec<(Instant, FlightKey)>,
    busy: [usize; 3],
    stopped: bool,
}

#[derive(Default)]
pub struct Counters {
    pub requests: AtomicU64,
    pub hedges: AtomicU64,
    pub retries: AtomicU64,
    pub corrupt: AtomicU64,
    pub copied_bytes: AtomicU64,
    /// Moving average of a request's time, in µs.
    pub request_micros: AtomicU64,
}

/// Chunks by hash, each with the blobs that have it and its number there.
type Owners = HashMap<[u8; 32], Vec<(Weak<Blob>, u32)>>;
/// Told of a blob and the pack that it needs.
type AskForLocation = Box<dyn Fn(&Blob, &str) + Send + Sync>;

/// Chunks that one request brings: neighbours in one pack.
struct Batch {
    chunks: Vec<(Arc<Blob>, u32)>,
    priority: Priority,
    hedge: bool,
    /// F5.
    asks_peers: bool,
}

pub struct Fetcher {
    config: Config,
    queues: Mutex<Queues>,
    wake: Condvar,
    pub counters: Counters,
    pub peers: Peers,
    /// Chunks by hash over all blobs of the node, so that what one image has is not fetched for another.
    local: Mutex<Owners>,
    /// Told when a pack has no usable location.
    need_location: AskForLocation,
    log: Box<dyn Fn(&str) + Send + Sync>,
}

impl Fetcher {
    pub fn start(
        config: Config,
        need_location: impl Fn(&Blob, &str) + Send + Sync + 'static,
        log: impl Fn(&str) + Send + Sync + 'static,
    ) -> Arc<Fetcher> {
        let fetcher = Arc::new(Fetcher {
            config,
            queues: Mutex::default(),
            wake: Condvar::new(),
            counters: Counters::default(),
            peers: Peers::new(PEER_REQUESTS_MAX),
            local: Mutex::default(),
            need_location: Box::new(need_location),
            log: Box::new(log),
        });
        for i in 0..fetcher.config.workers {
            let fetcher = fetcher.clone();
            std::thread::Builder::new().name(format!("fetch-{i}")).spawn(move || fetcher.work()).expect("a thread");
        }
        let watch = fetcher.clone();
        std::thread::Builder::new().name("fetch-watch".into()).spawn(move || watch.watch()).expect("a thread");
        fetcher
    }

    /// Makes a blob's chunks available to other images on this node.
    pub fn share(&self, blob: &Arc<Blob>) {
        let mut local = self.local.lock().unwrap();
        for (i, chunk) in blob.image.data.iter().enumerate() {
            if chunk.encoding != Encoding::Zeros {
                let owners = local.entry(chunk.sha256).or_default();
                owners.retain(|(owner, _)| owner.strong_count() > 0);
                owners.push((Arc::downgrade(blob), i as u32));
            }
        }
    }

    /// Forgets what no blob has any more.
    pub fn unshare_gone(&self) {
        self.local.lock().unwrap().retain(|_, owners| {
            owners.retain(|(owner, _)| owner.strong_count() > 0);
            !owners.is_empty()
        });
    }

    /// Asks for everything missing in a range. `done` is called at once if nothing is, or later from another thread.
    pub fn read(&self, blob: &Arc<Blob>, offset: u64, length: u64, done: impl Fn(bool) + Send + Sync + 'static) {
        if blob.presence.has_range(offset, length) {
            done(true);
            return;
        }
        let wait = ReadWait::new(1, done);
        self.demand(blob, offset, length, &wait);
    }

    /// Settles `wait` once when the range is there: by a frame of the hot pack that is coming anyway, or by its chunks.
    pub fn demand(&self, blob: &Arc<Blob>, offset: u64, length: u64, wait: &Arc<ReadWait>) {
        let joined = blob.hot().is_some_and(|hot| hot.join(blob, offset, length, wait));
        if !joined {
            self.demand_chunks(blob, offset, length, wait);
        }
    }

    pub fn demand_chunks(&self, blob: &Arc<Blob>, offset: u64, length: u64, wait: &Arc<ReadWait>) {
        let chunks = missing_chunks(blob, offset, length);
        let Some((last, others)) = chunks.split_last() else {
            return wait.settle(true);
        };
        wait.expect(others.len());
        for chunk in &chunks {
            self.request(blob, *chunk, Priority::Demand, Some(wait.clone()));
        }
        self.read_ahead(blob, *last);
    }

    /// Where each request costs a round trip that counts, the chunks that follow are asked for as well.
    fn read_ahead(&self, blob: &Arc<Blob>, after: u32) {
        if self.counters.request_micros.load(Ordering::Relaxed) < READ_AHEAD_FROM_MICROS || blob.hot().is_some() {
            return;
        }
        let end = blob.image.data.len().min(after as usize + 1 + READ_AHEAD_CHUNKS);
        for chunk in after as usize + 1..end {
            self.request(blob, chunk as u32, Priority::Prefetch, None);
        }
    }

    /// Queues a chunk, unless it is there.
    pub fn request(&self, blob: &Arc<Blob>, chunk: u32, priority: Priority, wait: Option<Arc<ReadWait>>) {
        let meta = &blob.image.data[chunk as usize];
        let key = flight_key(blob, chunk);
        let mut queues = self.queues.lock().unwrap();
        // Looked at under the lock: a flight marks its pages before it is removed.
        if blob.presence.has_range(meta.offset, u64::from(meta.raw_length)) {
            drop(queues);
            if let Some(wait) = wait {
                wait.settle(true);
            }
            return;
        }
        let waits = wait.map(|w| (w, Instant::now())).into_iter();
        match queues.flights.get_mut(&key) {
            Some(flight) => {
                flight.waits.extend(waits);
                if priority < flight.priority {
                    flight.priority = priority;
                    queues.queue[priority as usize].push_back(key);
                    self.wake.notify_one();
                }
            }
            None => {
                let flight = Flight {
                    blob: blob.clone(),
                    chunk,
                    priority,
                    waits: waits.collect(),
                    running: 0,
                    last_request: Instant::now(),
                    attempts: 0,
                    hedge_queued: false,
                    corrupt: false,
                    asks_peers: false,
                };
                queues.flights.insert(key, flight);
                queues.queue[priority as usize].push_back(key);
                self.wake.notify_one();
            }
        }
    }

    /// Something changed for a blob: what waits for its next attempt need not wait any longer.
    pub fn retry_now(&self, blob: &Arc<Blob>) {
        let mut queues = self.queues.lock().unwrap();
        for (at, (owner, _)) in &mut queues.delayed {
            if *owner == Arc::as_ptr(blob) as usize {
                *at = Instant::now();
            }
        }
    }

    /// Drops what is queued for a blob and nobody waits for.
    pub fn forget(&self, blob: &Arc<Blob>) {
        let mut queues = self.queues.lock().unwrap();
        queues.flights.retain(|_, f| !Arc::ptr_eq(&f.blob, blob) || f.running > 0 || !f.waits.is_empty());
    }

    pub fn queued(&self, priority: Priority) -> usize {
        self.queues.lock().unwrap().queue[priority as usize].len()
    }

    fn work(&self) {
        while let Some(batch) = self.next_batch() {
            self.fetch(&batch);
            self.queues.lock().unwrap().busy[batch.priority as usize] -= 1;
            self.wake.notify_one();
        }
    }

    /// Waits for work: the most urgent chunk, and where nobody waits for it the queued ones that follow it in its pack.
    fn next_batch(&self) -> Option<Batch> {
        let mut queues = self.queues.lock().unwrap();
        loop {
            if queues.stopped {
                return None;
            }
            for priority in [Priority::Demand, Priority::Prefetch, Priority::Background] {
                let share = match priority {
                    Priority::Demand => usize::MAX,
                    Priority::Prefetch => self.config.prefetch_workers_max,
                    Priority::Background => self.config.background_workers_max,
                };
                if queues.busy[priority as usize] >= share {
                    continue;
                }
                while let Some(key) = queues.queue[priority as usize].pop_front() {
                    let Some((first, hedge, asks_peers)) = start(&mut queues, key, priority) else {
                        continue;
                    };
                    let mut chunks = vec![first];
                    if priority != Priority::Demand {
                        self.extend(&mut queues, &mut chunks, priority);
                    }
                    queues.busy[priority as usize] += 1;
                    return Some(Batch { chunks, priority, hedge, asks_peers });
                }
            }
            queues = self.wake.wait(queues).unwrap();
        }
    }

    fn extend(&self, queues: &mut Queues, batch: &mut Vec<(Arc<Blob>, u32)>, priority: Priority) {
        let mut bytes = u64::from(batch[0].0.image.data[batch[0].1 as usize].wire_length);
        let shared = self.peers.has(&batch[0].0.key);
        while let Some(&key) = queues.queue[priority as usize].front() {
            let (blob, last) = batch.last().unwrap();
            let follows = queues.flights.get(&key).is_some_and(|f| {
                let (a, b) = (&blob.image.data[*last as usize], &blob.image.data[f.chunk as usize]);
                Arc::ptr_eq(&f.blob, blob)
                    && f.running == 0
                    && a.encoding != Encoding::Zeros
                    && b.encoding != Encoding::Zeros
                    && a.pack == b.pack
                    && a.pack_offset + u64::from(a.wire_length) == b.pack_offset
                    && bytes + u64::from(b.wire_length) <= self.config.batch_bytes_max
                    // One owner for the whole batch.
                    && !(shared && stretch_of(a) != stretch_of(b))
            });
            if !follows {
                return;
            }
            queues.queue[priority as usize].pop_front();
            let Some((next, ..)) = start(queues, key, priority) else {
                return;
            };
            bytes += u64::from(next.0.image.data[next.1 as usize].wire_length);
            batch.push(next);
        }
    }

    fn fetch(&self, batch: &Batch) {
        let (blob, first) = &batch.chunks[0];
        let chunk = &blob.image.data[*first as usize];
        if batch.chunks.len() == 1 {
            if chunk.encoding == Encoding::Zeros {
                blob.store_zeros(chunk.offset, u64::from(chunk.raw_length));
                return self.settle(blob, *first, Ok(()));
            }
            if let Some(raw) = self.copy_local(blob, chunk) {
                return self.settle(blob, *first, store(blob, chunk, &raw));
            }
        }
        let numbers: Vec<u32> = batch.chunks.iter().map(|(_, number)| *number).collect();
        let left = if batch.asks_peers { self.fetch_from_peers(blob, numbers) } else { numbers };
        let follows = |a: &u32, b: &u32| {
            let (a, b) = (&blob.image.data[*a as usize], &blob.image.data[*b as usize]);
            a.pack_offset + u64::from(a.wire_length) == b.pack_offset
        };
        for neighbours in left.chunk_by(follows) {
            self.fetch_from_bucket(blob, neighbours, batch.hedge);
        }
    }

    /// Returns what the other nodes did not bring.
    fn fetch_from_peers(&self, blob: &Arc<Blob>, numbers: Vec<u32>) -> Vec<u32> {
        let mut left = numbers;
        for peer in self.peers.route(&blob.key, stretch_of(&blob.image.data[left[0] as usize])) {
            let parts: Vec<Part> = left.iter().map(|number| part_of(&blob.image.data[*number as usize])).collect();
            let mut came = Vec::with_capacity(parts.len());
            let mut rest = &parts[..];
            while !rest.is_empty() {
                let mut bytes = 0;
                let fitting = rest.iter().take_while(|part| {
                    bytes += part.raw_length as u64;
                    bytes <= REQUEST_RAW_BYTES_MAX
                });
                let (now, later) = rest.split_at(fitting.count().max(1));
                came.extend(self.peers.read(&peer, &blob.key, now, Duration::ZERO));
                rest = later;
            }
            let mut missing = Vec::new();
            for (number, raw) in left.iter().zip(came) {
                match raw {
                    Some(raw) => {
                        blob.count_from_peers(raw.len() as u64);
                        self.settle(blob, *number, store(blob, &blob.image.data[*number as usize], &raw));
                    }
                    None => missing.push(*number),
                }
            }
            left = missing;
            if left.is_empty() {
                break;
            }
        }
        left
    }

    fn fetch_from_bucket(&self, blob: &Arc<Blob>, numbers: &[u32], hedge: bool) {
        let chunks: Vec<&Chunk> = numbers.iter().map(|number| &blob.image.data[*number as usize]).collect();
        let pack = format!("packs/{}", blob.image.packs[chunks[0].pack as usize]);
        let length: usize = chunks.iter().map(|c| c.wire_length as usize).sum();
        if hedge {
            self.counters.hedges.fetch_add(1, Ordering::Relaxed);
        }
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let read = blob.source().read(&pack, chunks[0].pack_offset, length);
        match read {
            Ok(wire) => {
                self.note_request_time(began.elapsed());
                blob.count_fetched(length as u64);
                let mut at = 0;
                for (number, chunk) in numbers.iter().zip(&chunks) {
                    let bytes = &wire[at..at + chunk.wire_length as usize];
                    at += chunk.wire_length as usize;
                    self.settle(blob, *number, self.store_verified(blob, chunk, bytes));
                }
            }
            Err(error) => {
                if let FetchError::NoLocation(_) = error {
                    (self.need_location)(blob, &pack);
                }
                for number in numbers {
                    self.settle(blob, *number, Err(error.clone()));
                }
            }
        }
    }

    fn store_verified(&self, blob: &Blob, chunk: &Chunk, wire: &[u8]) -> Result<(), FetchError> {
        let raw = decode(chunk, wire).map_err(|e| {
            self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
            let (ImageError::Corrupt(why) | ImageError::Unsupported(why)) = e;
            FetchError::Permanent(format!("wrong bytes from the bucket: {why}"))
        })?;
        store(blob, chunk, &raw)
    }

    /// The chunk from another image of this node, verified like any other.
    fn copy_local(&self, blob: &Arc<Blob>, chunk: &Chunk) -> Option<Vec<u8>> {
        let owners = self.local.lock().unwrap().get(&chunk.sha256).cloned()?;
        for (owner, number) in owners {
            let Some(owner) = owner.upgrade() else {
                continue;
            };
            let theirs = &owner.image.data[number as usize];
            let itself = Arc::ptr_eq(&owner, blob) && theirs.offset == chunk.offset;
            if itself || !owner.presence.has_range(theirs.offset, u64::from(theirs.raw_length)) {
                continue;
            }
            let mut raw = vec![0; chunk.raw_length as usize];
            use std::os::unix::fs::FileExt;
            if owner.file.read_exact_at(&mut raw, theirs.offset).is_ok()
                && Sha256::digest(&raw).as_slice() == chunk.sha256
            {
                self.counters.copied_bytes.fetch_add(raw.len() as u64, Ordering::Relaxed);
                return Some(raw);
            }
        }
        None
    }

    fn note_request_time(&self, elapsed: Duration) {
        let sample = elapsed.as_micros() as u64;
        let old = self.counters.request_micros.load(Ordering::Relaxed);
        let new = if old == 0 { sample } else { (old * 7 + sample) / 8 };
        self.counters.request_micros.store(new, Ordering::Relaxed);
    }

    /// Ends one request for a chunk: the flight is over, or tries again later.
    fn settle(&self, blob: &Arc<Blob>, chunk: u32, outcome: Result<(), FetchError>) {
        let key = flight_key(blob, chunk);
        let mut queues = self.queues.lock().unwrap();
        let Some(flight) = queues.flights.get_mut(&key) else {
            return;
        };
        flight.running -= 1;
        let error = match outcome {
            Ok(()) => {
                let flight = queues.flights.remove(&key).unwrap();
                drop(queues);
                return finish(flight, true);
            }
            Err(error) => error,
        };
        if flight.running > 0 {
            return; // The hedge may still bring it.
        }
        flight.attempts += 1;
        let delay = retry_delay(&error, flight.attempts);
        let hopeless = match error {
            FetchError::Missing(_) | FetchError::Permanent(_) => std::mem::replace(&mut flight.corrupt, true),
            // Readers have their own deadline (F3).
            _ => flight.waits.is_empty() && flight.attempts >= self.config.attempts_max,
        };
        if !hopeless {
            queues.delayed.push((Instant::now() + delay, key));
            self.counters.retries.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let flight = queues.flights.remove(&key).unwrap();
        drop(queues);
        if !flight.waits.is_empty() {
            (self.log)(&format!("chunk {} of image {}: {error}", flight.chunk, flight.blob.key));
        }
        finish(flight, false);
    }

    /// Hedges slow requests, starts delayed attempts, and ends waits that are past their deadline.
    fn watch(&self) {
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = Instant::now();
            let usual = Duration::from_micros(self.counters.request_micros.load(Ordering::Relaxed));
            let hedge_after = self.config.hedge_after_min.max(usual * 4);
            let mut expired = Vec::new();
            let mut queues = self.queues.lock().unwrap();
            if queues.stopped {
                return;
            }
            let Queues { flights, queue, delayed, .. } = &mut *queues;
            delayed.retain(|(at, key)| {
                if *at > now {
                    return true;
                }
                if let Some(flight) = flights.get(key) {
                    queue[flight.priority as usize].push_back(*key);
                    self.wake.notify_one();
                }
                false
            });
            for (key, flight) in flights.iter_mut() {
                let may = flight.running > 0
                    && flight.running < self.config.requests_per_chunk_max
                    && !flight.waits.is_empty();
                let patience = if flight.asks_peers { self.config.peer_patience } else { 1 };
                let hedge_after = hedge_after * patience * 2u32.pow(flight.running.saturating_sub(1));
                if may && !flight.hedge_queued && now - flight.last_request > hedge_after {
                    flight.hedge_queued = true;
                    queue[Priority::Demand as usize].push_front(*key);
                    self.wake.notify_one();
                }
                flight.waits.retain(|(wait, since)| {
                    let late = now - *since > self.config.demand_deadline;
                    if late {
                        expired.push((wait.clone(), flight.blob.clone(), flight.chunk));
                    }
                    !late
                });
            }
            drop(queues);
            for (wait, blob, chunk) in expired {
                blob.failed_reads.fetch_add(1, Ordering::Relaxed);
                (self.log)(&format!("chunk {chunk} of image {} did not come in time", blob.key));
                wait.settle(false);
            }
        }
    }
}

fn flight_key(blob: &Arc<Blob>, chunk: u32) -> FlightKey {
    (Arc::as_ptr(blob) as usize, chunk)
}

/// Takes a queued flight for one more request, and says whether it is a hedge and whether it asks other nodes; None if it is
/// gone, or runs already and this is no hedge.
fn start(queues: &mut Queues, key: FlightKey, priority: Priority) -> Option<((Arc<Blob>, u32), bool, bool)> {
    let flight = queues.flights.get_mut(&key)?;
    // A flight that was lifted stands in two queues; the urgent one counts.
    let hedge = flight.running > 0 && flight.hedge_queued && priority == Priority::Demand;
    if (flight.running > 0 && !hedge) || flight.priority < priority {
        return None;
    }
    flight.running += 1;
    flight.hedge_queued = false;
    flight.last_request = Instant::now();
    flight.asks_peers = !hedge && flight.attempts == 0;
    Some(((flight.blob.clone(), flight.chunk), hedge, flight.asks_peers))
}

/// Which stretch of the image a chunk is part of: what other nodes know it by.
fn stretch_of(chunk: &Chunk) -> u64 {
    (u64::from(chunk.pack) << 40) + chunk.pack_offset / STRETCH_BYTES
}

fn part_of(chunk: &Chunk) -> Part {
    Part {
        runs: vec![(chunk.offset / PAGE, u64::from(chunk.raw_length) / PAGE)],
        raw_length: chunk.raw_length as usize,
        sha256: chunk.sha256,
    }
}

fn store(blob: &Blob, chunk: &Chunk, raw: &[u8]) -> Result<(), FetchError> {
    blob.store(chunk.offset, raw).map_err(|e| FetchError::Transient(format!("cache: {e}")))
}

fn finish(flight: Flight, ok: bool) {
    if !ok {
        flight.blob.failed_reads.fetch_add(flight.waits.len() as u64, Ordering::Relaxed);
    }
    for (wait, _) in flight.waits {
        wait.settle(ok);
    }
}

fn retry_delay(error: &FetchError, attempts: u32) -> Duration {
    match error {
        // The parent was asked, and `retry_now` comes with its answer.
        FetchError::NoLocation(_) => Duration::from_millis(250),
        _ => Duration::from_millis((50 << attempts.min(6)).min(2_000)),
    }
}

/// The chunks that hold missing pages of a range.
pub fn missing_chunks(blob: &Blob, offset: u64, length: u64) -> Vec<u32> {
    let end = offset.saturating_add(length).min(blob.image.data_size);
    let mut chunks = Vec::new();
    let mut at = offset;
    while at < end {
        let Some(page) = blob.presence.first_missing(at, end - at) else {
            break;
        };
        let Some(chunk) = blob.image.chunk_at(page * PAGE) else {
            break;
        };
        chunks.push(chunk as u32);
        at = blob.image.data[chunk].end();
    }
    chunks
}
