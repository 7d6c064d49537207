//! A gzip stream piece by piece: uncompressed into a buffer of the caller's, and hashed there while it is in the processor's cache.
//! JavaScript keeps its hands off both buffers until the promise has settled.

use std::sync::{Arc, Mutex};

use flate2::{Decompress, FlushDecompress, Status};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use sha2::{Digest, Sha256};

/// The largest window of the format (RFC 1951).
const WINDOW_BITS: u8 = 15;

enum At {
    Member(Box<Decompress>),
    /// A member ended; another one or padding may follow (RFC 1952, section 2.2).
    Between,
    /// Zeros after the last member, as writers of whole blocks leave them. Nothing else may follow.
    Padding,
}

struct Stream {
    at: At,
    hash: Sha256,
}

impl Stream {
    /// Takes input and gives output until one of them is used up.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> std::result::Result<(usize, usize), String> {
        let (mut read, mut written) = (0, 0);
        loop {
            match &mut self.at {
                // What it was given before may have more to give.
                At::Member(_) if written == output.len() => break,
                At::Member(member) => {
                    let (before_in, before_out) = (member.total_in(), member.total_out());
                    let status = member
                        .decompress(&input[read..], &mut output[written..], FlushDecompress::None)
                        .map_err(|error| error.to_string())?;
                    let (took, gave) =
                        ((member.total_in() - before_in) as usize, (member.total_out() - before_out) as usize);
                    read += took;
                    written += gave;
                    match status {
                        Status::StreamEnd => self.at = At::Between,
                        _ if took > 0 || gave > 0 => {}
                        _ if read == input.len() => break,
                        _ => return Err("the stream does not go on".into()),
                    }
                }
                _ if read == input.len() => break,
                At::Between if input[read] == 0 => self.at = At::Padding,
                At::Between => self.at = At::Member(Box::new(Decompress::new_gzip(WINDOW_BITS))),
                At::Padding if input[read..].iter().all(|byte| *byte == 0) => read = input.len(),
                At::Padding => return Err("something other than zeros follows the stream".into()),
            }
        }
        self.hash.update(&output[..written]);
        Ok((read, written))
    }
}

#[napi(object)]
pub struct Progress {
    /// Bytes taken of the input.
    pub read: u32,
    /// Bytes put into the output.
    pub written: u32,
}

pub struct Step {
    stream: Arc<Mutex<Stream>>,
    input: Buffer,
    from: usize,
    output: Buffer,
    at: usize,
}

impl Task for Step {
    type Output = Progress;
    type JsValue = Progress;

    fn compute(&mut self) -> Result<Progress> {
        let mut stream = self.stream.lock().map_err(|_| Error::from_reason("an earlier step failed"))?;
        let (read, written) =
            stream.step(&self.input[self.from..], &mut self.output[self.at..]).map_err(Error::from_reason)?;
        Ok(Progress { read: read as u32, written: written as u32 })
    }

    fn resolve(&mut self, _: Env, progress: Progress) -> Result<Progress> {
        Ok(progress)
    }
}

/// One gzip stream of any number of members. One step at a time.
#[napi]
pub struct Gunzip {
    stream: Arc<Mutex<Stream>>,
}

#[napi]
impl Gunzip {
    #[napi(constructor)]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let stream = Stream { at: At::Between, hash: Sha256::new() };
        Gunzip { stream: Arc::new(Mutex::new(stream)) }
    }

    /// Takes input from `from` on and fills `output` from `at` on, until one of them is used up.
    #[napi(ts_return_type = "Promise<Progress>")]
    pub fn step(&self, input: Buffer, from: u32, output: Buffer, at: u32) -> Result<AsyncTask<Step>> {
        let (from, at) = (from as usize, at as usize);
        if from > input.len() || at > output.len() {
            return Err(Error::from_reason("a position lies outside its buffer"));
        }
        Ok(AsyncTask::new(Step { stream: self.stream.clone(), input, from, output, at }))
    }

    /// The input is over: the SHA-256 of the output. Throws where the stream is not.
    #[napi]
    pub fn finish(&self) -> Result<Buffer> {
        let mut stream = self.stream.lock().map_err(|_| Error::from_reason("an earlier step failed"))?;
        if matches!(stream.at, At::Member(_)) {
            return Err(Error::from_reason("unexpected end of file"));
        }
        Ok(std::mem::take(&mut stream.hash).finalize().to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn member(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn all(stored: &[u8], room: usize) -> std::result::Result<Vec<u8>, String> {
        let mut stream = Stream { at: At::Between, hash: Sha256::new() };
        let (mut out, mut read) = (Vec::new(), 0);
        let mut output = vec![0; room];
        while read < stored.len() {
            let (took, gave) = stream.step(&stored[read..], &mut output)?;
            read += took;
            out.extend_from_slice(&output[..gave]);
        }
        assert_eq!(stream.hash.finalize().as_slice(), Sha256::digest(&out).as_slice());
        Ok(out)
    }

    #[test]
    fn members_one_after_the_other_and_padding_come_out_whatever_the_room() {
        let (a, b) = (vec![b'a'; 70_000], (0..50_000u32).map(|i| (i * i % 251) as u8).collect::<Vec<_>>());
        let stored = [member(&a), member(&b), vec![0; 600]].concat();
        for room in [1, 77, 4096, 1 << 20] {
            assert_eq!(all(&stored, room).unwrap(), [a.clone(), b.clone()].concat());
        }
    }

    #[test]
    fn damage_and_rubbish_behind_are_refused() {
        let stored = member(b"content that is long enough to have a body");
        let mut wrong = stored.clone();
        let sum = wrong.len() - 8;
        wrong[sum] ^= 1;
        assert!(all(&wrong, 4096).is_err());
        assert!(all(&[stored.clone(), b"rubbish".to_vec()].concat(), 4096).is_err());
        assert!(all(&[stored, vec![0, 0, 7]].concat(), 4096).is_err());
    }
}
