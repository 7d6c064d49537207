//! Moves ranges of objects from HTTP(S) servers into open files, checking them block by block on the way. Policy (what to
//! fetch, how much at once, when to try again) is the caller's; this crate moves bytes and says what went wrong.
//!
//! One thread reads one range at a time over its own kept-alive connections, with blocking calls: received bytes pass
//! through one small buffer that stays in the processor's cache, are summed there, and are written with pwrite(2).
//! pwrite rather than a mapping, because a full file system then is an error and not a SIGBUS.

mod boundary;
pub mod connection;
pub mod failure;
pub mod head;
pub mod pool;
pub mod transfer;
