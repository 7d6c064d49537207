//! Copies to one device, on streams of their own, ordered with a consumer's stream by events.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;

use super::driver::{Copy2d, DeviceError, DevicePointer, Driver, Handle, Result};

const REGISTER_PORTABLE: u32 = 0x01;
const REGISTER_READ_ONLY: u32 = 0x08;
const STREAM_NON_BLOCKING: u32 = 1;
const EVENT_DISABLE_TIMING: u32 = 2;
const MEMORY_HOST: u32 = 1;
const MEMORY_DEVICE: u32 = 2;
const STREAMS_MAX: u32 = 16;

/// Pieces of host memory that lie `stride_bytes` apart, one after the other on the device.
pub struct Copy {
    pub target: DevicePointer,
    pub source: *const c_void,
    pub run_bytes: usize,
    pub stride_bytes: usize,
    pub runs: usize,
    /// The stream on which `target` was made and will be used; null is the default one.
    pub consumer: Handle,
}

pub struct Copier {
    driver: Driver,
    device: i32,
    context: Handle,
    streams: Vec<Handle>,
    next: usize,
    /// Start of host memory → its bytes.
    registered: BTreeMap<usize, usize>,
}

impl Copier {
    /// Opens a device by its ordinal with so many streams of its own.
    pub fn open(driver: Driver, ordinal: i32, streams: u32) -> Result<Copier> {
        if streams == 0 || streams > STREAMS_MAX {
            return Err(DeviceError(format!(
                "{streams} streams cannot be: 1 to {STREAMS_MAX}"
            )));
        }
        let mut count = 0;
        driver.device_count((&mut count,))?;
        if ordinal < 0 || ordinal >= count {
            return Err(DeviceError(format!(
                "there is no CUDA device {ordinal}: the machine has {count}"
            )));
        }
        let (mut device, mut context) = (0, ptr::null_mut());
        driver.device_get((&mut device, ordinal))?;
        // The primary one: what PyTorch uses too, so its pointers and streams are ours.
        driver.context_retain((&mut context, device))?;
        let mut copier = Copier {
            driver,
            device,
            context,
            streams: Vec::new(),
            next: 0,
            registered: BTreeMap::new(),
        };
        copier.inside(|copier| {
            for _ in 0..streams {
                let mut stream = ptr::null_mut();
                copier
                    .driver
                    .stream_create((&mut stream, STREAM_NON_BLOCKING))?;
                copier.streams.push(stream);
            }
            Ok(())
        })?;
        Ok(copier)
    }

    /// Pins host memory, so that the device reads it at the link's speed. It must stay mapped until `unregister`; it may be
    /// mapped for reading only.
    pub fn register(&mut self, start: *mut c_void, bytes: usize) -> Result<()> {
        if bytes == 0 || self.registered.contains_key(&(start as usize)) {
            return Ok(());
        }
        self.inside(|copier| {
            let flags = REGISTER_PORTABLE | REGISTER_READ_ONLY;
            copier.driver.host_register((start, bytes, flags))?;
            copier.registered.insert(start as usize, bytes);
            Ok(())
        })
    }

    /// After `wait`. What was never registered is left alone.
    pub fn unregister(&mut self, start: *mut c_void) -> Result<()> {
        self.inside(|copier| match copier.registered.remove(&(start as usize)) {
            Some(_) => copier.driver.host_unregister((start,)),
            None => Ok(()),
        })
    }

    /// Queues a copy and returns (D1).
    ///
    /// # Safety
    /// The source stays mapped and unchanged until `wait` has returned; the target is device memory of this size.
    pub unsafe fn copy(&mut self, copy: &Copy) -> Result<()> {
        if copy.run_bytes == 0 || copy.runs == 0 {
            return Ok(());
        }
        if copy.runs > 1 && copy.stride_bytes < copy.run_bytes {
            return Err(DeviceError("runs must not overlap".into()));
        }
        self.inside(|copier| {
            let stream = copier.streams[copier.next % copier.streams.len()];
            copier.next += 1;
            copier.after(copy.consumer, stream)?;
            copier.submit(copy, stream)?;
            copier.after(stream, copy.consumer)
        })
    }

    fn submit(&self, copy: &Copy, stream: Handle) -> Result<()> {
        let &Copy {
            target,
            source,
            run_bytes,
            stride_bytes,
            runs,
            ..
        } = copy;
        if runs == 1 || stride_bytes == run_bytes {
            return self
                .driver
                .copy_to_device((target, source, run_bytes * runs, stream));
        }
        let rows = Copy2d {
            source_x: 0,
            source_y: 0,
            source_kind: MEMORY_HOST,
            source_host: source,
            source_device: 0,
            source_array: ptr::null_mut(),
            source_pitch: stride_bytes,
            target_x: 0,
            target_y: 0,
            target_kind: MEMORY_DEVICE,
            target_host: ptr::null_mut(),
            target_device: target,
            target_array: ptr::null_mut(),
            target_pitch: run_bytes,
            width: run_bytes,
            height: runs,
        };
        self.driver.copy_rows((&rows, stream))
    }

    /// What is queued on `later` from now on waits for what is queued on `earlier`.
    fn after(&self, earlier: Handle, later: Handle) -> Result<()> {
        let mut event = ptr::null_mut();
        self.driver
            .event_create((&mut event, EVENT_DISABLE_TIMING))?;
        let ordered = self
            .driver
            .event_record((event, earlier))
            .and_then(|()| self.driver.stream_wait((later, event, 0)));
        // The driver keeps a destroyed event until it has been reached.
        self.driver.event_destroy((event,))?;
        ordered
    }

    /// Returns when every copy is done (D2).
    pub fn wait(&mut self) -> Result<()> {
        self.inside(|copier| {
            copier
                .streams
                .iter()
                .try_for_each(|stream| copier.driver.stream_synchronize((*stream,)))
        })
    }

    /// With the device's context current on this thread, and whatever was current before it afterwards.
    fn inside<T>(&mut self, work: impl FnOnce(&mut Copier) -> Result<T>) -> Result<T> {
        self.driver.context_push((self.context,))?;
        let result = work(self);
        let mut before = ptr::null_mut();
        self.driver.context_pop((&mut before,))?;
        result
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        // Nobody is left to tell of an error; the driver frees what remains when the process ends.
        let _ = self.wait();
        let _ = self.inside(|copier| {
            for start in std::mem::take(&mut copier.registered).into_keys() {
                let _ = copier.driver.host_unregister((start as *mut c_void,));
            }
            for stream in copier.streams.drain(..) {
                let _ = copier.driver.stream_destroy((stream,));
            }
            Ok(())
        });
        let _ = self.driver.context_release((self.device,));
    }
}
