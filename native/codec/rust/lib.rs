//! What a conversion does with every byte of an image, off the event loop and into buffers that are used again and again: layers
//! uncompressed and hashed (`gunzip`), chunks hashed and compressed (`encode`), and what comes and goes hashed (`hash`). Runs on
//! libuv's thread pool.

pub mod cache;
pub mod encode;
pub mod gunzip;
pub mod hash;
