//! An engine's side of a load: maps tensors as they are announced and reads from each of their pages, so that a load ends
//! when the last tensor is really in the reader's memory. One rank of a group reads its slices only.
//!
//! Standard input, one piece of a tensor a line, tab-separated: path, offset, bytes of a run, distance between runs, runs. At
//! the end of the input prints {"bytes", "sum"}: what was mapped, and a sum of what was read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::AsRawFd;

const PAGE_BYTES: usize = 4096;

fn main() -> io::Result<()> {
    let mut files: HashMap<String, &'static [u8]> = HashMap::new();
    let (mut bytes, mut sum) = (0, 0u64);
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut fields = line.split('\t');
        let path = fields.next().unwrap_or_default().to_string();
        let numbers: Vec<usize> = fields
            .map(|field| field.parse().map_err(io::Error::other))
            .collect::<io::Result<_>>()?;
        let [offset, run_bytes, stride, runs] = numbers[..] else {
            return Err(io::Error::other("a line has five fields"));
        };
        let file = match files.get(&path) {
            Some(file) => file,
            None => {
                let mapped = map(&path)?;
                files.entry(path).or_insert(mapped)
            }
        };
        for run in 0..runs {
            let begin = offset + run * stride;
            sum += file[begin..begin + run_bytes]
                .iter()
                .step_by(PAGE_BYTES)
                .map(|byte| u64::from(*byte))
                .sum::<u64>();
            bytes += run_bytes;
        }
    }
    println!(r#"{{"bytes":{bytes},"sum":{sum}}}"#);
    Ok(())
}

fn map(path: &str) -> io::Result<&'static [u8]> {
    let file = File::open(path)?;
    let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    // SAFETY: a new mapping of an open file, never unmapped; its owner keeps the file's length and content.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut(),
            bytes.max(1),
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(std::slice::from_raw_parts(memory.cast(), bytes))
    }
}
