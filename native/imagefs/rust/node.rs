//! The handler's state: the images of this node's cache, which of them are mounted where, and what is to be done about it.
//!   H1. A blob is watched before it is mounted, until it is complete or nobody can read it any more (view.rs).
//!   H2. A blob that somebody may still read is never truncated, punched or replaced: eviction takes whole idle images.
//!   H3. What the cache says is there is trusted within one boot, and across boots only after a clean end.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::door::Door;
use crate::fanotify::BlobsById;
use crate::fetch::{Fetcher, Priority};
use crate::fuse::{self, Fuse};
use crate::hot::{self, Hot};
use crate::hot_view::hot_view;
use crate::image::{ImageError, ImageFile, PAGE};
use crate::journal::Journal;
use crate::keeper::KeeperLink;
use crate::mounts;
use crate::peers::Peer;
use crate::source::{Location, Source, SourceSpec};
use crate::sys;
use crate::view::{HotPages, View};

/// How much the kernel reads around a touched page while much of an image is missing: its default of 128 KiB makes a start
/// of PyTorch read 2.2 times the pages that it needs, and fetch them.
const READ_AHEAD_MISSING_KIB: u32 = 16;
/// The kernel's default, for images that are there.
const READ_AHEAD_KIB: u32 = 128;

/// How long a mount waits for the tables of its hot pack: without them the kernel asks for every page of the start.
const HOT_TABLES_PATIENCE: Duration = Duration::from_millis(1_000);

const EXPORT_RUN_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Method {
    Fanotify,
    Fuse,
}

/// A failure with the code that the other side's PlatformError will have.
#[derive(Debug, Serialize)]
pub struct Failure {
    pub code: &'static str,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: &'static str, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        match error {
            ImageError::Corrupt(why) => Failure::new("corrupt", format!("not a valid image: {why}")),
            ImageError::Unsupported(why) => Failure::new("unsupported", why),
        }
    }
}

/// Adds what was being done to a system error.
pub fn doing(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let code = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => "resourceExhausted",
            Some(libc::EPERM | libc::EACCES) => "permissionDenied",
            Some(libc::ENOENT) => "notFound",
            Some(libc::EBUSY) => "conflict",
            _ => "internal",
        };
        Failure::new(code, format!("{what}: {error}"))
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountRecord {
    pub target: PathBuf,
    pub overlay: bool,
}

pub struct Entry {
    blob: Arc<Blob>,
    /// How its base is mounted, if it is.
    method: Option<Method>,
    mounts: Vec<MountRecord>,
    last_used_ms: u64,
}

/// What a later handler needs to go on.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedEntry {
    key: String,
    method: Option<Method>,
    mounts: Vec<MountRecord>,
    fill: bool,
    source: SourceSpec,
    /// See `Blob::narrow_device`.
    #[serde(default)]
    narrow_device: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlobState {
    boot_id: String,
    clean: bool,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountRequest {
    pub key: String,
    pub target: PathBuf,
    pub method: Method,
    pub source: SourceSpec,
    #[serde(default)]
    pub locations: HashMap<String, Option<Location>>,
    pub overlay: Option<Overlay>,
    /// Bring everything in the background once the start is over.
    pub fill: bool,
    pub record: bool,
    pub hot: Option<HotPack>,
}

#[derive(Clone, Deserialize)]
pub struct HotPack {
    /// Its object in the bucket, if it has one.
    pub key: String,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlay {
    pub upper: PathBuf,
    pub work: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStats {
    pub key: String,
    pub mounts: usize,
    pub method: Option<Method>,
    pub data_bytes: u64,
    pub present_bytes: u64,
    pub disk_bytes: u64,
    pub fetched_bytes: u64,
    pub peer_bytes: u64,
    pub written_bytes: u64,
    pub write_micros: u64,
    pub failed_reads: u64,
    pub read_events: u64,
    /// The kernel still asks before it reads.
    pub watched: bool,
}

pub struct Node {
    pub cache: PathBuf,
    pub cache_bytes_max: u64,
    pub group: Option<RawFd>,
    pub fetcher: Arc<Fetcher>,
    pub blobs: Arc<BlobsById>,
    pub keeper: Arc<KeeperLink>,
    pub journal: Arc<Journal>,
    /// EROFS is mounted from loop devices: kernels before 6.12 take no files.
    pub block_devices: bool,
    pub agent: ureq::Agent,
    pub entries: Mutex<HashMap<String, Entry>>,
    /// The FUSE connection, once it is needed.
    pub fuse: Mutex<Option<OwnedFd>>,
    /// Where other nodes read from this one, if they may.
    pub door: Mutex<Option<Arc<Door>>>,
}

/// What the parent says about the other nodes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peering {
    pub node_id: String,
    pub token: String,
    pub host: String,
    /// 0: any.
    pub port: u16,
    /// 0: no limit.
    pub upload_bytes_per_second: u64,
    /// Which of them have which image.
    pub images: HashMap<String, Vec<Peer>>,
}

/// How much of an image this node has to give.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Holding {
    Loading,
    Complete,
}

impl Node {
    fn directory(&self, key: &str) -> PathBuf {
        self.cache.join("images").join(key)
    }

    fn base(&self, key: &str) -> PathBuf {
        self.cache.join("mnt").join(key)
    }

    // ---- taking over -------------------------------------------------------------------------------------------------

    /// Takes over what the last handler had, with the descriptors that the keeper kept.
    pub fn adopt(&self, mut kept: HashMap<String, OwnedFd>) {
        let device = kept.remove("fuse");
        let saved: Vec<SavedEntry> = std::fs::read(self.cache.join("state.json"))
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        for entry in saved {
            let file = kept.remove(&format!("blob:{}", entry.key)).map(std::fs::File::from);
            let is_mounted = entry.method.is_some();
            // It is not known what such a mount reads: the directory may hold another file by now.
            if is_mounted && file.is_none() {
                say!("imagefs: lost the blob of {}", entry.key);
                continue;
            }
            match self.load(&entry.key, entry.source, file) {
                Ok(blob) => {
                    if let Some(locations) = kept.remove(&format!("locations:{}", entry.key)) {
                        restore_locations(&blob, locations);
                    }
                    let mounts = (0..).map_while(|i| kept.remove(&mount_name(&entry.key, i))).collect();
                    blob.set_view(self.group.and_then(|group| View::adopt(group, mounts)).map(Arc::new));
                    let mut entries = self.entries.lock().unwrap();
                    if let Some(known) = entries.get_mut(&entry.key) {
                        known.method = entry.method;
                        known.mounts = entry.mounts;
                    }
                    blob.set_narrow_device(entry.narrow_device);
                    blob.want_fill(entry.fill && is_mounted);
                    fill_if_wanted(&self.fetcher, &blob);
                    blob.fuse_opens.store(u64::from(entry.method == Some(Method::Fuse)), Ordering::Release);
                }
                Err(failure) => say!("imagefs: cannot take over {}: {}", entry.key, failure.message),
            }
        }
        if let Some(device) = device {
            self.serve_fuse(&device, true);
            *self.fuse.lock().unwrap() = Some(device);
        }
    }

    /// After a start with nothing to take over: blobs that somebody still reads through a mount without a handler are
    /// left to them, and the cache begins anew for those images.
    pub fn abandon_used_blobs(&self) {
        for directory in std::fs::read_dir(self.cache.join("images")).into_iter().flatten().flatten() {
            let data = Blob::data_path(&directory.path());
            let Ok(file) = std::fs::File::options().read(true).write(true).open(&data) else {
                continue;
            };
            if !sys::nobody_else_has_open(file.as_raw_fd()) {
                let _ = std::fs::remove_file(&data);
                let _ = std::fs::remove_file(directory.path().join("present"));
            }
        }
    }

    /// Loads what earlier runs left in the cache, so that new images find chunks there.
    pub fn load_idle(&self) {
        for directory in std::fs::read_dir(self.cache.join("images")).into_iter().flatten().flatten() {
            let key = directory.file_name().to_string_lossy().into_owned();
            if !self.entries.lock().unwrap().contains_key(&key) {
                // A directory that cannot be read is of no use to anybody; a mount will write it again.
                if self.load(&key, SourceSpec::Http, None).is_err() {
                    let _ = std::fs::remove_dir_all(directory.path());
                }
            }
        }
    }

    // ---- images ------------------------------------------------------------------------------------------------------

    /// The image's blob, opened once. `file`: its descriptor from the last handler.
    fn load(&self, key: &str, source: SourceSpec, file: Option<std::fs::File>) -> Result<Arc<Blob>> {
        let mut entries = self.entries.lock().unwrap();
        if let Some(entry) = entries.get(key) {
            return Ok(entry.blob.clone());
        }
        let directory = self.directory(key);
        let path = directory.join("image.plimage");
        let bytes = std::fs::read(&path).map_err(doing(format!("reading {}", path.display())))?;
        let image = ImageFile::parse(&bytes)?;
        let adopted = file.is_some();
        if !adopted {
            write_whole(&directory.join("meta.erofs"), &image.metadata_image(&bytes)?)
                .map_err(doing("writing the metadata"))?;
            self.trust_or_discard(&directory).map_err(doing("opening the cache"))?;
        }
        let open = |file: Option<std::fs::File>, image: ImageFile| {
            let file = file.map_or_else(|| Blob::open_file(&directory, image.data_size), Ok)?;
            let source = Source::new(source.clone(), self.agent.clone());
            Blob::new(key.to_string(), directory.clone(), image, file, source)
        };
        let mut blob = open(file, image).map_err(doing("opening the blob"))?;
        if !blob.is_usable() {
            // A seed that is not whole is of no use.
            discard(&directory);
            blob = open(None, ImageFile::parse(&bytes)?).map_err(doing("opening the blob"))?;
        }
        let blob = Arc::new(blob);
        if !adopted {
            self.keeper.keep(&format!("blob:{key}"), blob.file.as_raw_fd());
        }
        self.blobs.write().unwrap().insert(blob.id, blob.clone());
        self.fetcher.share(&blob);
        entries.insert(
            key.to_string(),
            Entry { blob: blob.clone(), method: None, mounts: Vec::new(), last_used_ms: now_ms() },
        );
        Ok(blob)
    }

    /// H3: a blob of an earlier boot whose pages may never have reached the disk is thrown away.
    fn trust_or_discard(&self, directory: &Path) -> io::Result<()> {
        let state: Option<BlobState> =
            std::fs::read(directory.join("state.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
        let boot_id = sys::boot_id();
        if !state.is_some_and(|s| s.clean || s.boot_id == boot_id) {
            discard(directory);
        }
        self.write_state(directory, false)
    }

    fn write_state(&self, directory: &Path, clean: bool) -> io::Result<()> {
        let state = BlobState { boot_id: sys::boot_id(), clean };
        write_whole(&directory.join("state.json"), &serde_json::to_vec(&state)?)
    }

    // ---- mounting ----------------------------------------------------------------------------------------------------

    pub fn mount(&self, request: &MountRequest) -> Result<()> {
        if !is_key(&request.key) {
            return Err(Failure::new("invalidArgument", "the image key is not 64 hex digits"));
        }
        let blob = self.load(&request.key, request.source.clone(), None)?;
        self.set_source(&blob, request);
        let hot = self.hot_tables(&blob, request);
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.get_mut(&request.key).ok_or_else(|| Failure::new("internal", "the image vanished"))?;
        if entry.mounts.iter().any(|m| m.target == request.target) {
            return Err(Failure::new("alreadyExists", format!("{} is mounted already", request.target.display())));
        }
        if entry.method.is_none() {
            blob.record(request.record);
            self.mount_base(&blob, request.method, hot.as_deref())?;
            entry.method = Some(request.method);
        }
        let base = self.base(&request.key);
        mounts::clear(&self.cache, &request.target);
        std::fs::create_dir_all(&request.target).map_err(doing(format!("making {}", request.target.display())))?;
        let placed = match &request.overlay {
            Some(Overlay { upper, work }) => std::fs::create_dir_all(upper)
                .and_then(|()| std::fs::create_dir_all(work))
                .and_then(|()| mounts::mount_overlay(&base, upper, work, &request.target)),
            None => mounts::bind_read_only(&base, &request.target),
        };
        if let Err(error) = placed {
            if entry.mounts.is_empty() {
                self.unmount_base(entry);
            }
            return Err(doing(format!("mounting at {}", request.target.display()))(error));
        }
        entry.mounts.push(MountRecord { target: request.target.clone(), overlay: request.overlay.is_some() });
        entry.last_used_ms = now_ms();
        blob.want_fill(blob.fill_wanted() || request.fill);
        self.save(&entries);
        drop(entries);
        // Otherwise the rest follows the pack.
        if !blob.is_hot_coming() {
            fill_if_wanted(&self.fetcher, &blob);
        }
        Ok(())
    }

    /// Begins with the hot pack, if it was not asked for yet. Its tables, where they come in time and the base will be mounted
    /// with them.
    fn hot_tables(&self, blob: &Arc<Blob>, request: &MountRequest) -> Option<Arc<Hot>> {
        let pack = request.hot.as_ref().filter(|pack| !blob.presence.is_complete() && blob.begin_hot(&pack.key))?;
        let (fetcher, filling) = (self.fetcher.clone(), blob.clone());
        let then = move || fill_if_wanted(&fetcher, &filling);
        let tables = hot::start(self.fetcher.clone(), blob.clone(), pack.key.clone(), then);
        let wanted = request.method == Method::Fanotify && !self.is_mounted(&request.key);
        wanted.then(|| tables.recv_timeout(HOT_TABLES_PATIENCE).ok()).flatten()
    }

    /// Brings the rest of a mounted image in the background.
    pub fn fill(&self, key: &str) -> Result<()> {
        let entries = self.entries.lock().unwrap();
        let entry = entries.get(key).filter(|entry| entry.method.is_some());
        let blob = entry.ok_or_else(|| Failure::new("notFound", "no such image is mounted"))?.blob.clone();
        blob.want_fill(true);
        self.save(&entries);
        drop(entries);
        // Otherwise it follows the pack.
        if !blob.is_hot_coming() {
            fill_if_wanted(&self.fetcher, &blob);
        }
        Ok(())
    }

    fn set_source(&self, blob: &Arc<Blob>, request: &MountRequest) {
        // The same bucket as before: what is known of it stays.
        if *blob.source().spec() != request.source {
            blob.set_source(Source::new(request.source.clone(), self.agent.clone()));
        }
        self.add_locations(&blob.key, request.locations.clone());
    }

    /// New places to read packs from; kept in memory only, for they may carry credentials.
    pub fn add_locations(&self, key: &str, locations: HashMap<String, Option<Location>>) {
        let Some(blob) = self.blob(key) else { return };
        if locations.is_empty() {
            return;
        }
        let source = blob.source();
        source.add_locations(locations);
        if let Ok(memory) = source.locations_in_memory() {
            self.keeper.keep(&format!("locations:{key}"), memory.as_raw_fd());
        }
        self.fetcher.retry_now(&blob);
    }

    fn mount_base(&self, blob: &Arc<Blob>, method: Method, hot: Option<&Hot>) -> Result<()> {
        let base = self.base(&blob.key);
        mounts::clear(&self.cache, &base);
        std::fs::create_dir_all(&base).map_err(doing("making the mount point"))?;
        let complete = blob.presence.is_complete();
        let mut metadata = blob.metadata_path();
        let mut view = None;
        let devices = match method {
            // A complete blob needs nobody to answer for it.
            _ if complete => vec![Blob::data_path(&blob.directory)],
            Method::Fuse => vec![self.fuse_directory()?.join(&blob.key)],
            Method::Fanotify => {
                let with_hot = hot.and_then(|hot| self.hot_view(blob, hot));
                if with_hot.is_some() {
                    metadata = blob.hot_metadata_path();
                }
                // H1.
                let open = with_hot.map_or_else(|| self.plain_view(blob), Ok)?;
                view.insert(Arc::new(open)).device_paths()
            }
        };
        let before = mounts::backing_devices();
        let mounted = match self.block_devices {
            true => mounts::mount_erofs_by_loops(&metadata, &devices[0], &base),
            false => mounts::mount_erofs(&metadata, &devices, &base, complete),
        };
        mounted.map_err(doing("mounting the image"))?;
        if let Some(view) = view {
            for (i, mount) in view.kept().into_iter().enumerate() {
                self.keeper.keep(&mount_name(&blob.key, i), mount);
            }
            blob.set_view(Some(view.clone()));
            // What came before there was a view.
            view.release_parts(&blob.presence);
        }
        if !complete {
            let device = mounts::only_new(&before, &mounts::backing_devices());
            blob.set_narrow_device(device.filter(|device| mounts::set_read_ahead(device, READ_AHEAD_MISSING_KIB)));
        }
        Ok(())
    }

    fn plain_view(&self, blob: &Blob) -> Result<View> {
        let group = self.group.ok_or_else(|| Failure::new("unsupported", "this kernel has no pre-content events"))?;
        View::open(group, &Blob::data_path(&blob.directory), None).map_err(doing("watching the blob"))
    }

    /// Metadata and devices for a mount whose hot pages cost nothing once they have come. None: it has to go without.
    fn hot_view(&self, blob: &Blob, hot: &Hot) -> Option<View> {
        let made = || -> std::result::Result<View, String> {
            let group = self.group.ok_or("this kernel has no pre-content events")?;
            let regions = hot.regions();
            let metadata = std::fs::read(blob.metadata_path()).map_err(|e| e.to_string())?;
            let seen = hot_view(&metadata, &regions)?;
            write_whole(&blob.hot_metadata_path(), &seen.metadata).map_err(|e| e.to_string())?;
            let hot_pages = HotPages { regions, order: hot.runs().to_vec(), files: seen.files };
            View::open(group, &Blob::data_path(&blob.directory), Some(hot_pages)).map_err(|e| e.to_string())
        };
        made().inspect_err(|why| say!("imagefs: {} is mounted without its hot pack: {why}", blob.key)).ok()
    }

    /// First page and count of what was read of an image since it was mounted: what went by unseen in the hot pack's order,
    /// then what was asked for, in order.
    pub fn touched(&self, key: &str) -> Result<Vec<(u64, u64)>> {
        let blob = self.blob(key).ok_or_else(|| Failure::new("notFound", "no such image"))?;
        if !blob.is_recording() {
            return Ok(Vec::new());
        }
        let asked = blob.touched_runs();
        Ok(blob.view().map_or_else(|| asked.clone(), |view| view.all_read(&self.base(key), &asked)))
    }

    /// Where FUSE shows the blobs; mounted when first needed.
    fn fuse_directory(&self) -> Result<PathBuf> {
        let directory = self.cache.join("fuse");
        let mut fuse = self.fuse.lock().unwrap();
        if fuse.is_none() {
            mounts::clear(&self.cache, &directory);
            std::fs::create_dir_all(&directory).map_err(doing("making the FUSE mount point"))?;
            let device = fuse::mount(&directory).map_err(doing("mounting FUSE"))?;
            self.keeper.keep("fuse", device.as_raw_fd());
            self.serve_fuse(&device, false);
            *fuse = Some(device);
        }
        Ok(directory)
    }

    fn serve_fuse(&self, device: &OwnedFd, taking_over: bool) {
        let fuse = Fuse {
            device: device.as_raw_fd(),
            journal: self.journal.clone(),
            fetcher: self.fetcher.clone(),
            blobs: self.blobs.clone(),
        };
        Arc::new(fuse).start(taking_over);
    }

    pub fn unmount(&self, target: &Path) -> Result<()> {
        let mut entries = self.entries.lock().unwrap();
        let entry = entries
            .values_mut()
            .find(|e| e.mounts.iter().any(|m| m.target == target))
            .ok_or_else(|| Failure::new("notFound", format!("{} is not mounted", target.display())))?;
        match mounts::unmount(target) {
            // Somebody took it away by hand.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other.map_err(doing(format!("unmounting {}", target.display())))?,
        }
        entry.mounts.retain(|m| m.target != target);
        entry.last_used_ms = now_ms();
        if entry.mounts.is_empty() {
            self.unmount_base(entry);
        }
        self.save(&entries);
        Ok(())
    }

    fn unmount_base(&self, entry: &mut Entry) {
        let _ = mounts::unmount(&self.base(&entry.blob.key));
        let watched = entry.blob.view().map_or(0, |view| view.kept().len());
        (0..watched).for_each(|i| self.keeper.drop_kept(&mount_name(&entry.blob.key, i)));
        entry.blob.set_view(None);
        let _ = std::fs::remove_file(entry.blob.hot_metadata_path());
        entry.blob.set_narrow_device(None);
        entry.method = None;
        entry.blob.want_fill(false);
        self.fetcher.forget(&entry.blob);
    }

    // ---- keeping house -----------------------------------------------------------------------------------------------

    /// To be called now and then: stops watching what is there, and keeps the cache within its bounds.
    pub fn tidy(&self) {
        let mut entries = self.entries.lock().unwrap();
        for entry in entries.values_mut() {
            let blob = &entry.blob;
            if !blob.presence.is_complete() {
                blob.view().inspect(|view| view.release_parts(&blob.presence));
                continue;
            }
            if let Some(device) = blob.set_narrow_device(None) {
                mounts::set_read_ahead(&device, READ_AHEAD_KIB);
            }
            blob.view().inspect(|view| view.release_all());
        }
        self.evict(&mut entries);
    }

    /// Removes whole images that nobody uses, the least recently used first, until the cache fits.
    fn evict(&self, entries: &mut HashMap<String, Entry>) {
        let mut total: u64 = entries.values().map(|e| e.blob.disk_bytes()).sum();
        let mut idle: Vec<(u64, String)> = entries
            .iter()
            .filter(|(_, e)| e.method.is_none() && e.blob.fuse_opens.load(Ordering::Acquire) == 0)
            .map(|(key, e)| (e.last_used_ms, key.clone()))
            .collect();
        idle.sort();
        for (_, key) in idle {
            if total <= self.cache_bytes_max {
                return;
            }
            // H2: a detached mount may still have users.
            let unused = sys::nobody_else_has_open(entries[&key].blob.file.as_raw_fd());
            if !unused {
                continue;
            }
            let entry = entries.remove(&key).unwrap();
            total = total.saturating_sub(entry.blob.disk_bytes());
            self.blobs.write().unwrap().remove(&entry.blob.id);
            let _ = std::fs::remove_dir_all(&entry.blob.directory);
            self.keeper.drop_kept(&format!("blob:{key}"));
            self.keeper.drop_kept(&format!("locations:{key}"));
            drop(entry);
            self.fetcher.unshare_gone();
        }
    }

    /// Unmounts everything and leaves the cache so that the next boot can trust it.
    pub fn shut_down(&self) {
        let mut entries = self.entries.lock().unwrap();
        for entry in entries.values_mut() {
            for record in entry.mounts.drain(..) {
                let _ = mounts::unmount(&record.target);
            }
            self.unmount_base(entry);
            let synced = entry.blob.file.sync_data().and_then(|()| entry.blob.presence.sync());
            if synced.is_ok() {
                let _ = self.write_state(&entry.blob.directory, true);
            }
        }
        if self.fuse.lock().unwrap().is_some() {
            let _ = mounts::unmount(&self.cache.join("fuse"));
        }
        let _ = std::fs::remove_file(self.cache.join("state.json"));
    }

    fn save(&self, entries: &HashMap<String, Entry>) {
        let saved: Vec<SavedEntry> = entries
            .iter()
            .map(|(key, e)| SavedEntry {
                key: key.clone(),
                method: e.method,
                mounts: e.mounts.clone(),
                fill: e.blob.fill_wanted(),
                source: e.blob.source().spec().clone(),
                narrow_device: e.blob.narrow_device(),
            })
            .collect();
        let written = serde_json::to_vec(&saved)
            .map_err(io::Error::from)
            .and_then(|b| write_whole(&self.cache.join("state.json"), &b));
        if let Err(error) = written {
            say!("imagefs: cannot save the state: {error}");
        }
    }

    /// Writes runs of pages of the data blob, one after the other, to a file; what is missing is fetched.
    pub fn export(&self, key: &str, runs: &[(u64, u64)], path: &Path) -> Result<()> {
        use std::io::Write;
        use std::os::unix::fs::FileExt;
        let blob = self.blob(key).ok_or_else(|| Failure::new("notFound", "no such image"))?;
        let mut out = io::BufWriter::new(std::fs::File::create(path).map_err(doing("exporting"))?);
        for (page, pages) in runs {
            let (offset, length) = (page.saturating_mul(PAGE), pages.saturating_mul(PAGE));
            if length > EXPORT_RUN_BYTES_MAX || offset.saturating_add(length) > blob.image.data_size {
                return Err(Failure::new("invalidArgument", "a run lies outside the image, or is too long"));
            }
            let (sender, receiver) = std::sync::mpsc::channel();
            self.fetcher.read(&blob, offset, length, move |ok| {
                let _ = sender.send(ok);
            });
            if receiver.recv() != Ok(true) {
                return Err(Failure::new("unavailable", "the bucket did not deliver all pages"));
            }
            let mut bytes = vec![0; length as usize];
            blob.file
                .read_exact_at(&mut bytes, offset)
                .and_then(|()| out.write_all(&bytes))
                .map_err(doing("exporting"))?;
        }
        out.flush().map_err(doing("exporting"))
    }

    /// Takes in what is known of other nodes, and opens the door for them; returns where it is.
    pub fn set_peers(self: &Arc<Node>, peering: Peering) -> Result<std::net::SocketAddr> {
        let Peering { node_id, token, host, port, upload_bytes_per_second, images } = peering;
        self.fetcher.peers.set(&node_id, &token, images);
        let mut door = self.door.lock().unwrap();
        let open = match door.take() {
            Some(open) => open,
            None => Door::open(self, &host, port, upload_bytes_per_second)
                .map_err(doing(format!("opening a door for other nodes at {host}:{port}")))?,
        };
        open.set_rate(upload_bytes_per_second);
        Ok(door.insert(open).address)
    }

    /// What other nodes may be told of: images that are mounted, or whole.
    pub fn holdings(&self) -> HashMap<String, Holding> {
        let entries = self.entries.lock().unwrap();
        let held = entries.iter().filter_map(|(key, entry)| match entry.blob.presence.is_complete() {
            true => Some((key.clone(), Holding::Complete)),
            false => entry.method.map(|_| (key.clone(), Holding::Loading)),
        });
        held.collect()
    }

    pub fn is_mounted(&self, key: &str) -> bool {
        self.entries.lock().unwrap().get(key).is_some_and(|entry| entry.method.is_some())
    }

    pub fn blob(&self, key: &str) -> Option<Arc<Blob>> {
        self.entries.lock().unwrap().get(key).map(|e| e.blob.clone())
    }

    pub fn stats(&self) -> Vec<ImageStats> {
        let entries = self.entries.lock().unwrap();
        let stats = entries.values().map(|e| ImageStats {
            key: e.blob.key.clone(),
            mounts: e.mounts.len(),
            method: e.method,
            data_bytes: e.blob.image.data_size,
            present_bytes: e.blob.presence.present_pages() * PAGE,
            disk_bytes: e.blob.disk_bytes(),
            fetched_bytes: e.blob.fetched_bytes.load(Ordering::Relaxed),
            peer_bytes: e.blob.peer_bytes.load(Ordering::Relaxed),
            written_bytes: e.blob.written_bytes.load(Ordering::Relaxed),
            write_micros: e.blob.write_micros.load(Ordering::Relaxed),
            failed_reads: e.blob.failed_reads.load(Ordering::Relaxed),
            read_events: e.blob.read_events.load(Ordering::Relaxed),
            watched: e.blob.view().is_some_and(|view| view.is_watching()),
        });
        stats.collect()
    }

    /// What a new keeper is given.
    pub fn kept(&self) -> Vec<(String, RawFd)> {
        let entries = self.entries.lock().unwrap();
        let blobs = entries.iter().map(|(key, e)| (format!("blob:{key}"), e.blob.file.as_raw_fd()));
        let views = entries.iter().filter_map(|(key, e)| Some((key, e.blob.view()?)));
        let views = views.flat_map(|(key, view)| {
            view.kept().into_iter().enumerate().map(|(i, mount)| (mount_name(key, i), mount)).collect::<Vec<_>>()
        });
        let fuse = self.fuse.lock().unwrap().as_ref().map(|device| ("fuse".to_string(), device.as_raw_fd()));
        blobs.chain(views).chain(fuse).collect()
    }
}

/// What the keeper calls the mounts through which an image's blob is watched.
fn mount_name(key: &str, number: usize) -> String {
    format!("view:{key}:{number}")
}

/// Forgets what is there of an image; a seed stays where it is.
fn discard(directory: &Path) {
    let _ = std::fs::remove_file(Blob::data_path(directory));
    let _ = std::fs::remove_file(directory.join("present"));
}

fn fill_if_wanted(fetcher: &Fetcher, blob: &Arc<Blob>) {
    if blob.fill_wanted() {
        fill_all(fetcher, blob);
    }
}

/// Brings everything, in the packs' order, when nothing else is to be done.
fn fill_all(fetcher: &Fetcher, blob: &Arc<Blob>) {
    let mut order: Vec<u32> = (0..blob.image.data.len() as u32).collect();
    order.sort_by_key(|c| (blob.image.data[*c as usize].pack, blob.image.data[*c as usize].pack_offset));
    for chunk in order {
        fetcher.request(blob, chunk, Priority::Background, None);
    }
}

fn restore_locations(blob: &Blob, memory: OwnedFd) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::from(memory);
    let mut bytes = vec![0; file.metadata().map_or(0, |m| m.len() as usize)];
    if file.read_exact_at(&mut bytes, 0).is_ok()
        && let Ok(locations) = serde_json::from_slice(&bytes)
    {
        blob.source().add_locations(locations);
    }
}

pub fn is_key(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Replaces a file: readers see the old one or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes)?;
    std::fs::rename(partial, path)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
