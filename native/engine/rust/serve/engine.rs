//! The engine's front: checks what comes in on the caller's thread and passes it to the worker thread.

use super::events::{Event, Mailbox};
use super::loading::Loading;
use super::request::{EmbedRequest, GenerateRequest, Rules, number};
use super::scheduler::Limits;
use super::worker::{self, Command, Embedding, Worker};
use crate::config::{Defaults, ModelConfig};
use crate::error::{Code, Error, Result};
use crate::kernels::{BLOCK_TOKENS, Dtype, Isa};
use crate::model::{Announced, Assembly, Expected, KvCache, Model, check_group};
use crate::pool::lock;
use crate::text::Text;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Numbers are as JavaScript gave them; `Engine::new` checks.
pub struct EngineOptions {
    pub config: String,
    pub generation_config: Option<String>,
    pub modules: Option<String>,
    pub pooling: Option<String>,
    pub device: String,
    pub dtype: String,
    pub threads: f64,
    pub kv_tokens_max: f64,
    pub context_tokens_max: Option<f64>,
    pub batch_tokens_max: f64,
    pub sequences_max: f64,
    pub waiting_max: f64,
    pub stall_ms: f64,
    pub tensor_parallel: f64,
}

#[derive(Clone, Debug)]
pub struct ModelInfo {
    pub architecture: String,
    pub kind: &'static str,
    pub layers: usize,
    pub dimensions: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub threads: usize,
    pub isa: &'static str,
    pub tensor_parallel: usize,
}

/// What the worker thread counts; durations in ms.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub state: State,
    pub failure: Option<String>,
    pub running: usize,
    pub waiting: usize,
    pub kv_tokens_used: usize,
    pub prompt_tokens: usize,
    pub generated_tokens: usize,
    pub embedded_tokens: usize,
    pub stopped: usize,
    pub cancelled: usize,
    pub failed: usize,
    pub preemptions: usize,
    pub steps: usize,
    pub step_ms_last: f64,
    pub step_ms_mean: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Loading,
    Ready,
    Quiesced,
    Failed,
    Closed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::Ready => "ready",
            State::Quiesced => "quiesced",
            State::Failed => "failed",
            State::Closed => "closed",
        }
    }
}

/// Holds one of the places for open requests.
pub struct Ticket {
    open: Arc<AtomicUsize>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.open.fetch_sub(1, AcqRel);
    }
}

/// What the engine's thread and its callers share.
pub struct Shared {
    pub mailbox: Mailbox,
    pub stats: Mutex<Stats>,
    pub text: OnceLock<Text>,
}

pub struct Engine {
    shared: Arc<Shared>,
    loading: Loading,
    commands: worker::Sender,
    thread: Mutex<Option<JoinHandle<()>>>,
    open: Arc<AtomicUsize>,
    open_max: usize,
    defaults: RwLock<Defaults>,
    info: ModelInfo,
    kv_tokens_max: usize,
}

const THREADS_MAX: f64 = 256.0;
const KV_TOKENS_MAX: f64 = (1u64 << 31) as f64;
const BATCH_TOKENS_MIN: f64 = 16.0;
const BATCH_TOKENS_MAX: f64 = 16_384.0;
const SEQUENCES_MAX: f64 = 1_024.0;
const WAITING_MAX: f64 = 1_000_000.0;
const STALL_MS_MAX: f64 = 86_400_000.0;
const RANKS_MAX: f64 = 64.0;
/// Part of a step that prompts may take beside streams: 1/4 keeps the gap between two tokens of a stream short.
const PROMPT_SHARE_BESIDE_DECODING: usize = 4;

impl Engine {
    /// `notify` is called, from any thread, when `take_events` has something to give; it must not block.
    pub fn new(options: EngineOptions, notify: Box<dyn Fn() + Send + Sync>) -> Result<Engine> {
        if options.device != "cpu" {
            let message = format!("the device {} is not supported", options.device);
            return Err(Error::unsupported("options.device", message).remedy("Use device: \"cpu\"."));
        }
        let dtype = match options.dtype.as_str() {
            "auto" => None,
            "f32" => Some(Dtype::F32),
            "bf16" => Some(Dtype::Bf16),
            other => {
                return Err(Error::invalid("options.dtype", format!("options.dtype is {other}; auto, f32 or bf16")));
            }
        };
        let whole = |name: &str, value: f64, low: f64, high: f64| {
            super::request::whole(&format!("options.{name}"), value, low, high).map(|value| value as usize)
        };
        let threads = whole("threads", options.threads, 1.0, THREADS_MAX)?;
        let kv_tokens = whole("kvTokensMax", options.kv_tokens_max, BLOCK_TOKENS as f64, KV_TOKENS_MAX)?;
        let batch_tokens = whole("batchTokensMax", options.batch_tokens_max, BATCH_TOKENS_MIN, BATCH_TOKENS_MAX)?;
        let sequences = whole("sequencesMax", options.sequences_max, 1.0, SEQUENCES_MAX)?.min(batch_tokens);
        let waiting = whole("waitingMax", options.waiting_max, 0.0, WAITING_MAX)?;
        let stall = Duration::from_secs_f64(number("options.stallMs", options.stall_ms, 1.0, STALL_MS_MAX)? / 1e3);
        let ranks = whole("tensorParallel", options.tensor_parallel, 1.0, RANKS_MAX)?;

        let config =
            Arc::new(ModelConfig::parse(&options.config, options.pooling.as_deref(), options.modules.as_deref())?);
        check_ranks(&config, ranks)?;
        let isa = Isa::detect();
        let blocks = kv_tokens / BLOCK_TOKENS;
        let cache = cache(&config, dtype, blocks)?;
        let mut info = describe(&config, blocks * BLOCK_TOKENS, batch_tokens, threads, isa, ranks);
        if let Some(limit) = options.context_tokens_max {
            info.context = info.context.min(whole("contextTokensMax", limit, 2.0, KV_TOKENS_MAX)?);
        }
        let eos = match &*config {
            ModelConfig::Decoder(config) => config.eos.clone(),
            ModelConfig::Encoder(_) => Vec::new(),
        };
        let defaults = Defaults::parse(options.generation_config.as_deref(), &eos)?;
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(notify),
            stats: Mutex::new(Stats::default()),
            text: OnceLock::new(),
        });
        let limits = Limits {
            blocks,
            batch_tokens,
            sequences,
            prompt_tokens_beside_decoding: (batch_tokens / PROMPT_SHARE_BESIDE_DECODING).max(1),
        };
        let (commands, receiver) = worker::channel();
        let worker = Worker::new(shared.clone(), receiver, cache, limits, threads, stall)?;
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || worker.run())
            .map_err(|error| Error::new(Code::ResourceExhausted, format!("cannot start a thread: {error}")))?;
        Ok(Engine {
            shared,
            loading: Loading::new(Assembly::new(config, isa, dtype, ranks)),
            commands,
            thread: Mutex::new(Some(thread)),
            open: Arc::new(AtomicUsize::new(0)),
            open_max: sequences + waiting,
            defaults: RwLock::new(defaults),
            info,
            kv_tokens_max: blocks * BLOCK_TOKENS,
        })
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    pub fn kv_tokens_max(&self) -> usize {
        self.kv_tokens_max
    }
    pub fn loading(&self) -> &Loading {
        &self.loading
    }
    pub fn stats(&self) -> Stats {
        lock(&self.shared.stats).clone()
    }
    pub fn take_events(&self) -> Vec<Event> {
        self.shared.mailbox.take()
    }
    pub fn expected(&self) -> Vec<Expected> {
        self.loading.expected()
    }

    /// See `Text::load`; once per engine. A tokenizer's end-of-sequence token ends answers too.
    pub fn load_text(&self, tokenizer: &str, config: Option<&str>, template: Option<&str>) -> Result<()> {
        let text = Text::load(tokenizer, config, template)?;
        if let Some(eos) = text.eos() {
            let mut defaults = self.defaults.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            if !defaults.eos.contains(&eos) {
                defaults.eos.push(eos);
            }
        }
        self.shared.text.set(text).map_err(|_| Error::internal("the tokenizer was loaded twice"))
    }

    /// See `Loading::push`.
    pub fn push(&self, tensor: &Announced, bytes: &[u8]) -> Result<()> {
        self.check_open()?;
        self.hand_over(self.loading.push(tensor, bytes)?)
    }

    /// See `Loading::push_mapped`.
    pub fn push_mapped(&self, tensor: &Announced, path: &Path, offset: usize) -> Result<()> {
        self.check_open()?;
        self.hand_over(self.loading.push_mapped(tensor, path, offset)?)
    }

    fn hand_over(&self, model: Option<Model>) -> Result<()> {
        match model {
            Some(model) => self.send(Command::Model(Box::new(model))),
            None => Ok(()),
        }
    }

    /// A place among the open requests, to be taken before work is put into one.
    pub fn reserve(&self) -> Result<Ticket> {
        self.check_open()?;
        let more = |open: usize| (open < self.open_max).then_some(open + 1);
        match self.open.fetch_update(AcqRel, Acquire, more) {
            Ok(_) => Ok(Ticket { open: self.open.clone() }),
            Err(open) => Err(Error::new(Code::ResourceExhausted, format!("{open} requests are running or waiting"))
                .at("options.waitingMax")
                .remedy("Try again later, or send the request to another replica.")),
        }
    }

    /// Tokenises, checks and queues; the answer comes as events under the request's `id`.
    pub fn generate(&self, request: GenerateRequest, ticket: Ticket) -> Result<()> {
        if self.info.kind != "decoder" {
            let message = format!("{} makes embeddings, not text", self.info.architecture);
            return Err(Error::unsupported("request", message).remedy("Use embed."));
        }
        let defaults = self.defaults.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let sequence = request.into_sequence(&self.rules(&defaults), ticket)?;
        self.send(Command::Generate(Box::new(sequence)))
    }

    /// Tokenises, checks and queues; the vectors come as one event under the request's `id`.
    pub fn embed(&self, request: EmbedRequest, ticket: Ticket) -> Result<()> {
        if self.info.kind != "encoder" {
            let message = format!("{} makes text, not embeddings", self.info.architecture);
            return Err(Error::unsupported("request", message).remedy("Use generate."));
        }
        let defaults = self.defaults.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let (id, request_id) = (request.id, request.request_id.clone());
        let texts = request.tokens(&self.rules(&defaults))?;
        self.send(Command::Embed(Box::new(Embedding::new(id, request_id, texts, ticket))))
    }

    fn rules<'a>(&'a self, defaults: &'a Defaults) -> Rules<'a> {
        Rules { text: self.shared.text.get(), defaults, vocabulary: self.info.vocabulary, context: self.info.context }
    }

    /// Ends a request wherever it is; it finishes as cancelled unless it was faster.
    pub fn cancel(&self, id: u32) {
        let _ = self.send(Command::Cancel(id));
    }

    /// The consumer read so many tokens of a request.
    pub fn consumed(&self, id: u32, tokens: usize) {
        let _ = self.send(Command::Consumed(id, tokens));
    }

    pub fn text(&self) -> Result<&Text> {
        let missing = || Error::unsupported("tokenizerJson", "the engine was made without a tokenizer");
        self.shared.text.get().ok_or_else(missing)
    }

    pub fn render(&self, messages: Value, tools: Option<Value>, variables: Option<Value>) -> Result<String> {
        self.text()?.render(messages, tools, variables)
    }

    /// The worker answers with `Event::Quiesced` and then rests.
    pub fn quiesce(&self) -> Result<()> {
        self.send(Command::Quiesce)
    }
    pub fn resume(&self) -> Result<()> {
        self.send(Command::Resume)
    }

    /// Makes the worker panic, as a fault of its own would.
    #[cfg(feature = "fault-injection")]
    pub fn inject_panic(&self, message: String) -> Result<()> {
        self.send(Command::Panic(message))
    }

    /// Rejects everything open and waits for the threads to end. Idempotent.
    pub fn close(&self) {
        let _ = self.commands.send(Command::Close);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    fn send(&self, command: Command) -> Result<()> {
        self.check_open()?;
        self.commands.send(command).map_err(|_| self.gone())
    }

    fn check_open(&self) -> Result<()> {
        let state = lock(&self.shared.stats).state;
        if matches!(state, State::Failed | State::Closed) { Err(self.gone()) } else { Ok(()) }
    }

    fn gone(&self) -> Error {
        let failure = lock(&self.shared.stats).failure.clone();
        match failure {
            Some(failure) => Error::internal(format!("the engine failed: {failure}")).remedy("Start a new replica."),
            None => Error::new(Code::Unavailable, "the engine is closed"),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

fn cache(config: &ModelConfig, dtype: Option<Dtype>, blocks: usize) -> Result<Option<KvCache>> {
    let ModelConfig::Decoder(config) = config else { return Ok(None) };
    let dtype = dtype.unwrap_or(if config.half_precision { Dtype::Bf16 } else { Dtype::F32 });
    KvCache::new(dtype, config.layers.len(), config.kv_heads, config.head_dim, blocks).map(Some)
}

fn check_ranks(config: &ModelConfig, ranks: usize) -> Result<()> {
    match config {
        ModelConfig::Decoder(config) => check_group(config, ranks),
        ModelConfig::Encoder(_) if ranks == 1 => Ok(()),
        ModelConfig::Encoder(_) => {
            let what = config.architecture();
            let message = format!("options.tensorParallel is {ranks}, and {what} is not divided between ranks");
            Err(Error::unsupported("options.tensorParallel", message).remedy("Leave tensorParallel out."))
        }
    }
}

fn describe(
    config: &ModelConfig,
    kv_tokens: usize,
    batch_tokens: usize,
    threads: usize,
    isa: Isa,
    ranks: usize,
) -> ModelInfo {
    let (kind, layers, dimensions, vocabulary, context) = match config {
        ModelConfig::Decoder(c) => ("decoder", c.layers.len(), c.hidden, c.vocabulary, c.context.min(kv_tokens)),
        // A text is encoded within one step.
        ModelConfig::Encoder(c) => ("encoder", c.layers, c.hidden, c.vocabulary, c.context.min(batch_tokens)),
    };
    let architecture = config.architecture().to_string();
    ModelInfo {
        architecture,
        kind,
        layers,
        dimensions,
        vocabulary,
        context,
        threads,
        isa: isa.name(),
        tensor_parallel: ranks,
    }
}
