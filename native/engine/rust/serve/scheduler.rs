//! Which sequences compute how many tokens in the next step, and who owns which block of the key/value cache. Numbers
//! only: no tokens, no time, no threads.
//!
//! Decoding sequences go first, one token each. Prompts share what is left of the step in equal parts, so a long one
//! does not hold up a short one; beside decoding sequences they get a smaller share, so that streams keep flowing. A
//! waiting request is admitted in order when the blocks of all its known tokens are free. When a decoding sequence needs
//! a block and none is free, the youngest sequence gives up its blocks and is computed again later: the oldest always
//! makes progress.

use crate::kernels::BLOCK_TOKENS;
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub blocks: usize,
    pub batch_tokens: usize,
    pub sequences: usize,
    /// Tokens of prompts in a step that also decodes.
    pub prompt_tokens_beside_decoding: usize,
}

#[derive(Debug)]
struct Entry {
    key: u32,
    /// Tokens known: prompt and answer so far.
    length: usize,
    /// Of these, how many have their keys and values in the cache.
    computed: usize,
    blocks: Vec<u32>,
    paused: bool,
}

/// `count` tokens of sequence `key`, from the first that is not computed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub key: u32,
    pub first: usize,
    pub count: usize,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub shares: Vec<Share>,
    pub admitted: Vec<u32>,
    pub preempted: Vec<u32>,
}

#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    free: Vec<u32>,
    /// In order of admission.
    running: Vec<Entry>,
    waiting: VecDeque<Entry>,
}

impl Scheduler {
    pub fn new(limits: Limits) -> Scheduler {
        let free = (0..limits.blocks as u32).rev().collect();
        Scheduler { limits, free, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// The caller checked that prompt and answer together fit into all blocks.
    pub fn enqueue(&mut self, key: u32, length: usize) {
        self.waiting.push_back(Entry { key, length, computed: 0, blocks: Vec::new(), paused: false });
    }

    pub fn remove(&mut self, key: u32) {
        self.waiting.retain(|entry| entry.key != key);
        if let Some(at) = self.running.iter().position(|entry| entry.key == key) {
            self.free.append(&mut self.running.remove(at).blocks);
        }
    }

    /// A paused sequence keeps its place and computes nothing.
    pub fn pause(&mut self, key: u32, paused: bool) {
        let entries = self.running.iter_mut().chain(self.waiting.iter_mut());
        entries.filter(|entry| entry.key == key).for_each(|entry| entry.paused = paused);
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
    pub fn blocks_used(&self) -> usize {
        self.limits.blocks - self.free.len()
    }
    pub fn blocks(&self, key: u32) -> &[u32] {
        self.running.iter().find(|entry| entry.key == key).map_or(&[], |entry| &entry.blocks)
    }

    /// After a step: these tokens are in the cache now.
    pub fn computed(&mut self, share: Share) {
        if let Some(entry) = self.running.iter_mut().find(|entry| entry.key == share.key) {
            entry.computed += share.count;
        }
    }

    /// One more token is known.
    pub fn append(&mut self, key: u32) {
        let entries = self.running.iter_mut().chain(self.waiting.iter_mut());
        entries.filter(|entry| entry.key == key).for_each(|entry| entry.length += 1);
    }

    /// The next step. Empty shares: nothing can be computed now.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        self.plan_decoding(&mut plan);
        let left = self.limits.batch_tokens - plan.shares.len();
        let for_prompts =
            if plan.shares.is_empty() { left } else { left.min(self.limits.prompt_tokens_beside_decoding) };
        if plan.preempted.is_empty() {
            self.admit(&mut plan);
        }
        self.plan_prompts(&mut plan, for_prompts);
        plan
    }

    fn plan_decoding(&mut self, plan: &mut Plan) {
        let keys: Vec<u32> = self
            .running
            .iter()
            .filter(|entry| entry.remaining() == 1 && !entry.paused)
            .map(|entry| entry.key)
            .collect();
        for key in keys.into_iter().take(self.limits.batch_tokens) {
            // Whoever was preempted for an older one is not running any more.
            let Some(at) = self.running.iter().position(|entry| entry.key == key) else { continue };
            if self.make_room(at, plan) {
                let first = self.running[at].computed;
                plan.shares.push(Share { key, first, count: 1 });
            }
        }
    }

    /// A block for the next token of running[at]; false when that sequence itself had to go.
    fn make_room(&mut self, at: usize, plan: &mut Plan) -> bool {
        while self.running[at].blocks.len() * BLOCK_TOKENS < self.running[at].length {
            match self.free.pop() {
                Some(block) => self.running[at].blocks.push(block),
                None => {
                    let youngest = self.running.len() - 1;
                    self.preempt(youngest, plan);
                    if youngest == at {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn preempt(&mut self, at: usize, plan: &mut Plan) {
        let mut entry = self.running.remove(at);
        self.free.append(&mut entry.blocks);
        entry.computed = 0;
        plan.preempted.push(entry.key);
        plan.shares.retain(|share| share.key != entry.key);
        self.waiting.push_front(entry);
    }

    fn admit(&mut self, plan: &mut Plan) {
        while self.running.len() < self.limits.sequences {
            let Some(entry) = self.waiting.front() else { return };
            let needed = entry.length.div_ceil(BLOCK_TOKENS);
            // One block in reserve for each running sequence, lest the newcomer be thrown out at once.
            let reserve = self.running.len();
            if self.free.len() < needed + reserve {
                return;
            }
            let Some(mut entry) = self.waiting.pop_front() else { return };
            entry.blocks = self.free.split_off(self.free.len() - needed);
            plan.admitted.push(entry.key);
            self.running.push(entry);
        }
    }

    /// Equal parts in a first round, leftovers in order of admission in a second.
    fn plan_prompts(&mut self, plan: &mut Plan, budget: usize) {
        let wanting: Vec<(u32, usize, usize)> = self
            .running
            .iter()
            .filter(|entry| entry.remaining() > 0 && !entry.paused)
            .filter(|entry| plan.shares.iter().all(|share| share.key != entry.key))
            .map(|entry| (entry.key, entry.computed, entry.remaining()))
            .collect();
        if wanting.is_empty() {
            return;
        }
        let part = (budget / wanting.len()).max(1);
        let mut left = budget;
        let mut counts: Vec<usize> = Vec::with_capacity(wanting.len());
        for (_, _, remaining) in &wanting {
            let count = part.min(*remaining).min(left);
            left -= count;
            counts.push(count);
        }
        for ((key, first, remaining), count) in wanting.into_iter().zip(counts) {
            let more = left.min(remaining - count);
            left -= more;
            if count + more > 0 {
                plan.shares.push(Share { key, first, count: count + more });
            }
        }
    }
}

impl Entry {
    fn remaining(&self) -> usize {
        self.length - self.computed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { blocks: 8, batch_tokens: 64, sequences: 4, prompt_tokens_beside_decoding: 16 };

    fn counts(plan: &Plan) -> Vec<(u32, usize, usize)> {
        plan.shares.iter().map(|share| (share.key, share.first, share.count)).collect()
    }

    /// Plans a step, marks it computed, and gives each sequence that reached its end one more token.
    fn step(scheduler: &mut Scheduler) -> Plan {
        let plan = scheduler.plan();
        for share in &plan.shares {
            scheduler.computed(*share);
            let done = scheduler.running.iter().any(|entry| entry.key == share.key && entry.remaining() == 0);
            if done {
                scheduler.append(share.key);
            }
        }
        plan
    }

    #[test]
    fn a_short_prompt_passes_a_long_one_and_streams_keep_flowing() {
        let mut scheduler = Scheduler::new(Limits { blocks: 16, ..LIMITS });
        scheduler.enqueue(1, 200);
        scheduler.enqueue(2, 10);
        assert_eq!(counts(&step(&mut scheduler)), [(1, 0, 54), (2, 0, 10)]);
        assert_eq!(counts(&step(&mut scheduler)), [(2, 10, 1), (1, 54, 16)]);
    }

    #[test]
    fn requests_wait_in_order_for_blocks_and_places() {
        let mut scheduler = Scheduler::new(LIMITS);
        for (key, length) in [(1, 150), (2, 100), (3, 1)] {
            scheduler.enqueue(key, length);
        }
        assert_eq!(step(&mut scheduler).admitted, [1]);
        assert_eq!((scheduler.running(), scheduler.waiting()), (1, 2));
        scheduler.remove(1);
        assert_eq!(step(&mut scheduler).admitted, [2, 3]);
        scheduler.remove(2);
        scheduler.remove(3);
        assert!(scheduler.is_empty());
        assert_eq!(scheduler.blocks_used(), 0);
    }

    #[test]
    fn the_youngest_gives_way_and_comes_back_first() {
        let mut scheduler = Scheduler::new(Limits { blocks: 4, ..LIMITS });
        scheduler.enqueue(1, 60);
        scheduler.enqueue(2, 31);
        while scheduler.running() < 2 {
            step(&mut scheduler);
            assert!(scheduler.blocks_used() <= 4);
        }
        scheduler.enqueue(3, 1);
        let preempted = (0..200).find_map(|_| step(&mut scheduler).preempted.first().copied());
        assert_eq!(preempted, Some(2));
        assert_eq!(scheduler.waiting.front().map(|entry| (entry.key, entry.computed)), Some((2, 0)));
        scheduler.remove(1);
        assert_eq!(step(&mut scheduler).admitted.first(), Some(&2));
    }

    #[test]
    fn a_paused_sequence_computes_nothing_and_keeps_its_blocks() {
        let mut scheduler = Scheduler::new(LIMITS);
        scheduler.enqueue(1, 5);
        step(&mut scheduler);
        scheduler.pause(1, true);
        assert!(scheduler.plan().shares.is_empty());
        assert_eq!(scheduler.blocks_used(), 1);
        scheduler.pause(1, false);
        assert_eq!(counts(&scheduler.plan()), [(1, 5, 1)]);
    }

    #[test]
    fn every_schedule_ends_and_loses_no_block() {
        for seed in 0..300u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |n: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random % n) as usize
            };
            let limits = Limits {
                blocks: 6 + next(10),
                batch_tokens: 16 + next(64),
                sequences: 1 + next(6),
                prompt_tokens_beside_decoding: 1 + next(32),
            };
            let mut scheduler = Scheduler::new(limits);
            let mut left: std::collections::BTreeMap<u32, usize> = (0..12).map(|key| (key, 1 + next(60))).collect();
            for key in left.keys() {
                scheduler.enqueue(*key, 1 + next(100));
            }
            let mut steps = 0;
            while !scheduler.is_empty() {
                let plan = scheduler.plan();
                assert!(!plan.shares.is_empty(), "seed {seed}: stuck with {scheduler:?}");
                assert!(
                    plan.shares.iter().map(|share| share.count).sum::<usize>() <= limits.batch_tokens,
                    "seed {seed}"
                );
                for share in plan.shares {
                    let blocks = scheduler.blocks(share.key).len();
                    assert!(blocks * BLOCK_TOKENS >= share.first + share.count, "seed {seed}: no room");
                    scheduler.computed(share);
                    if scheduler.running.iter().any(|entry| entry.key == share.key && entry.remaining() == 0) {
                        scheduler.append(share.key);
                        let more = left.get_mut(&share.key).unwrap();
                        *more -= 1;
                        if *more == 0 {
                            scheduler.remove(share.key);
                        }
                    }
                }
                let mut owned: Vec<u32> = scheduler
                    .running
                    .iter()
                    .flat_map(|entry| entry.blocks.clone())
                    .chain(scheduler.free.clone())
                    .collect();
                owned.sort_unstable();
                assert_eq!(owned, (0..limits.blocks as u32).collect::<Vec<_>>(), "seed {seed}");
                steps += 1;
                assert!(steps < 20_000, "seed {seed}: does not end");
            }
        }
    }
}
