//! Compute threads that share one piece of work at a time. Items are handed out one by one, so a thread that the
//! system took off its core delays only the item it holds. Between pieces of work a thread spins for a few
//! microseconds (a step has hundreds of pieces), then sleeps: an idle engine uses no CPU.

use crate::error::panic_message;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Rounds of the spin loop before a thread sleeps; about 20 microseconds.
const SPIN_ROUNDS: u32 = 600;

type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// The gate's highest bit: work may be joined. The rest counts the helpers inside.
const OPEN: u32 = 1 << 31;

struct Shared {
    /// Counts pieces of work; helpers wait for it to change.
    epoch: AtomicU32,
    gate: AtomicU32,
    /// Valid while the gate is open or counts somebody inside.
    work: UnsafeCell<Option<*const Work<'static>>>,
    items: AtomicUsize,
    next: AtomicUsize,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
    panic: Mutex<Option<String>>,
}

// SAFETY: `work` is written only while the gate is shut and empty, and read only by threads counted in the gate.
unsafe impl Sync for Shared {}
unsafe impl Send for Shared {}

pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` counts the caller: `Pool::new(1)` has no helpers.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            gate: AtomicU32::new(0),
            work: UnsafeCell::new(None),
            items: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, helpers: Vec::new() };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let name = format!("engine-{index}");
            pool.helpers.push(std::thread::Builder::new().name(name).spawn(move || shared.help())?);
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work(0)` to `work(items - 1)`, each once, on all threads; returns when all are done.
    /// A panic in any of them becomes a panic here, after the others have ended.
    pub fn run(&mut self, items: usize, work: &Work) {
        if items <= 1 || self.helpers.is_empty() {
            (0..items).for_each(work);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: the gate is shut and empty (`&mut self`, and the end of the last call waited for that), so nobody
        // reads `work`; the lifetime ends after `close` below saw the last helper leave.
        unsafe { *shared.work.get() = Some(std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work)) };
        shared.items.store(items, Relaxed);
        shared.next.store(0, Relaxed);
        shared.gate.store(OPEN, Release);
        shared.epoch.fetch_add(1, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            let _guard = lock(&shared.sleep);
            shared.wake.notify_all();
        }
        shared.take_items(work);
        shared.close();
        if let Some(message) = lock(&shared.panic).take() {
            panic!("{message}");
        }
    }
}

impl Shared {
    fn take_items(&self, work: &Work) {
        let items = self.items.load(Relaxed);
        loop {
            let item = self.next.fetch_add(1, Relaxed);
            if item >= items {
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(item))) {
                *lock(&self.panic) = Some(panic_message(&*payload));
                self.next.store(items, Relaxed);
            }
        }
    }

    /// Shuts the gate and waits for the helpers inside; each holds at most one item.
    fn close(&self) {
        self.gate.fetch_and(!OPEN, AcqRel);
        let mut rounds = 0u32;
        while self.gate.load(Acquire) != 0 {
            rounds += 1;
            if rounds < SPIN_ROUNDS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    fn enter(&self) -> bool {
        let join = |gate: u32| (gate & OPEN != 0).then_some(gate + 1);
        self.gate.fetch_update(AcqRel, Acquire, join).is_ok()
    }

    fn help(&self) {
        let mut seen = 0;
        while self.wait(&mut seen) {
            if self.enter() {
                // SAFETY: inside the gate, see `run`.
                if let Some(work) = unsafe { *self.work.get() } {
                    self.take_items(unsafe { &*work });
                }
                self.gate.fetch_sub(1, AcqRel);
            }
        }
    }

    /// Until there is new work; false when the pool ends.
    fn wait(&self, seen: &mut u32) -> bool {
        for _ in 0..SPIN_ROUNDS {
            if self.changed(seen) {
                return !self.stop.load(Acquire);
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, SeqCst);
        while !self.changed(seen) {
            guard = self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.sleepers.fetch_sub(1, SeqCst);
        !self.stop.load(Acquire)
    }

    fn changed(&self, seen: &mut u32) -> bool {
        let epoch = self.epoch.load(SeqCst);
        std::mem::replace(seen, epoch) != epoch
    }
}

/// Locks even after a panic of another holder: what these locks guard is replaced whole, never left half-done.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Release);
        self.shared.epoch.fetch_add(1, SeqCst);
        let guard = lock(&self.shared.sleep);
        self.shared.wake.notify_all();
        drop(guard);
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_item_runs_once() {
        let mut pool = Pool::new(4).unwrap();
        for round in 0..2_000usize {
            let items = round % 37;
            let seen: Vec<AtomicU64> = (0..items).map(|_| AtomicU64::new(0)).collect();
            pool.run(items, &|i| {
                seen[i].fetch_add(1, Relaxed);
            });
            assert!(seen.iter().all(|count| count.load(Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(3).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(64, &|i| assert!(i != 40, "item forty"))));
        assert!(panic_message(&*result.unwrap_err()).contains("item forty"));
        let sum = AtomicU64::new(0);
        pool.run(10, &|i| {
            sum.fetch_add(i as u64, Relaxed);
        });
        assert_eq!(sum.load(Relaxed), 45);
    }
}
