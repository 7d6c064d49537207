//! Threads that read ranges, one at a time each. A panic in one is that range's failure and the thread goes on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use crate::connection::{Patience, Shelf};
use crate::failure::{Failure, Kind};
use crate::transfer::{BUFFER_BYTES, Control, Request, transfer};

pub struct Job {
    pub request: Request,
    pub control: Arc<Control>,
    /// Called once, on the pool's thread.
    pub done: Box<dyn FnOnce(Result<(), Failure>) + Send>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    shelf: Shelf,
}

pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub fn start(threads: usize, patience: Patience) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            shelf: Shelf::new(threads),
        });
        let mut pool = Pool {
            shared: shared.clone(),
            threads: Vec::new(),
        };
        for i in 0..threads {
            let shared = shared.clone();
            // Dropping the pool on an error ends the threads that were started.
            let thread = std::thread::Builder::new()
                .name(format!("range-{i}"))
                .stack_size(256 * 1024)
                .spawn(move || work(&shared, patience))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues the job. On a closed pool it fails as cancelled.
    pub fn submit(&self, job: Job) {
        let mut queue = self.shared.queue.lock().expect("no panic while locked");
        if queue.closed {
            drop(queue);
            return refuse(job);
        }
        queue.jobs.push_back(job);
        self.shared.changed.notify_one();
    }

    /// Ends the threads once their ranges have ended, without waiting; queued ranges fail as cancelled.
    pub fn close(&self) {
        let left = {
            let mut queue = self.shared.queue.lock().expect("no panic while locked");
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        self.shared.changed.notify_all();
        left.into_iter().for_each(refuse);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            // A worker catches its panics; joining cannot tell anything more.
            let _ = thread.join();
        }
    }
}

fn refuse(job: Job) {
    (job.done)(Err(Failure::new(Kind::Cancelled, "the streamer is closed")));
}

fn work(shared: &Shared, patience: Patience) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(Job {
        request,
        control,
        done,
    }) = next(shared)
    {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            transfer(&request, &control, &shared.shelf, patience, &mut buffer)
        }));
        done(
            outcome
                .unwrap_or_else(|_| Err(Failure::new(Kind::Internal, "a range reader panicked"))),
        );
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut queue = shared.queue.lock().expect("no panic while locked");
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        if queue.closed {
            return None;
        }
        queue = shared.changed.wait(queue).expect("no panic while locked");
    }
}
