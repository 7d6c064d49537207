//! From host memory to an accelerator: the CUDA driver, found when it is first needed. Nothing of CUDA is needed to build this or
//! to run it on a machine without one; whoever asks for a device there is told so.
//!
//!   D1. A copy begins when the consumer's stream has come to where it was asked for, and what the consumer does afterwards on
//!       that stream sees the bytes: nobody waits on the host.
//!   D2. Host memory stays registered, and is read, until `wait` has returned or the copier is dropped.

pub mod abi;
mod copier;
mod driver;

pub use copier::{Copier, Copy};
pub use driver::{DeviceError, Driver};

#[cfg(test)]
mod tests;
