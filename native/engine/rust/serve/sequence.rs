//! One answer in the making: its tokens, the text they make, and when it ends.

use super::engine::Ticket;
use super::events::{FinishReason, Usage};
use super::sampler::Sampling;
use crate::error::Result;
use crate::text::{Detokeniser, StopMatcher, Text};
use std::collections::HashMap;
use std::time::Instant;

pub struct SequenceSpec {
    pub id: u32,
    pub request_id: Option<String>,
    pub prompt: Vec<u32>,
    pub resume: Vec<u32>,
    /// Of the whole answer; prompt and answer fit the context.
    pub max_tokens: usize,
    pub sampling: Sampling,
    pub eos: Vec<u32>,
    pub stop: Vec<String>,
    pub logprobs: Option<usize>,
}

pub struct Sequence {
    pub id: u32,
    pub request_id: Option<String>,
    /// Prompt, then answer.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    pub sampling: Sampling,
    pub logprobs: Option<usize>,
    /// How often each token was generated.
    pub counts: HashMap<u32, u32>,
    /// Set when the resumed tokens already are the whole answer.
    pub ended: Option<FinishReason>,
    /// Tokens emitted and not yet read by the consumer.
    pub unread: usize,
    max_tokens: usize,
    eos: Vec<u32>,
    detokeniser: Detokeniser,
    stops: StopMatcher,
    times: Times,
    /// Its place among the open requests, given back when the sequence goes.
    _ticket: Ticket,
}

struct Times {
    queued: Instant,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Sequence {
    /// Runs the resumed tokens through detokeniser and stop strings, so that both stand where the answer was left.
    pub fn new(spec: SequenceSpec, text: Option<&Text>, ticket: Ticket) -> Result<Sequence> {
        let mut sequence = Sequence {
            id: spec.id,
            request_id: spec.request_id,
            prompt_tokens: spec.prompt.len(),
            detokeniser: Detokeniser::new(&spec.prompt),
            tokens: spec.prompt,
            sampling: spec.sampling,
            logprobs: spec.logprobs,
            counts: HashMap::new(),
            ended: None,
            unread: 0,
            max_tokens: spec.max_tokens,
            eos: spec.eos,
            stops: StopMatcher::new(spec.stop),
            times: Times { queued: Instant::now(), admitted: None, first_token: None, last_token: None },
            _ticket: ticket,
        };
        for token in spec.resume {
            let (_, ended) = sequence.accept(token, text)?;
            sequence.ended = ended;
            if ended.is_some() {
                break;
            }
        }
        Ok(sequence)
    }

    /// Adds a token; returns the text that is safe to emit, and the reason when the answer ends with it.
    pub fn accept(&mut self, token: u32, text: Option<&Text>) -> Result<(String, Option<FinishReason>)> {
        self.tokens.push(token);
        *self.counts.entry(token).or_insert(0) += 1;
        if self.eos.contains(&token) {
            return Ok((self.rest(text)?, Some(FinishReason::Stop)));
        }
        let piece = match text {
            Some(text) => self.detokeniser.push(text, token)?,
            None => String::new(),
        };
        let (safe, stopped) = self.stops.push(&piece);
        if stopped {
            return Ok((safe, Some(FinishReason::Stop)));
        }
        if self.answer_tokens() >= self.max_tokens {
            return Ok((safe + &self.rest(text)?, Some(FinishReason::Length)));
        }
        Ok((safe, None))
    }

    /// Everything held back, unless it completes a stop string.
    fn rest(&mut self, text: Option<&Text>) -> Result<String> {
        let piece = match text {
            Some(text) => self.detokeniser.flush(text)?,
            None => String::new(),
        };
        let (safe, stopped) = self.stops.push(&piece);
        Ok(if stopped { safe } else { safe + &self.stops.flush() })
    }

    pub fn answer_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// A preempted sequence is admitted again; the first time counts.
    pub fn admitted(&mut self, now: Instant) {
        self.times.admitted.get_or_insert(now);
    }

    pub fn token_at(&mut self, now: Instant) {
        self.times.first_token.get_or_insert(now);
        self.times.last_token = Some(now);
    }

    pub fn usage(&self, now: Instant) -> Usage {
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        let Times { queued, admitted, first_token, last_token } = self.times;
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.answer_tokens(),
            queued_ms: ms(queued, admitted.unwrap_or(now)),
            prefill_ms: admitted.zip(first_token).map(|(from, to)| ms(from, to)),
            decode_ms: first_token.zip(last_token).map_or(0.0, |(from, to)| ms(from, to)),
        }
    }
}
