//! What the handler says to whoever reads its standard error: usually a file, on a disk that may be full. `eprintln!` panics
//! there, and a panic under a lock spoils the lock for good.

/// Like `eprintln!`, but what cannot be written is left out.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($what)*);
    }};
}
