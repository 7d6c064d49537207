//! Random input for tests of parsers: the same for the same seed, so that a failure can be seen again. Few inputs in every test
//! run, as many as there is time for by `npm run fuzz`.

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Calls `check` with damaged copies of `valid`; `repair` makes checksums fit again. The seed of each call is printed by a failure.
pub fn with_damage(brief: u64, valid: &[u8], repair: impl Fn(&mut [u8]), check: impl Fn(&[u8])) {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    let first = number("PILOTLIGHT_FUZZ_SEED", 1);
    for seed in first..first + brief * number("PILOTLIGHT_FUZZ_FACTOR", 1) {
        let mut bytes = valid.to_vec();
        let mut random = Random(seed);
        for _ in 0..=random.below(4) {
            damage(&mut bytes, &mut random);
        }
        repair(&mut bytes);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&bytes)));
        assert!(outcome.is_ok(), "PILOTLIGHT_FUZZ_SEED={seed} fails: {}", crate::image::hex(&bytes));
    }
}

/// What readers trip over: bits, numbers at their limits, pieces that are missing, twice there or somewhere else.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    const LIMITS: [u64; 8] =
        [0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x1_0000_0000, i64::MAX as u64, u64::MAX - 4095, u64::MAX];
    let at = random.below(bytes.len());
    match random.below(6) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 => {
            let value = LIMITS[random.below(LIMITS.len())].to_le_bytes();
            let width = if random.below(2) == 0 { 4 } else { 8 };
            let aligned = at / 4 * 4;
            let end = (aligned + width).min(bytes.len());
            bytes[aligned..end].copy_from_slice(&value[..end - aligned]);
        }
        2 => bytes.truncate(at),
        3 => {
            let length = random.below(bytes.len() - at).min(256);
            let piece = bytes[at..at + length].to_vec();
            bytes.splice(at..at, piece);
        }
        4 => {
            let to = random.below(bytes.len());
            let length = random.below(bytes.len() - at.max(to)).min(64);
            bytes.copy_within(at..at + length, to);
        }
        _ if bytes.len() >= 4 => {
            let aligned = at.min(bytes.len() - 4) / 4 * 4;
            let near = u32::from_le_bytes(bytes[aligned..aligned + 4].try_into().unwrap())
                .wrapping_add(random.below(9) as u32)
                .wrapping_sub(4);
            bytes[aligned..aligned + 4].copy_from_slice(&near.to_le_bytes());
        }
        _ => {}
    }
}
