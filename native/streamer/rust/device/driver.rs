//! The driver's functions by name (https://docs.nvidia.com/cuda/cuda-driver-api). The library is the one that came with the
//! machine's kernel driver; its ABI is stable, names with `_v2` are the current ones.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::ptr;

/// The name under which every Linux driver installs it.
const LIBRARY: &str = "libcuda.so.1";

pub type Handle = *mut c_void;
pub type DevicePointer = u64;

const SUCCESS: c_int = 0;

/// What went wrong, in words that name the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceError(pub String);

impl fmt::Display for DeviceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

pub type Result<T> = std::result::Result<T, DeviceError>;

/// CUDA_MEMCPY2D: rows of bytes, each side with its own distance between them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2d {
    pub source_x: usize,
    pub source_y: usize,
    pub source_kind: c_uint,
    pub source_host: *const c_void,
    pub source_device: DevicePointer,
    pub source_array: Handle,
    pub source_pitch: usize,
    pub target_x: usize,
    pub target_y: usize,
    pub target_kind: c_uint,
    pub target_host: *mut c_void,
    pub target_device: DevicePointer,
    pub target_array: Handle,
    pub target_pitch: usize,
    pub width: usize,
    pub height: usize,
}

macro_rules! functions {
    ($($field:ident = $symbol:literal : fn($($argument:ty),*);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl Functions {
            /// SAFETY: `library` is an open CUDA driver, so each symbol has the type that is written here.
            unsafe fn load(library: Handle) -> Result<Functions> {
                Ok(Functions { $($field: {
                    let address = unsafe { symbol(library, $symbol)? };
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> c_int>(address) }
                },)* })
            }
        }

        impl Driver {
            $(pub fn $field(&self, arguments: ($($argument,)*)) -> Result<()> {
                // SAFETY: the callers in `copier` keep each function's contract.
                let code = unsafe { functions!(@call self.functions.$field, arguments, $($argument),*) };
                self.check($symbol, code)
            })*
        }
    };
    (@call $f:expr, $a:ident, $t1:ty) => { ($f)($a.0) };
    (@call $f:expr, $a:ident, $t1:ty, $t2:ty) => { ($f)($a.0, $a.1) };
    (@call $f:expr, $a:ident, $t1:ty, $t2:ty, $t3:ty) => { ($f)($a.0, $a.1, $a.2) };
    (@call $f:expr, $a:ident, $t1:ty, $t2:ty, $t3:ty, $t4:ty) => { ($f)($a.0, $a.1, $a.2, $a.3) };
}

/// An initialised driver. The library stays loaded for the life of the process: unloading a driver is not supported by it.
pub struct Driver {
    functions: Functions,
    error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
}

functions! {
    init = "cuInit": fn(c_uint);
    device_count = "cuDeviceGetCount": fn(*mut c_int);
    device_get = "cuDeviceGet": fn(*mut c_int, c_int);
    context_retain = "cuDevicePrimaryCtxRetain": fn(*mut Handle, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2": fn(c_int);
    context_push = "cuCtxPushCurrent_v2": fn(Handle);
    context_pop = "cuCtxPopCurrent_v2": fn(*mut Handle);
    host_register = "cuMemHostRegister_v2": fn(*mut c_void, usize, c_uint);
    host_unregister = "cuMemHostUnregister": fn(*mut c_void);
    copy_to_device = "cuMemcpyHtoDAsync_v2": fn(DevicePointer, *const c_void, usize, Handle);
    copy_rows = "cuMemcpy2DAsync_v2": fn(*const Copy2d, Handle);
    stream_create = "cuStreamCreate": fn(*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2": fn(Handle);
    stream_synchronize = "cuStreamSynchronize": fn(Handle);
    stream_wait = "cuStreamWaitEvent": fn(Handle, Handle, c_uint);
    event_create = "cuEventCreate": fn(*mut Handle, c_uint);
    event_record = "cuEventRecord": fn(Handle, Handle);
    event_destroy = "cuEventDestroy_v2": fn(Handle);
}

impl Driver {
    /// The machine's driver. Fails where there is none, or no device.
    pub fn load() -> Result<Driver> {
        Driver::load_from(LIBRARY)
    }

    pub fn load_from(path: &str) -> Result<Driver> {
        let name =
            CString::new(path).map_err(|_| DeviceError("a path without NUL is needed".into()))?;
        // SAFETY: dlopen runs the library's initialisers; the driver's are meant for this.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(DeviceError(format!(
                "no CUDA driver on this machine: {}",
                last_load_error()
            )));
        }
        // SAFETY: the library calls itself the CUDA driver.
        let driver = unsafe {
            Driver {
                functions: Functions::load(library)?,
                error_name: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
                >(symbol(library, "cuGetErrorName")?),
            }
        };
        driver.init((0,))?;
        Ok(driver)
    }

    fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == SUCCESS {
            return Ok(());
        }
        let mut text: *const c_char = ptr::null();
        // SAFETY: on success the driver gives a string that lives as long as it.
        let name = unsafe {
            match (self.error_name)(code, &mut text) {
                SUCCESS if !text.is_null() => CStr::from_ptr(text).to_string_lossy().into_owned(),
                _ => "unknown".into(),
            }
        };
        Err(DeviceError(format!("{call}: {name} ({code})")))
    }
}

/// SAFETY: `library` is open.
unsafe fn symbol(library: Handle, name: &str) -> Result<*mut c_void> {
    let text =
        CString::new(name).map_err(|_| DeviceError("a name without NUL is needed".into()))?;
    let address = unsafe { libc::dlsym(library, text.as_ptr()) };
    if address.is_null() {
        return Err(DeviceError(format!(
            "the CUDA driver is too old: it has no {name}"
        )));
    }
    Ok(address)
}

fn last_load_error() -> String {
    // SAFETY: dlerror gives null or a string that lives until this thread's next call.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "not found".into()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}
