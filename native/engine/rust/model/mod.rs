//! The models: which tensors they need, how they are put together, and one step of computation over packed tokens.

mod assembly;
mod decoder;
mod division;
mod encoder;
mod expected;
mod kv;
mod linear;
mod rows;
mod table;

pub use assembly::{Announced, Assembly, Claim, WeightBytes};
pub use decoder::{Decoder, DecoderStep, Span};
pub use division::check_group;
pub use encoder::Encoder;
pub use expected::Expected;
pub use kv::KvCache;

pub enum Model {
    Decoder(Decoder),
    Encoder(Encoder),
}

#[cfg(test)]
mod tests;
