//! Touches memory and gives it back: `touch BYTES`. A virtual machine may hand free memory back to its host, and then the
//! first touch of each page costs many times what it costs on real hardware, to whoever comes first. Run before each side of
//! a comparison, so that all find the machine alike.

fn main() {
    let bytes: usize = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("touch BYTES");
    let mut memory = Vec::<u8>::with_capacity(bytes);
    for page in memory.spare_capacity_mut().chunks_mut(4096) {
        page[0].write(1);
    }
    std::hint::black_box(&memory);
}
