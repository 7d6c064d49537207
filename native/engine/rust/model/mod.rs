//! The models: which tensors they need, how they are put together, and one step of computation over packed tokens.

mod assembly;
mod decoder;
mod encoder;
mod kv;
mod linear;
mod rows;

pub use assembly::{Assembly, Claim, Expected, WeightBytes};
pub use decoder::{Decoder, DecoderStep, Span};
pub use encoder::Encoder;
pub use kv::KvCache;

pub enum Model {
    Decoder(Decoder),
    Encoder(Encoder),
}

#[cfg(test)]
mod tests;
