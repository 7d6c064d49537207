//! The door for the parent: JSON lines over a unix socket. A request has an id and an op; the answer has the same id and
//! either `ok` or `error`. Lines without an id are events: the parent is asked for the location of a pack.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::fetch::Priority;
use crate::keeper::EXIT_STOPPED;
use crate::node::{Failure, MountRequest, Node, Peering, Result};
use crate::source::Location;

#[derive(Deserialize)]
struct Envelope {
    id: u64,
    #[serde(flatten)]
    request: Request,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Request {
    Hello,
    Mount(MountRequest),
    Unmount {
        target: PathBuf,
    },
    Locations {
        key: String,
        locations: HashMap<String, Option<Location>>,
    },
    Peers(Peering),
    Touched {
        key: String,
    },
    Fill {
        key: String,
    },
    Export {
        key: String,
        runs: Vec<(u64, u64)>,
        path: PathBuf,
    },
    Stats,
    /// Unmounts everything and ends handler and keeper.
    Stop,
}

/// The same pack is asked for once in this time.
const LOCATE_INTERVAL: Duration = Duration::from_millis(500);

type Line = Mutex<UnixStream>;

/// The connected parents, for events.
#[derive(Default)]
pub struct Clients {
    lines: Mutex<Vec<Weak<Line>>>,
    asked: Mutex<HashMap<String, Instant>>,
}

impl Clients {
    /// Asks the parents where a pack is to be read from.
    pub fn locate(&self, key: &str, pack: &str) {
        let mut asked = self.asked.lock().unwrap();
        asked.retain(|_, at| at.elapsed() < LOCATE_INTERVAL);
        if asked.contains_key(pack) {
            return;
        }
        asked.insert(pack.to_string(), Instant::now());
        drop(asked);
        let event = json!({ "event": "locate", "key": key, "pack": pack });
        self.lines.lock().unwrap().retain(|line| line.upgrade().is_some_and(|line| send(&line, &event).is_ok()));
    }
}

/// Accepts parents until the process ends.
pub fn serve(listener: OwnedFd, node: Arc<Node>, clients: Arc<Clients>) {
    for stream in UnixListener::from(listener).incoming().flatten() {
        let (node, clients) = (node.clone(), clients.clone());
        std::thread::spawn(move || attend(stream, &node, &clients));
    }
}

fn attend(stream: UnixStream, node: &Arc<Node>, clients: &Clients) {
    let Ok(writer) = stream.try_clone() else {
        return;
    };
    let line: Arc<Line> = Arc::new(Mutex::new(writer));
    clients.lines.lock().unwrap().push(Arc::downgrade(&line));
    for text in BufReader::new(stream).lines() {
        let Ok(text) = text else { return };
        let answer = match serde_json::from_str::<Envelope>(&text) {
            Ok(Envelope { id, request }) => {
                let stop = matches!(request, Request::Stop);
                let answer = match handle(node, request) {
                    Ok(value) => json!({ "id": id, "ok": value }),
                    Err(failure) => json!({ "id": id, "error": failure }),
                };
                if stop {
                    let _ = send(&line, &answer);
                    node.keeper.stopped();
                    std::process::exit(EXIT_STOPPED);
                }
                answer
            }
            Err(error) => {
                json!({ "id": null, "error": Failure::new("invalidArgument", format!("malformed request: {error}")) })
            }
        };
        if send(&line, &answer).is_err() {
            return;
        }
    }
}

fn handle(node: &Arc<Node>, request: Request) -> Result<Value> {
    match request {
        Request::Hello => Ok(json!({ "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION") })),
        Request::Mount(request) => node.mount(&request).map(|()| json!({})),
        Request::Unmount { target } => node.unmount(&target).map(|()| json!({})),
        Request::Locations { key, locations } => {
            node.add_locations(&key, locations);
            Ok(json!({}))
        }
        Request::Peers(peering) => {
            let address = node.set_peers(peering)?;
            Ok(json!({ "port": address.port(), "holdings": node.holdings() }))
        }
        Request::Touched { key } => Ok(json!({ "runs": node.touched(&key)? })),
        Request::Fill { key } => node.fill(&key).map(|()| json!({})),
        Request::Export { key, runs, path } => node.export(&key, &runs, &path).map(|()| json!({})),
        Request::Stats => Ok(stats(node)),
        Request::Stop => {
            node.shut_down();
            Ok(json!({}))
        }
    }
}

fn stats(node: &Node) -> Value {
    use std::sync::atomic::{AtomicU64, Ordering};
    let counters = &node.fetcher.counters;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (peers, door) = (&node.fetcher.peers.counters, node.door.lock().unwrap().clone());
    json!({
        "images": node.stats(),
        "peers": {
            "asked": read(&peers.asked),
            "refused": read(&peers.refused),
            "wrong": read(&peers.wrong),
            "uploadedBytes": door.as_ref().map_or(0, |door| read(&door.uploaded_bytes)),
            "turnedAway": door.as_ref().map_or(0, |door| read(&door.refused)),
        },
        "requests": read(&counters.requests),
        "hedges": read(&counters.hedges),
        "retries": read(&counters.retries),
        "corrupt": read(&counters.corrupt),
        "copiedBytes": read(&counters.copied_bytes),
        "requestMicros": read(&counters.request_micros),
        "queued": {
            "demand": node.fetcher.queued(Priority::Demand),
            "prefetch": node.fetcher.queued(Priority::Prefetch),
            "background": node.fetcher.queued(Priority::Background),
        },
    })
}

fn send(line: &Line, value: &Value) -> std::io::Result<()> {
    let mut text = value.to_string();
    text.push('\n');
    line.lock().unwrap().write_all(text.as_bytes())
}
