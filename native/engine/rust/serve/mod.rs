//! The engine as others use it: requests in, events out, one thread that computes steps, continuous batching.

mod engine;
mod events;
mod loading;
mod request;
mod sampler;
mod scheduler;
mod sequence;
mod worker;

pub use engine::{Engine, EngineOptions, ModelInfo, Stats, Ticket};
pub use events::{Chunk, Event, FieldValue, FinishReason, Level, LogLine, TokenLogprobs, Usage};
pub use request::{EmbedRequest, GenerateRequest, Prompt};
