//! Where packs come from: a directory, or ranges over HTTP(S) from locations that the parent hands over (signed URLs with
//! their headers). This process knows no credentials and no store: the parent does.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug)]
pub enum FetchError {
    /// May pass: connection trouble, 5xx, 429, a short answer.
    Transient(String),
    /// The location is unknown, expired or refused: the parent has to give a new one.
    NoLocation(String),
    /// Will not pass by waiting: the bucket does not have the object.
    Missing(String),
    /// Will not pass by waiting: the object is shorter than it should be, or the bytes are wrong.
    Permanent(String),
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FetchError::Transient(m)
            | FetchError::NoLocation(m)
            | FetchError::Missing(m)
            | FetchError::Permanent(m) => f.write_str(m),
        }
    }
}

/// A URL to ask with `Range` and these headers until `expires_at`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    pub url: String,
    #[serde(default)]
    pub headers: HashMap<String, String>,
    /// Epoch ms.
    pub expires_at: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum SourceSpec {
    /// A bucket that is a directory.
    Directory { path: PathBuf },
    /// A bucket behind HTTP; locations come separately.
    Http,
}

pub struct Source {
    spec: SourceSpec,
    files: Mutex<HashMap<String, Arc<File>>>,
    locations: RwLock<HashMap<String, Location>>,
    /// Objects that the bucket does not have, by the parent's word, and since when.
    missing: RwLock<HashMap<String, Instant>>,
    agent: ureq::Agent,
}

/// An answer must begin within this time; slow ones are hedged long before.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole range, some MiB at most, must be there within this time.
const RANGE_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// A location that expires this soon is not used any more.
const EXPIRY_MARGIN_MS: f64 = 2_000.0;
/// The parent's word that an object is missing counts this long; then it is asked again.
const MISSING_FOR: Duration = Duration::from_secs(3);

impl Source {
    pub fn new(spec: SourceSpec, agent: ureq::Agent) -> Source {
        Source { spec, files: Mutex::default(), locations: RwLock::default(), missing: RwLock::default(), agent }
    }

    pub fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    /// None: the bucket does not have it.
    pub fn add_locations(&self, locations: HashMap<String, Option<Location>>) {
        for (key, location) in locations {
            match location {
                Some(location) => drop(self.locations.write().unwrap().insert(key, location)),
                None => drop(self.missing.write().unwrap().insert(key, Instant::now())),
            }
        }
    }

    /// All locations, as a file in memory that a later handler can read.
    pub fn locations_in_memory(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        let memory = File::from(crate::sys::memfd("locations")?);
        let text = serde_json::to_vec(&*self.locations.read().unwrap())?;
        memory.write_all_at(&text, 0)?;
        Ok(memory.into())
    }

    /// Reads `length` bytes at `offset` of the object `key`.
    pub fn read(&self, key: &str, offset: u64, length: usize) -> Result<Vec<u8>, FetchError> {
        match &self.spec {
            SourceSpec::Directory { path } => self.read_file(&path.join(key), key, offset, length),
            SourceSpec::Http => {
                let mut bytes = vec![0; length];
                let mut response = self.ask(key, offset, length)?;
                let mut body = response.body_mut().as_reader();
                body.read_exact(&mut bytes).map_err(|e| FetchError::Transient(format!("{key}: {e}")))?;
                Ok(bytes)
            }
        }
    }

    /// The object's first `length` bytes, or all of a shorter one, and its size.
    pub fn read_first(&self, key: &str, length: usize) -> Result<(Vec<u8>, u64), FetchError> {
        match &self.spec {
            SourceSpec::Directory { path } => {
                let path = path.join(key);
                let size = self.file(&path, key)?.metadata().map_err(|e| io_error(&path, &e))?.len();
                let bytes = self.read_file(&path, key, 0, length.min(usize::try_from(size).unwrap_or(length)))?;
                Ok((bytes, size))
            }
            SourceSpec::Http => {
                let mut response = self.ask(key, 0, length)?;
                let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_string());
                // "bytes 0-99/1234"; of a server without ranges, the whole object.
                let size =
                    header("content-range").and_then(|range| range.rsplit_once('/').map(|(_, size)| size.to_string()));
                let size = size.or_else(|| header("content-length")).and_then(|size| size.parse().ok());
                let size: u64 =
                    size.ok_or(FetchError::Permanent(format!("{key}: the server does not say its size")))?;
                let mut bytes = Vec::new();
                let body = response.body_mut().as_reader();
                body.take(length as u64)
                    .read_to_end(&mut bytes)
                    .map_err(|e| FetchError::Transient(format!("{key}: {e}")))?;
                if bytes.len() as u64 != size.min(length as u64) {
                    return Err(FetchError::Transient(format!("{key}: the answer was cut off")));
                }
                Ok((bytes, size))
            }
        }
    }

    fn file(&self, path: &std::path::Path, key: &str) -> Result<Arc<File>, FetchError> {
        let known = self.files.lock().unwrap().get(key).cloned();
        match known {
            Some(file) => Ok(file),
            None => {
                let file = Arc::new(File::open(path).map_err(|e| io_error(path, &e))?);
                self.files.lock().unwrap().insert(key.to_string(), file.clone());
                Ok(file)
            }
        }
    }

    fn read_file(&self, path: &std::path::Path, key: &str, offset: u64, length: usize) -> Result<Vec<u8>, FetchError> {
        let file = self.file(path, key)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map_err(|e| {
            // The file may have been replaced: look again next time.
            self.files.lock().unwrap().remove(key);
            io_error(path, &e)
        })?;
        Ok(bytes)
    }

    /// An answer whose body holds the range.
    fn ask(&self, key: &str, offset: u64, length: usize) -> Result<ureq::http::Response<ureq::Body>, FetchError> {
        let location = self.locations.read().unwrap().get(key).filter(|l| is_fresh(l)).cloned();
        let Some(location) = location else {
            if self.missing.read().unwrap().get(key).is_some_and(|since| since.elapsed() < MISSING_FOR) {
                return Err(FetchError::Missing(format!("{key} is not in the bucket")));
            }
            return Err(FetchError::NoLocation(format!("no location for {key}")));
        };
        let mut request =
            self.agent.get(&location.url).header("range", format!("bytes={offset}-{}", offset + length as u64 - 1));
        for (name, value) in &location.headers {
            request = request.header(name, value);
        }
        let response = request.call().map_err(|e| FetchError::Transient(format!("{key}: {e}")))?;
        let status = response.status().as_u16();
        match status {
            206 => {}
            // The server does not know ranges; only a whole object that is the range will do.
            200 if offset == 0 => {}
            401 | 403 => {
                // Unless a new one has come meanwhile.
                let mut locations = self.locations.write().unwrap();
                if locations.get(key).is_some_and(|l| l.url == location.url && l.headers == location.headers) {
                    locations.remove(key);
                }
                return Err(FetchError::NoLocation(format!("{key}: HTTP {status}")));
            }
            404 | 410 => return Err(FetchError::Missing(format!("{key}: HTTP {status}"))),
            416 => return Err(FetchError::Permanent(format!("{key}: HTTP {status}"))),
            _ => return Err(FetchError::Transient(format!("{key}: HTTP {status}"))),
        }
        Ok(response)
    }
}

fn is_fresh(location: &Location) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_millis() as f64);
    now + EXPIRY_MARGIN_MS < location.expires_at
}

fn io_error(path: &std::path::Path, error: &std::io::Error) -> FetchError {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => FetchError::Missing(message),
        std::io::ErrorKind::UnexpectedEof => FetchError::Permanent(message),
        _ => FetchError::Transient(message),
    }
}

/// The one HTTP client: connections are kept and shared by all images.
pub fn agent(connections_max: usize) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(RESPONSE_TIMEOUT))
        .timeout_global(Some(RANGE_TIMEOUT))
        .max_idle_connections(connections_max)
        .max_idle_connections_per_host(connections_max)
        .http_status_as_error(false)
        .max_redirects(3)
        .build()
        .into()
}
