//! Moves ranges of objects from HTTP(S) servers into open files, checking them block by block on the way. Policy (what to
//! fetch, how much at once, when to try again) is the caller's; this crate moves bytes and says what went wrong.
//!
//! One thread reads one range at a time over its own kept-alive connections, with blocking calls. Into memory whose pages
//! were made ready before (`memory`) bytes are received where they stay, and summed while they are in the processor's cache.
//! Elsewhere they pass through one small buffer and are written with pwrite(2): into a mapping without pages a full file
//! system would be a SIGBUS instead of an error.

mod boundary;
pub mod connection;
pub mod device;
pub mod failure;
pub mod head;
pub mod memory;
pub mod pool;
pub mod transfer;
