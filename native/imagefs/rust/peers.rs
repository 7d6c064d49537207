//! The other nodes of the zone as a source: who is asked for what, and the asking. Every stretch of an image belongs to one of
//! the nodes that start it, by rendezvous hashing, so all agree without talking: its owner reads it from the bucket, the others
//! read it from the owner, and the bucket is read about once however many nodes start. Views of who takes part may differ for
//! a moment; then a stretch is fetched twice, nothing else.
//!   N1. A peer is believed nothing: lengths are bounded before they are used, and bytes count only with their checksum.
//!   N2. A peer is a help only: what it does not deliver in time comes from the bucket.
//!   N3. Who answers wrongly, or not at all, is set aside for a while.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A stretch of a pack that has one owner. Long enough that asking for it costs little beside its bytes.
pub const STRETCH_BYTES: u64 = 2 << 20;
/// A request's pages, uncompressed, and what one of its parts may have at most.
pub const REQUEST_RAW_BYTES_MAX: u64 = 16 << 20;
pub const PART_RAW_BYTES_MAX: u64 = 4 << 20;
pub const PARTS_MAX: usize = 64;
/// Names the node that asks.
pub const NODE_HEADER: &str = "x-pilotlight-node";

/// How a part is sent.
pub const PART_RAW: u8 = 0;
pub const PART_ZSTD: u8 = 1;
pub const PART_ABSENT: u8 = 2;
/// Length and encoding of a part.
pub const PART_HEADER_BYTES: usize = 5;

/// The whole answer must be there within this time: what the other side waits for pages and its turn, and the bytes.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_500);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a peer that failed is not asked; twice as long for each failure after another.
const ASIDE_FOR: Duration = Duration::from_secs(2);
/// Failures after which it is not made longer.
const ASIDE_DOUBLINGS_MAX: u32 = 5;
/// How long one is not asked that sent wrong bytes.
const ASIDE_WRONG_FOR: Duration = Duration::from_secs(60);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(25);
/// Peers that are tried for a stretch before the bucket.
const TRIED_MAX: usize = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    pub node_id: String,
    /// http://HOST:PORT
    pub url: String,
    /// It has the whole image.
    pub complete: bool,
}

/// Pages that belong together under one checksum: a chunk, or a frame of a hot pack.
pub struct Part {
    /// First page and pages.
    pub runs: Vec<(u64, u64)>,
    pub raw_length: usize,
    pub sha256: [u8; 32],
}

/// What a request carries.
#[derive(Serialize, Deserialize)]
pub struct PagesRequest {
    pub parts: Vec<Vec<(u64, u64)>>,
}

#[derive(Default)]
pub struct PeerCounters {
    /// Requests to other nodes, and those that brought nothing.
    pub asked: AtomicU64,
    pub refused: AtomicU64,
    /// Parts whose bytes had another checksum.
    pub wrong: AtomicU64,
}

#[derive(Default)]
struct Identity {
    node_id: String,
    token: String,
}

/// A peer that failed.
#[derive(Clone, Copy)]
struct Aside {
    until: Instant,
    failures: u32,
}

pub struct Peers {
    identity: RwLock<Identity>,
    images: RwLock<HashMap<String, Arc<[Peer]>>>,
    aside: Mutex<HashMap<String, Aside>>,
    asking: AtomicUsize,
    /// Requests to other nodes at once: the rest goes to the bucket, so that nodes that wait for each other get on.
    asking_max: usize,
    agent: ureq::Agent,
    pub counters: PeerCounters,
}

impl Peers {
    pub fn new(asking_max: usize) -> Peers {
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .max_idle_connections(64)
            .max_idle_connections_per_host(4)
            .http_status_as_error(false)
            .max_redirects(0)
            .build();
        Peers {
            identity: RwLock::default(),
            images: RwLock::default(),
            aside: Mutex::default(),
            asking: AtomicUsize::new(0),
            asking_max,
            agent: agent.into(),
            counters: PeerCounters::default(),
        }
    }

    /// Who this node is, what the nodes of the zone share, and who has which image besides it.
    pub fn set(&self, node_id: &str, token: &str, images: HashMap<String, Vec<Peer>>) {
        *self.identity.write().unwrap() = Identity { node_id: node_id.to_string(), token: token.to_string() };
        let known = |id: &String| images.values().flatten().any(|peer| peer.node_id == *id);
        self.aside.lock().unwrap().retain(|id, aside| known(id) || aside.until > Instant::now());
        *self.images.write().unwrap() = images.into_iter().map(|(key, peers)| (key, peers.into())).collect();
    }

    /// Whether a request that carries this header comes from a node of the zone.
    pub fn is_allowed(&self, authorization: Option<&str>) -> bool {
        let identity = self.identity.read().unwrap();
        let expected = format!("Bearer {}", identity.token);
        identity.token.is_empty() || authorization.is_some_and(|given| same(given.as_bytes(), expected.as_bytes()))
    }

    /// Whether another node has this image.
    pub fn has(&self, key: &str) -> bool {
        self.images.read().unwrap().get(key).is_some_and(|peers| !peers.is_empty())
    }

    /// Which node brings this stretch of an image: peers to ask, in this order, before the bucket. Nobody: the bucket.
    pub fn route(&self, key: &str, stretch: u64) -> Vec<Peer> {
        let Some(peers) = self.images.read().unwrap().get(key).cloned() else {
            return Vec::new();
        };
        let aside = self.aside.lock().unwrap();
        let now = Instant::now();
        let is_aside = |id: &str| aside.get(id).is_some_and(|aside| aside.until > now);
        route(&self.identity.read().unwrap().node_id, &peers, is_aside, stretch)
    }

    /// Asks one peer for parts of an image. What came and has its checksum is in the answer at the part's place. A peer that has
    /// announced the image and does not know it yet is asked again within `patience`.
    pub fn read(&self, peer: &Peer, key: &str, parts: &[Part], patience: Duration) -> Vec<Option<Vec<u8>>> {
        if self.asking.fetch_add(1, Ordering::AcqRel) >= self.asking_max {
            self.asking.fetch_sub(1, Ordering::AcqRel);
            return parts.iter().map(|_| None).collect();
        }
        self.counters.asked.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let read = loop {
            match self.ask(peer, key, parts) {
                Err(AskError::NotThere) if began.elapsed() < patience => std::thread::sleep(ASK_AGAIN_AFTER),
                Err(AskError::NotThere) => break Ok(parts.iter().map(|_| None).collect()),
                Err(AskError::Failed) => break Err(()),
                Ok(came) => break Ok(came),
            }
        };
        self.asking.fetch_sub(1, Ordering::AcqRel);
        let came = read.unwrap_or_else(|()| {
            self.set_aside(peer, ASIDE_FOR);
            parts.iter().map(|_| None).collect()
        });
        if came.iter().all(Option::is_some) {
            self.aside.lock().unwrap().remove(&peer.node_id);
        }
        if came.iter().all(Option::is_none) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        came
    }

    fn ask(&self, peer: &Peer, key: &str, parts: &[Part]) -> Result<Vec<Option<Vec<u8>>>, AskError> {
        let body = PagesRequest { parts: parts.iter().map(|part| part.runs.clone()).collect() };
        let body = serde_json::to_vec(&body).map_err(|_| AskError::Failed)?;
        let mut request = self.agent.post(format!("{}/images/{key}/pages", peer.url));
        {
            let identity = self.identity.read().unwrap();
            request = request.header(NODE_HEADER, &identity.node_id);
            if !identity.token.is_empty() {
                request = request.header("authorization", format!("Bearer {}", identity.token));
            }
        }
        let mut response = request.send(&body[..]).map_err(|_| AskError::Failed)?;
        match response.status().as_u16() {
            200 => {}
            // It has not got the image yet, or no more.
            404 => return Err(AskError::NotThere),
            // It has too much to do.
            503 => return Ok(parts.iter().map(|_| None).collect()),
            _ => return Err(AskError::Failed),
        }
        let mut reader = response.body_mut().as_reader();
        let mut came = Vec::with_capacity(parts.len());
        for part in parts {
            match read_part(&mut reader, part) {
                Ok(raw) => came.push(raw),
                Err(PartError::Broken) => return Err(AskError::Failed),
                Err(PartError::Wrong) => {
                    self.counters.wrong.fetch_add(1, Ordering::Relaxed);
                    self.set_aside(peer, ASIDE_WRONG_FOR);
                    came.resize_with(parts.len(), || None);
                    return Ok(came);
                }
            }
        }
        Ok(came)
    }

    fn set_aside(&self, peer: &Peer, time: Duration) {
        let mut aside = self.aside.lock().unwrap();
        let failures = aside.get(&peer.node_id).map_or(0, |aside| aside.failures);
        let until = Instant::now() + time * 2u32.pow(failures.min(ASIDE_DOUBLINGS_MAX));
        aside.insert(peer.node_id.clone(), Aside { until, failures: failures + 1 });
    }
}

enum AskError {
    NotThere,
    Failed,
}

enum PartError {
    /// The answer ended, or does not keep to its form.
    Broken,
    /// Bytes came, and they are not what was asked for.
    Wrong,
}

fn read_part(reader: &mut impl Read, part: &Part) -> Result<Option<Vec<u8>>, PartError> {
    let mut header = [0; PART_HEADER_BYTES];
    reader.read_exact(&mut header).map_err(|_| PartError::Broken)?;
    let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
    if header[4] == PART_ABSENT && length == 0 {
        return Ok(None);
    }
    if length > part.raw_length {
        return Err(PartError::Wrong);
    }
    let mut wire = vec![0; length];
    reader.read_exact(&mut wire).map_err(|_| PartError::Broken)?;
    let raw = match header[4] {
        PART_RAW => wire,
        PART_ZSTD => zstd::bulk::decompress(&wire, part.raw_length).map_err(|_| PartError::Wrong)?,
        _ => return Err(PartError::Wrong),
    };
    match raw.len() == part.raw_length && Sha256::digest(&raw).as_slice() == part.sha256 {
        true => Ok(Some(raw)),
        false => Err(PartError::Wrong),
    }
}

/// The owner of a stretch, then somebody who has everything; the bucket is read by the owner alone, unless nobody needs it.
fn route(own: &str, peers: &[Peer], is_aside: impl Fn(&str) -> bool, stretch: u64) -> Vec<Peer> {
    let usable: Vec<&Peer> = peers.iter().filter(|peer| !is_aside(&peer.node_id)).collect();
    let owner = rendezvous(usable.iter().map(|peer| peer.node_id.as_str()).chain([own]), stretch);
    let holder = rendezvous(usable.iter().filter(|peer| peer.complete).map(|peer| peer.node_id.as_str()), stretch);
    let mut tried = Vec::with_capacity(TRIED_MAX);
    for id in [owner, holder].into_iter().flatten() {
        if let Some(peer) = usable.iter().find(|peer| peer.node_id == id)
            && !tried.contains(*peer)
        {
            tried.push((*peer).clone());
        }
    }
    tried
}

fn rendezvous<'a>(nodes: impl Iterator<Item = &'a str>, stretch: u64) -> Option<&'a str> {
    nodes.max_by_key(|node| (weight(node, stretch), *node))
}

fn weight(node: &str, stretch: u64) -> [u8; 8] {
    let hash = Sha256::new().chain_update(stretch.to_le_bytes()).chain_update(node).finalize();
    hash[..8].try_into().unwrap()
}

/// Takes as long for a wrong token as for the right one.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(ids: &[&str]) -> Vec<Peer> {
        ids.iter().map(|id| Peer { node_id: id.to_string(), url: format!("http://{id}"), complete: false }).collect()
    }

    #[test]
    fn nodes_that_know_each_other_agree_on_one_owner() {
        let mut owned = 0;
        for stretch in 0..300 {
            let from_a = route("a", &peers(&["b", "c"]), |_| false, stretch);
            let from_b = route("b", &peers(&["c", "a"]), |_| false, stretch);
            let from_c = route("c", &peers(&["a", "b"]), |_| false, stretch);
            let bucket = [&from_a, &from_b, &from_c].iter().filter(|route| route.is_empty()).count();
            assert_eq!(bucket, 1);
            owned += usize::from(from_a.is_empty());
        }
        assert!((60..140).contains(&owned), "{owned}");
    }

    #[test]
    fn whoever_has_everything_spares_the_bucket() {
        let mut others = peers(&["b"]);
        others[0].complete = true;
        for stretch in 0..20 {
            assert_eq!(route("a", &others, |_| false, stretch), others);
        }
        assert!(route("a", &others, |id| id == "b", 1).is_empty());
    }

    #[test]
    fn a_part_that_lies_is_refused_before_it_is_stored() {
        let raw = vec![7u8; 8192];
        let part = Part { runs: vec![(0, 2)], raw_length: 8192, sha256: Sha256::digest(&raw).into() };
        let answer = |encoding: u8, wire: &[u8]| {
            let mut bytes = (wire.len() as u32).to_le_bytes().to_vec();
            bytes.push(encoding);
            bytes.extend_from_slice(wire);
            bytes
        };
        let read = |bytes: Vec<u8>| read_part(&mut &bytes[..], &part);
        assert!(matches!(read(answer(PART_RAW, &raw)), Ok(Some(same)) if same == raw));
        let small = zstd::bulk::compress(&raw, 1).unwrap();
        assert!(matches!(read(answer(PART_ZSTD, &small)), Ok(Some(_))));
        assert!(matches!(read(answer(PART_ABSENT, &[])), Ok(None)));
        // Another content, a bomb, a length beyond the part, an unknown encoding, a cut answer.
        assert!(matches!(read(answer(PART_RAW, &[8u8; 8192])), Err(PartError::Wrong)));
        let bomb = zstd::bulk::compress(&vec![0u8; 64 << 20], 1).unwrap();
        assert!(matches!(read(answer(PART_ZSTD, &bomb)), Err(PartError::Wrong)));
        let mut long = u32::MAX.to_le_bytes().to_vec();
        long.push(PART_RAW);
        assert!(matches!(read(long), Err(PartError::Wrong)));
        assert!(matches!(read(answer(9, &raw)), Err(PartError::Wrong)));
        assert!(matches!(read(answer(PART_RAW, &raw)[..100].to_vec()), Err(PartError::Broken)));
    }

    #[test]
    fn only_nodes_of_the_zone_are_served() {
        let peers = Peers::new(1);
        peers.set("a", "secret", HashMap::new());
        assert!(peers.is_allowed(Some("Bearer secret")));
        for wrong in [None, Some(""), Some("Bearer secre"), Some("Bearer secres"), Some("secret")] {
            assert!(!peers.is_allowed(wrong));
        }
    }
}
