//! Touches memory and gives it back: `touch BYTES [FOLDER]`, with a folder that of a file there, on a tmpfs. A virtual machine may
//! hand free memory back to its host, huge pages first, and then the first touch of each page costs many times what it costs on
//! real hardware, to whoever comes first. Run before each side of a comparison, so that all find the machine alike.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const PAGE_BYTES: u64 = 4096;

fn main() {
    let mut args = std::env::args().skip(1);
    let bytes: u64 = args
        .next()
        .and_then(|text| text.parse().ok())
        .expect("touch BYTES [FOLDER]");
    match args.next() {
        Some(folder) => touch_file(bytes, &PathBuf::from(folder).join("touched")),
        None => touch_own(usize::try_from(bytes).expect("bytes that this machine can have")),
    }
}

fn touch_own(bytes: usize) {
    let mut memory = Vec::<u8>::with_capacity(bytes);
    for page in memory.spare_capacity_mut().chunks_mut(4096) {
        page[0].write(1);
    }
    std::hint::black_box(&memory);
}

fn touch_file(bytes: u64, path: &PathBuf) {
    let file = File::create(path).expect("a file in the folder");
    file.set_len(bytes).expect("a file of that length");
    for offset in (0..bytes).step_by(PAGE_BYTES as usize) {
        file.write_all_at(&[1], offset).expect("room in the folder");
    }
    std::fs::remove_file(path).expect("the file that was just made");
}
