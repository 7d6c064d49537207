//! What Node sees: a mover with `read`, `cancel` and `close`, and memory made ready with `map`, `populate`, `settle` and `unmap`. Plain data in, promises out; failures are rejected as JSON
//! in the error's message, `{"kind", "message", "os"}`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use napi::bindgen_prelude::*;
use napi::{Env, JsDeferred};
use napi_derive::napi;

use crate::connection::{Patience, Server};
use crate::failure::{Failure, Kind};
use crate::memory::Memory;
use crate::pool::{Job, Pool};
use crate::transfer::{Checksums, Control, Request};

#[napi(object)]
pub struct RangeHeader {
    pub name: String,
    pub value: String,
}

#[napi(object)]
pub struct RangeChecksums {
    pub block_bytes: u32,
    /// Of the range's blocks, in order.
    pub blocks: Uint32Array,
}

#[napi(object, use_nullable = true)]
pub struct RangeRequest {
    pub secure: bool,
    pub host: String,
    pub port: u16,
    pub authority: String,
    pub path: String,
    pub headers: Vec<RangeHeader>,
    pub etag: Option<String>,
    pub offset: i64,
    pub length: i64,
    pub file: i32,
    pub position: i64,
    /// What `map` gave for the file.
    pub memory: Option<u32>,
    pub checksums: Option<RangeChecksums>,
}

type Settle = Box<dyn FnOnce(Env) -> Result<()> + Send>;
type Running = Arc<Mutex<HashMap<u32, Arc<Control>>>>;

#[napi]
pub struct NativeMover {
    pool: Pool,
    running: Running,
    memories: Mutex<HashMap<u32, Arc<Memory>>>,
}

#[napi]
impl NativeMover {
    /// `threads` ranges at once; a server may take `connect_timeout_ms` to accept a connection and be silent for `silence_ms`.
    #[napi(constructor, catch_unwind)]
    pub fn new(threads: u32, silence_ms: u32, connect_timeout_ms: u32) -> Result<Self> {
        let patience = Patience {
            connect: Duration::from_millis(u64::from(connect_timeout_ms)),
            silence: Duration::from_millis(u64::from(silence_ms)),
        };
        let pool = Pool::start(threads as usize, patience)
            .map_err(|error| Error::from_reason(error.to_string()))?;
        Ok(NativeMover {
            pool,
            running: Running::default(),
            memories: Mutex::default(),
        })
    }

    /// Maps the first `bytes` of a file under a name that is not in use.
    #[napi(catch_unwind)]
    pub fn map(&self, id: u32, file: i32, bytes: i64) -> Result<()> {
        let mapped = usize::try_from(bytes)
            .map_err(std::io::Error::other)
            .and_then(|bytes| Memory::map(file, bytes))
            .map_err(|error| reason(&Failure::file(&error)))?;
        self.memories().insert(id, Arc::new(mapped));
        Ok(())
    }

    /// Makes the memory's pages ready on a thread of its own; resolves when all are, or it was unmapped or stopped.
    #[napi(catch_unwind)]
    pub fn populate<'env>(&self, env: &'env Env, id: u32) -> Result<Object<'env>> {
        let (deferred, promise): (JsDeferred<(), Settle>, _) = env.create_deferred()?;
        let Some(memory) = self.memory(id) else {
            deferred.resolve(Box::new(|_| Ok(())));
            return Ok(promise);
        };
        std::thread::Builder::new()
            .name("populate".into())
            .spawn(move || {
                let outcome = memory.populate();
                // Unmapping, if this was the last to hold it, is this thread's work too.
                drop(memory);
                match outcome {
                    Ok(()) => deferred.resolve(Box::new(|_| Ok(()))),
                    Err(error) => deferred.reject(reason(&Failure::file(&error))),
                }
            })
            .map_err(|error| reason(&Failure::file(&error)))?;
        Ok(promise)
    }

    /// Ends `populate` soon; bytes from the beginning whose pages are ready.
    #[napi(catch_unwind)]
    pub fn settle(&self, id: u32) -> i64 {
        self.memory(id).map_or(0, |memory| {
            memory.stop();
            i64::try_from(memory.ready()).unwrap_or(i64::MAX)
        })
    }

    /// Gives the mapping up; ranges on their way into it end first. Not waited for.
    #[napi(catch_unwind)]
    pub fn unmap(&self, id: u32) {
        let Some(memory) = self.memories().remove(&id) else {
            return;
        };
        memory.stop();
        // Gigabytes of page table take a while: not on the caller's thread. Where no thread can be had, they do.
        let _ = std::thread::Builder::new()
            .name("unmap".into())
            .spawn(move || drop(memory));
    }

    fn memory(&self, id: u32) -> Option<Arc<Memory>> {
        self.memories().get(&id).cloned()
    }

    fn memories(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<Memory>>> {
        self.memories.lock().expect("no panic while locked")
    }

    /// Moves a range. `id` names it for `cancel` and is not in use.
    #[napi(catch_unwind)]
    pub fn read<'env>(
        &self,
        env: &'env Env,
        id: u32,
        request: RangeRequest,
    ) -> Result<Object<'env>> {
        let (deferred, promise): (JsDeferred<(), Settle>, _) = env.create_deferred()?;
        let memory = request.memory.and_then(|id| self.memory(id));
        let request = match plain(request, memory) {
            Ok(request) => request,
            Err(failure) => {
                deferred.reject(reason(&failure));
                return Ok(promise);
            }
        };
        let control = Arc::new(Control::default());
        self.running
            .lock()
            .expect("no panic while locked")
            .insert(id, control.clone());
        let running = self.running.clone();
        let done = Box::new(move |outcome: std::result::Result<(), Failure>| {
            running.lock().expect("no panic while locked").remove(&id);
            match outcome {
                Ok(()) => deferred.resolve(Box::new(|_| Ok(()))),
                Err(failure) => deferred.reject(reason(&failure)),
            }
        });
        self.pool.submit(Job {
            request,
            control,
            done,
        });
        Ok(promise)
    }

    /// Ends a range soon; its promise is rejected as `cancelled`. One that is not running is left alone.
    #[napi(catch_unwind)]
    pub fn cancel(&self, id: u32) {
        let control = self
            .running
            .lock()
            .expect("no panic while locked")
            .get(&id)
            .cloned();
        if let Some(control) = control {
            control.cancel();
        }
    }

    /// Cancels everything and ends the threads, without waiting for them.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        let all: Vec<_> = self
            .running
            .lock()
            .expect("no panic while locked")
            .values()
            .cloned()
            .collect();
        for control in all {
            control.cancel();
        }
        self.pool.close();
    }
}

fn plain(
    request: RangeRequest,
    memory: Option<Arc<Memory>>,
) -> std::result::Result<Request, Failure> {
    let invalid = |what: &str| Failure::new(Kind::Internal, format!("invalid {what}"));
    let offset = u64::try_from(request.offset).map_err(|_| invalid("offset"))?;
    let position = u64::try_from(request.position).map_err(|_| invalid("position"))?;
    let length = u64::try_from(request.length)
        .ok()
        .filter(|length| *length > 0)
        .ok_or_else(|| invalid("length"))?;
    let checksums = match request.checksums {
        Some(RangeChecksums { block_bytes, .. })
            if block_bytes == 0 || offset % u64::from(block_bytes) != 0 =>
        {
            return Err(invalid("checksums: a range begins on a block"));
        }
        Some(given) => Some(Checksums {
            block_bytes: u64::from(given.block_bytes),
            blocks: given.blocks.to_vec(),
        }),
        None => None,
    };
    Ok(Request {
        server: Server {
            secure: request.secure,
            host: request.host,
            port: request.port,
        },
        authority: request.authority,
        path: request.path,
        headers: request
            .headers
            .into_iter()
            .map(|header| (header.name, header.value))
            .collect(),
        etag: request.etag,
        offset,
        length,
        file: request.file,
        position,
        memory,
        checksums,
    })
}

fn reason(failure: &Failure) -> Error {
    let os = failure
        .os
        .map_or("null".to_string(), |number| number.to_string());
    let message = json_string(&failure.message);
    Error::from_reason(format!(
        r#"{{"kind":"{}","message":{message},"os":{os}}}"#,
        failure.kind.name()
    ))
}

fn json_string(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            character if character < ' ' => out.push_str(&format!("\\u{:04x}", character as u32)),
            character => out.push(character),
        }
    }
    out.push('"');
    out
}
