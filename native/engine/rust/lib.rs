//! Pilotlight's embedded inference engine. `serve` is the engine as threads and queues, `boundary` hands it to Node.

mod boundary;
pub mod config;
pub mod error;
pub mod kernels;
pub mod model;
pub mod pool;
pub mod serve;
pub mod tensor;
pub mod text;
