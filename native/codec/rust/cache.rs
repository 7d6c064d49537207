//! What files leave in the kernel's page cache.

use napi_derive::napi;

/// These bytes of a file will not be read again soon. Advice: what cannot be dropped stays, and no answer is needed.
#[napi]
pub fn forget_cached(fd: i32, offset: i64, length: i64) {
    #[cfg(target_os = "linux")]
    // SAFETY: takes no pointers; a descriptor that is not open is answered with an error.
    unsafe {
        libc::posix_fadvise(fd, offset, length, libc::POSIX_FADV_DONTNEED);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (fd, offset, length);
}
