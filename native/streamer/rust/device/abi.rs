//! The copier for programs in other languages: the Python loader calls it through ctypes. Plain numbers in; 0 or a pointer out,
//! and where something went wrong its text in `error`. One copier is used by one thread at a time.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use super::copier::{Copier, Copy};
use super::driver::{DeviceError, Driver, Result};

/// Room for a message, its end included.
#[repr(C)]
pub struct ErrorText {
    text: *mut c_char,
    bytes: usize,
}

impl ErrorText {
    /// SAFETY: `text` points to `bytes` bytes, or is null.
    unsafe fn write(&self, error: &DeviceError) {
        if self.text.is_null() || self.bytes == 0 {
            return;
        }
        let message = error.0.as_bytes();
        let length = message.len().min(self.bytes - 1);
        unsafe {
            ptr::copy_nonoverlapping(message.as_ptr(), self.text.cast(), length);
            *self.text.add(length) = 0;
        }
    }
}

/// A panic must not cross into C: it is an error like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DeviceError("the copier panicked".into())))
}

fn status(result: Result<()>, error: ErrorText) -> c_int {
    match result {
        Ok(()) => 0,
        Err(found) => {
            // SAFETY: the caller's promise.
            unsafe { error.write(&found) };
            -1
        }
    }
}

/// Null, and the reason, where there is no such device.
///
/// # Safety
/// `error` describes writable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_device_open(
    ordinal: c_int,
    streams: u32,
    error: ErrorText,
) -> *mut Copier {
    match guarded(|| Copier::open(Driver::load()?, ordinal, streams)) {
        Ok(copier) => Box::into_raw(Box::new(copier)),
        Err(found) => {
            unsafe { error.write(&found) };
            ptr::null_mut()
        }
    }
}

/// # Safety
/// `copier` came from `pilotlight_device_open`; the memory stays mapped until it is unregistered or the copier closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_device_register(
    copier: *mut Copier,
    start: *mut c_void,
    bytes: usize,
    error: ErrorText,
) -> c_int {
    status(
        guarded(|| unsafe { &mut *copier }.register(start, bytes)),
        error,
    )
}

/// # Safety
/// As `Copier::copy`; `copier` came from `pilotlight_device_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_device_copy(
    copier: *mut Copier,
    target: u64,
    source: *const c_void,
    run_bytes: usize,
    stride_bytes: usize,
    runs: usize,
    consumer: *mut c_void,
    error: ErrorText,
) -> c_int {
    let copy = Copy {
        target,
        source,
        run_bytes,
        stride_bytes,
        runs,
        consumer,
    };
    status(guarded(|| unsafe { (*copier).copy(&copy) }), error)
}

/// # Safety
/// `copier` came from `pilotlight_device_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_device_wait(copier: *mut Copier, error: ErrorText) -> c_int {
    status(guarded(|| unsafe { &mut *copier }.wait()), error)
}

/// Waits, unregisters and closes.
///
/// # Safety
/// `copier` came from `pilotlight_device_open` and is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pilotlight_device_close(copier: *mut Copier) {
    let _ = guarded(|| {
        drop(unsafe { Box::from_raw(copier) });
        Ok(())
    });
}
