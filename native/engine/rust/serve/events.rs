//! What the engine tells its owner, in order, through one mailbox. The owner is notified once and then takes all there
//! is, so tokens cross the boundary in batches however fast they come.

use crate::error::Error;
use crate::pool::lock;
use std::sync::Mutex;

pub enum Event {
    Chunk(Chunk),
    /// A request that ended in an error.
    Failed {
        id: u32,
        error: Error,
    },
    /// All vectors of one request, one after the other.
    Embedded {
        id: u32,
        dimensions: usize,
        values: Vec<f32>,
    },
    WeightsComplete,
    Quiesced,
    /// The engine's thread is gone for good, closed or failed.
    EngineEnded {
        error: Error,
    },
    Log(LogLine),
}

pub struct Chunk {
    pub id: u32,
    pub tokens: Vec<u32>,
    pub text: String,
    pub logprobs: Option<TokenLogprobs>,
    pub end: Option<(FinishReason, Usage)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub token: u32,
    pub logprob: f64,
    pub top: Vec<(u32, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    Length,
    Cancelled,
}

impl FinishReason {
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub queued_ms: f64,
    pub prefill_ms: Option<f64>,
    pub decode_ms: f64,
}

#[derive(Clone, Copy, Debug)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

pub enum FieldValue {
    Text(String),
    Number(f64),
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        FieldValue::Text(text.to_string())
    }
}
impl From<String> for FieldValue {
    fn from(text: String) -> Self {
        FieldValue::Text(text)
    }
}
impl From<usize> for FieldValue {
    fn from(number: usize) -> Self {
        FieldValue::Number(number as f64)
    }
}
impl From<f64> for FieldValue {
    fn from(number: f64) -> Self {
        FieldValue::Number(number)
    }
}

pub struct LogLine {
    pub level: Level,
    pub message: &'static str,
    pub fields: Vec<(&'static str, FieldValue)>,
}

pub struct Mailbox {
    events: Mutex<Vec<Event>>,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl Mailbox {
    /// `notify` is called when the mailbox stops being empty; it must not block.
    pub fn new(notify: Box<dyn Fn() + Send + Sync>) -> Mailbox {
        Mailbox { events: Mutex::new(Vec::new()), notify }
    }

    pub fn send(&self, events: impl IntoIterator<Item = Event>) {
        let mut mailbox = lock(&self.events);
        let was_empty = mailbox.is_empty();
        mailbox.extend(events);
        let notify = was_empty && !mailbox.is_empty();
        drop(mailbox);
        if notify {
            (self.notify)();
        }
    }

    pub fn log(&self, level: Level, message: &'static str, fields: Vec<(&'static str, FieldValue)>) {
        self.send([Event::Log(LogLine { level, message, fields })]);
    }

    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.events))
    }
}
