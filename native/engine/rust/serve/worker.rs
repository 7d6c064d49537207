//! The thread that computes. It takes commands between steps, runs a step when there is something to compute, and sleeps
//! otherwise. A panic anywhere in it ends the engine, not the process: everything open is rejected.

use super::engine::{Shared, State, Stats, Ticket};
use super::events::{Chunk, Event, FieldValue, FinishReason, Level, TokenLogprobs};
use super::sampler::{logprobs, sample};
use super::scheduler::{Limits, Plan, Scheduler, Share};
use super::sequence::Sequence;
use crate::error::{Code, Error, Result, panic_message};
use crate::kernels::BLOCK_TOKENS;
use crate::model::{Decoder, DecoderStep, Encoder, KvCache, Model, Span};
use crate::pool::{Pool, lock};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub enum Command {
    Generate(Box<Sequence>),
    Embed(Box<Embedding>),
    Cancel(u32),
    Consumed(u32, usize),
    Model(Box<Model>),
    Quiesce,
    Resume,
    Close,
    #[cfg(feature = "fault-injection")]
    Panic(String),
}

pub type Sender = mpsc::Sender<Command>;

pub fn channel() -> (Sender, Receiver<Command>) {
    mpsc::channel()
}

/// One embedding request under way.
pub struct Embedding {
    id: u32,
    request_id: Option<String>,
    texts: Vec<Vec<u32>>,
    /// Vectors of the first texts.
    done: Vec<f32>,
    next: usize,
    queued: Instant,
    _ticket: Ticket,
}

impl Embedding {
    pub fn new(id: u32, request_id: Option<String>, texts: Vec<Vec<u32>>, ticket: Ticket) -> Embedding {
        Embedding { id, request_id, texts, done: Vec::new(), next: 0, queued: Instant::now(), _ticket: ticket }
    }
}

/// Tokens that may lie unread with a consumer; its sequence then waits for it.
const UNREAD_TOKENS_MAX: usize = 512;
/// An engine without work gives its cache's memory back after this long.
const IDLE_BEFORE_TRIM: Duration = Duration::from_secs(10);
/// Weight of the newest step in the mean of step times.
const STEP_MEAN_WEIGHT: f64 = 0.05;

pub struct Worker {
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    pool: Pool,
    model: Option<Model>,
    cache: Option<KvCache>,
    cache_used: bool,
    scheduler: Scheduler,
    limits: Limits,
    sequences: HashMap<u32, Sequence>,
    embeddings: VecDeque<Embedding>,
    logits: Vec<f32>,
    stall: Duration,
    quiesced: bool,
    stats: Stats,
}

/// A chosen token, and its log probabilities when the request wants them.
type Choice = (u32, Option<TokenLogprobs>);

/// What a round of the loop says about the next one.
enum Next {
    Again,
    Sleep,
    End,
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        cache: Option<KvCache>,
        limits: Limits,
        threads: usize,
        stall: Duration,
    ) -> Result<Worker> {
        let pool = Pool::new(threads)
            .map_err(|error| Error::new(Code::ResourceExhausted, format!("cannot start {threads} threads: {error}")))?;
        Ok(Worker {
            shared,
            commands,
            pool,
            model: None,
            cache,
            cache_used: false,
            scheduler: Scheduler::new(limits),
            limits,
            sequences: HashMap::new(),
            embeddings: VecDeque::new(),
            logits: Vec::new(),
            stall,
            quiesced: false,
            stats: Stats::default(),
        })
    }

    pub fn run(mut self) {
        let mut next = Next::Again;
        loop {
            let round = catch_unwind(AssertUnwindSafe(|| self.round(&next)));
            match round {
                Ok(Next::End) => return self.end(State::Closed, Error::new(Code::Unavailable, "the engine is closed")),
                Ok(outcome) => next = outcome,
                Err(payload) => {
                    let error = Error::internal(format!("the engine failed: {}", panic_message(&*payload)));
                    return self.end(State::Failed, error.remedy("Start a new replica."));
                }
            }
        }
    }

    fn round(&mut self, previous: &Next) -> Next {
        if matches!(previous, Next::Sleep) {
            match self.sleep() {
                Some(command) => {
                    if self.obey(command) {
                        return Next::End;
                    }
                }
                None => return Next::End,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            if self.obey(command) {
                return Next::End;
            }
        }
        let computed = !self.quiesced && self.compute();
        self.publish();
        if computed { Next::Again } else { Next::Sleep }
    }

    /// The next command; none when nobody can send one any more.
    fn sleep(&mut self) -> Option<Command> {
        if self.cache_used && self.scheduler.is_empty() {
            match self.commands.recv_timeout(IDLE_BEFORE_TRIM) {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.trim(),
            }
        }
        self.commands.recv().ok()
    }

    fn trim(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.forget();
        }
        self.cache_used = false;
    }

    /// True: the engine ends.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Generate(sequence) => self.enqueue(*sequence),
            Command::Embed(embedding) => self.embeddings.push_back(*embedding),
            Command::Cancel(id) => self.cancel(id),
            Command::Consumed(id, tokens) => self.consumed(id, tokens),
            Command::Model(model) => {
                self.model = Some(*model);
                self.shared.mailbox.log(Level::Info, "weights complete", vec![]);
                self.shared.mailbox.send([Event::WeightsComplete]);
            }
            Command::Quiesce => {
                self.quiesced = true;
                if self.scheduler.is_empty() && self.cache_used {
                    self.trim();
                }
                self.publish();
                self.shared.mailbox.send([Event::Quiesced]);
            }
            Command::Resume => self.quiesced = false,
            Command::Close => return true,
            #[cfg(feature = "fault-injection")]
            Command::Panic(message) => panic!("{message}"),
        }
        false
    }

    fn enqueue(&mut self, mut sequence: Sequence) {
        if let Some(reason) = sequence.ended {
            sequence.admitted(Instant::now());
            return self.finish(sequence, Vec::new(), String::new(), None, reason);
        }
        self.scheduler.enqueue(sequence.id, sequence.tokens.len());
        self.sequences.insert(sequence.id, sequence);
    }

    fn cancel(&mut self, id: u32) {
        if let Some(sequence) = self.sequences.remove(&id) {
            self.scheduler.remove(id);
            self.finish(sequence, Vec::new(), String::new(), None, FinishReason::Cancelled);
        }
        // An embedding has no partial result: whoever cancelled it is not waiting for one.
        if let Some(at) = self.embeddings.iter().position(|embedding| embedding.id == id) {
            self.embeddings.remove(at);
            self.stats.cancelled += 1;
        }
    }

    fn consumed(&mut self, id: u32, tokens: usize) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.unread = sequence.unread.saturating_sub(tokens);
            self.scheduler.pause(id, sequence.unread >= UNREAD_TOKENS_MAX);
        }
    }

    /// One step, if there is anything to compute.
    fn compute(&mut self) -> bool {
        let begun = Instant::now();
        let tokens = match self.model.take() {
            None => return false,
            Some(Model::Decoder(mut decoder)) => {
                let tokens = self.decode(&mut decoder);
                self.model = Some(Model::Decoder(decoder));
                tokens
            }
            Some(Model::Encoder(encoder)) => {
                let tokens = self.encode(&encoder);
                self.model = Some(Model::Encoder(encoder));
                tokens
            }
        };
        if tokens > 0 {
            self.count_step(begun.elapsed(), tokens);
        }
        tokens > 0
    }

    fn count_step(&mut self, took: Duration, tokens: usize) {
        let ms = took.as_secs_f64() * 1e3;
        self.stats.steps += 1;
        self.stats.step_ms_last = ms;
        let weight = if self.stats.steps == 1 { 1.0 } else { STEP_MEAN_WEIGHT };
        self.stats.step_ms_mean += weight * (ms - self.stats.step_ms_mean);
        if took > self.stall {
            let fields = vec![("durationMs", FieldValue::from(ms)), ("tokens", tokens.into())];
            self.shared.mailbox.log(Level::Warn, "step stalled", fields);
        }
    }

    /// Returns how many tokens were computed.
    fn decode(&mut self, decoder: &mut Decoder) -> usize {
        let plan = self.scheduler.plan();
        self.note(&plan);
        let Some(cache) = self.cache.as_ref().filter(|_| !plan.shares.is_empty()) else { return 0 };
        self.cache_used = true;
        let mut spans = Vec::with_capacity(plan.shares.len());
        let mut outputs = Vec::new();
        let mut sampled = Vec::new();
        let mut packed = 0;
        for share in &plan.shares {
            let Some(sequence) = self.sequences.get(&share.key) else { continue };
            let end = share.first + share.count;
            let tokens = &sequence.tokens[share.first..end];
            spans.push(Span { tokens, position: share.first, blocks: self.scheduler.blocks(share.key) });
            packed += share.count;
            if end == sequence.tokens.len() {
                outputs.push(packed - 1);
                sampled.push(share.key);
            }
        }
        decoder.step(&mut self.pool, cache, &DecoderStep { spans, outputs }, &mut self.logits);
        let chosen = self.choose(&sampled, decoder.config.vocabulary);
        self.advance(&plan.shares, sampled.into_iter().zip(chosen));
        packed
    }

    fn note(&mut self, plan: &Plan) {
        let now = Instant::now();
        for key in &plan.admitted {
            let Some(sequence) = self.sequences.get_mut(key) else { continue };
            sequence.admitted(now);
            self.stats.prompt_tokens += sequence.prompt_tokens;
            let fields = vec![
                ("promptTokens", FieldValue::from(sequence.prompt_tokens)),
                ("resumedTokens", sequence.answer_tokens().into()),
                ("queuedMs", sequence.usage(now).queued_ms.into()),
            ];
            self.log(key, Level::Info, "request admitted", fields);
        }
        for key in &plan.preempted {
            self.stats.preemptions += 1;
            self.log(key, Level::Info, "request preempted", vec![]);
        }
    }

    fn log(&self, key: &u32, level: Level, message: &'static str, fields: Vec<(&'static str, FieldValue)>) {
        let request_id = self.sequences.get(key).and_then(|sequence| sequence.request_id.as_deref());
        self.shared.mailbox.log(level, message, with_request_id(fields, request_id));
    }

    /// A token for each of `keys` from the rows of `logits`, on all threads.
    fn choose(&mut self, keys: &[u32], vocabulary: usize) -> Vec<Result<Choice>> {
        let rows: Vec<Mutex<&mut [f32]>> = self.logits.chunks_mut(vocabulary).map(Mutex::new).collect();
        let chosen: Vec<Mutex<Option<Result<Choice>>>> = keys.iter().map(|_| Mutex::new(None)).collect();
        let sequences = &self.sequences;
        self.pool.run(keys.len(), &|i| {
            let Some(sequence) = sequences.get(&keys[i]) else { return };
            *lock(&chosen[i]) = Some(choose_one(sequence, &mut lock(&rows[i])));
        });
        let missing = || Err(Error::internal("a sequence went while its token was chosen"));
        chosen.into_iter().map(|slot| slot.into_inner().ok().flatten().unwrap_or_else(missing)).collect()
    }

    fn advance(&mut self, shares: &[Share], chosen: impl Iterator<Item = (u32, Result<Choice>)>) {
        for share in shares {
            self.scheduler.computed(*share);
        }
        let now = Instant::now();
        let mut events = Vec::new();
        for (key, choice) in chosen {
            let Some(sequence) = self.sequences.get_mut(&key) else { continue };
            let accepted = choice.and_then(|(token, logprobs)| {
                let (text, ended) = sequence.accept(token, self.shared.text.get())?;
                Ok((token, logprobs, text, ended))
            });
            match accepted {
                Ok((token, logprobs, text, None)) => {
                    sequence.token_at(now);
                    sequence.unread += 1;
                    self.scheduler.append(key);
                    if sequence.unread >= UNREAD_TOKENS_MAX {
                        self.scheduler.pause(key, true);
                    }
                    self.stats.generated_tokens += 1;
                    events.push(Event::Chunk(Chunk { id: key, tokens: vec![token], text, logprobs, end: None }));
                }
                Ok((token, logprobs, text, Some(reason))) => {
                    sequence.token_at(now);
                    self.stats.generated_tokens += 1;
                    self.scheduler.remove(key);
                    if let Some(sequence) = self.sequences.remove(&key) {
                        self.finish(sequence, vec![token], text, logprobs, reason);
                    }
                }
                Err(error) => self.fail(key, error),
            }
        }
        self.shared.mailbox.send(events);
    }

    fn finish(
        &mut self,
        sequence: Sequence,
        tokens: Vec<u32>,
        text: String,
        logprobs: Option<TokenLogprobs>,
        reason: FinishReason,
    ) {
        match reason {
            FinishReason::Cancelled => self.stats.cancelled += 1,
            FinishReason::Stop | FinishReason::Length => self.stats.stopped += 1,
        }
        let usage = sequence.usage(Instant::now());
        let fields = vec![
            ("finishReason", FieldValue::from(reason.name())),
            ("promptTokens", usage.prompt_tokens.into()),
            ("completionTokens", usage.completion_tokens.into()),
            ("queuedMs", usage.queued_ms.into()),
            ("prefillMs", usage.prefill_ms.unwrap_or(0.0).into()),
            ("decodeMs", usage.decode_ms.into()),
        ];
        let fields = with_request_id(fields, sequence.request_id.as_deref());
        self.shared.mailbox.log(Level::Info, "request finished", fields);
        let chunk = Chunk { id: sequence.id, tokens, text, logprobs, end: Some((reason, usage)) };
        self.shared.mailbox.send([Event::Chunk(chunk)]);
    }

    fn fail(&mut self, key: u32, error: Error) {
        self.scheduler.remove(key);
        self.stats.failed += 1;
        self.log(&key, Level::Error, "request failed", vec![("error", error.message.clone().into())]);
        self.sequences.remove(&key);
        self.shared.mailbox.send([Event::Failed { id: key, error }]);
    }

    /// One text of each request in turn until the step is full, so a large request does not hold up a small one.
    fn encode(&mut self, encoder: &Encoder) -> usize {
        let mut picked: Vec<(usize, usize)> = Vec::new();
        let mut tokens = 0;
        let rounds = self.embeddings.iter().map(|embedding| embedding.texts.len() - embedding.next).max().unwrap_or(0);
        'full: for round in 0..rounds {
            for (at, embedding) in self.embeddings.iter().enumerate() {
                let Some(text) = embedding.texts.get(embedding.next + round) else { continue };
                if tokens > 0 && tokens + text.len() > self.limits.batch_tokens {
                    break 'full;
                }
                tokens += text.len();
                picked.push((at, embedding.next + round));
            }
        }
        // Texts of one request are picked in order, so its vectors can be appended in the order of `picked`.
        let texts: Vec<&[u32]> = picked.iter().map(|(at, text)| &self.embeddings[*at].texts[*text][..]).collect();
        if !texts.is_empty() {
            match encoder.embed(&mut self.pool, &texts) {
                Ok(vectors) => {
                    for ((at, _), vector) in picked.into_iter().zip(vectors) {
                        self.embeddings[at].done.extend(vector);
                        self.embeddings[at].next += 1;
                    }
                }
                Err(error) => self.fail_embeddings(error),
            }
        }
        self.stats.embedded_tokens += tokens;
        self.finish_embeddings(encoder.config.hidden);
        tokens
    }

    fn finish_embeddings(&mut self, dimensions: usize) {
        let (done, rest) = std::mem::take(&mut self.embeddings)
            .into_iter()
            .partition(|embedding| embedding.next == embedding.texts.len());
        self.embeddings = rest;
        let done: VecDeque<Embedding> = done;
        for embedding in done {
            self.stats.stopped += 1;
            let fields = vec![
                ("inputs", FieldValue::from(embedding.texts.len())),
                ("promptTokens", embedding.texts.iter().map(Vec::len).sum::<usize>().into()),
                ("durationMs", (embedding.queued.elapsed().as_secs_f64() * 1e3).into()),
            ];
            let fields = with_request_id(fields, embedding.request_id.as_deref());
            self.shared.mailbox.log(Level::Info, "request finished", fields);
            self.shared.mailbox.send([Event::Embedded { id: embedding.id, dimensions, values: embedding.done }]);
        }
    }

    fn fail_embeddings(&mut self, error: Error) {
        let failed: Vec<Event> = self
            .embeddings
            .drain(..)
            .map(|embedding| Event::Failed { id: embedding.id, error: error.clone() })
            .collect();
        self.stats.failed += failed.len();
        self.shared.mailbox.send(failed);
    }

    fn publish(&mut self) {
        self.stats.state = match (self.quiesced, &self.model) {
            (true, _) => State::Quiesced,
            (false, Some(_)) => State::Ready,
            (false, None) => State::Loading,
        };
        self.stats.running = self.scheduler.running();
        self.stats.waiting = self.scheduler.waiting() + self.embeddings.len();
        self.stats.kv_tokens_used = self.scheduler.blocks_used() * BLOCK_TOKENS;
        *lock(&self.shared.stats) = self.stats.clone();
    }

    /// Rejects everything that is open or still arrives.
    fn end(mut self, state: State, error: Error) {
        self.stats.state = state;
        self.stats.running = 0;
        self.stats.waiting = 0;
        self.stats.kv_tokens_used = 0;
        if state == State::Failed {
            self.stats.failure = Some(error.message.clone());
        }
        *lock(&self.shared.stats) = self.stats.clone();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Generate(sequence) => {
                    self.sequences.insert(sequence.id, *sequence);
                }
                Command::Embed(embedding) => self.embeddings.push_back(*embedding),
                Command::Quiesce => self.shared.mailbox.send([Event::Quiesced]),
                _ => {}
            }
        }
        let keys: Vec<u32> = self.sequences.keys().copied().collect();
        for key in keys {
            self.fail(key, error.clone());
        }
        self.fail_embeddings(error.clone());
        if state == State::Failed {
            let fields = vec![("error", FieldValue::from(error.message.clone()))];
            self.shared.mailbox.log(Level::Error, "engine failed", fields);
        }
        self.shared.mailbox.send([Event::EngineEnded { error }]);
    }
}

fn choose_one(sequence: &Sequence, logits: &mut [f32]) -> Result<Choice> {
    let position = sequence.tokens.len();
    // Log probabilities are those of the model, before bias and penalties change the logits.
    let raw = sequence.logprobs.map(|count| (count, logits.to_vec()));
    let token = sample(logits, &sequence.sampling, &sequence.counts, position)?;
    Ok((token, raw.map(|(count, raw)| logprobs(&raw, token, count))))
}

fn with_request_id(
    mut fields: Vec<(&'static str, FieldValue)>,
    request_id: Option<&str>,
) -> Vec<(&'static str, FieldValue)> {
    if let Some(request_id) = request_id {
        fields.push(("requestId", request_id.into()));
    }
    fields
}
