//! Working memory of a step: one row per token.

use crate::kernels::Isa;
use crate::pool::Pool;
use std::ops::Range;

/// f32 rows, and the same rounded to bf16 for projections that multiply in bf16.
#[derive(Default)]
pub struct Rows {
    pub f32: Vec<f32>,
    pub bf16: Vec<u16>,
    width: usize,
}

impl Rows {
    /// Room for `tokens` rows of `width`; the content is unspecified.
    pub fn shape(&mut self, tokens: usize, width: usize) {
        self.width = width;
        self.f32.resize(tokens * width, 0.0);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.f32.len() / self.width.max(1)
    }

    /// The first row from a column on; `rounded` to bf16, which `round` has brought up to date.
    pub fn column(&self, rounded: bool, column: usize) -> *const u8 {
        if rounded {
            assert!(self.bf16.len() == self.f32.len());
            self.bf16.as_ptr().wrapping_add(column).cast()
        } else {
            self.f32.as_ptr().wrapping_add(column).cast()
        }
    }

    /// Brings `bf16` up to date with `f32`.
    pub fn round(&mut self, pool: &mut Pool, isa: Isa) {
        self.bf16.resize(self.f32.len(), 0);
        let (width, rows) = (self.width, self.len());
        let source = &self.f32;
        let rounded = Shared::new(&mut self.bf16);
        each_row(pool, rows, width, &|t| {
            // SAFETY: each token's row is written by one thread.
            let out = unsafe { rounded.slice(t * width..(t + 1) * width) };
            isa.to_bf16(&source[t * width..(t + 1) * width], out);
        });
    }
}

/// A slice of which threads write disjoint parts.
pub struct Shared<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: `slice` is unsafe and asks for disjoint ranges.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(slice: &mut [T]) -> Shared<T> {
        Shared { start: slice.as_mut_ptr(), len: slice.len() }
    }
    /// # Safety
    /// No two threads hold overlapping ranges at the same time, and the slice outlives them.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }
}

/// Elements below which waking other threads costs more than it saves.
const SERIAL_ELEMENTS: usize = 16 * 1024;
const ROWS_PER_ITEM: usize = 8;

/// Calls `work` with each row number; on all threads when there is enough to do.
pub fn each_row(pool: &mut Pool, rows: usize, width: usize, work: &(dyn Fn(usize) + Sync)) {
    if rows * width < SERIAL_ELEMENTS {
        (0..rows).for_each(work);
        return;
    }
    pool.run(rows.div_ceil(ROWS_PER_ITEM), &|item| {
        (item * ROWS_PER_ITEM..((item + 1) * ROWS_PER_ITEM).min(rows)).for_each(work);
    });
}
