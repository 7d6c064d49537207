//! Requests as they come in, and the rules that turn them into sequences.

use super::engine::Ticket;
use super::sampler::Sampling;
use super::sequence::{Sequence, SequenceSpec};
use crate::config::Defaults;
use crate::error::{Error, Result};
use crate::text::Text;
use serde_json::Value;

pub enum Prompt {
    Messages { messages: Value, tools: Option<Value>, variables: Option<Value> },
    Text(String),
    Tokens(Vec<u32>),
}

/// Numbers are as JavaScript gave them; `check` decides.
pub struct GenerateRequest {
    pub id: u32,
    pub request_id: Option<String>,
    pub prompt: Prompt,
    pub resume: Vec<u32>,
    pub max_tokens: Option<f64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<f64>,
    pub seed: f64,
    pub stop: Vec<String>,
    pub ignore_eos: bool,
    pub logit_bias: Vec<(u32, f64)>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub logprobs: Option<f64>,
}

pub struct EmbedRequest {
    pub id: u32,
    pub request_id: Option<String>,
    pub inputs: Vec<Prompt>,
}

const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1_024;
const BIASES_MAX: usize = 1_024;
const LOGPROBS_MAX: f64 = 20.0;
const SAFE_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;
/// Texts in one embedding request.
const INPUTS_MAX: usize = 2_048;

/// What a request is checked against.
pub struct Rules<'a> {
    pub text: Option<&'a Text>,
    pub defaults: &'a Defaults,
    pub vocabulary: usize,
    pub context: usize,
}

impl GenerateRequest {
    pub fn into_sequence(self, rules: &Rules, ticket: Ticket) -> Result<Sequence> {
        let prompt = rules.tokens(self.prompt, "request.promptTokenIds")?;
        if prompt.is_empty() {
            return Err(Error::invalid("request.promptTokenIds", "the prompt has no tokens"));
        }
        if prompt.len() >= rules.context {
            let message = format!("the prompt has {} tokens, the model takes {}", prompt.len(), rules.context);
            return Err(Error::invalid("request.promptTokenIds", message).remedy("Shorten the prompt."));
        }
        rules.check_tokens(&self.resume, "request.resumeTokenIds")?;
        let room = rules.context - prompt.len();
        let max_tokens = match self.max_tokens {
            Some(value) => (whole("request.maxTokens", value, 1.0, SAFE_INTEGER_MAX)? as usize).min(room),
            None => room,
        };
        if self.resume.len() > max_tokens {
            let message =
                format!("{} tokens to resume from, at most {max_tokens} were to be generated", self.resume.len());
            return Err(Error::invalid("request.resumeTokenIds", message));
        }
        check_stops(&self.stop)?;
        let defaults = rules.defaults;
        let between = |field: &str, value: Option<f64>, default: f64, low: f64, high: f64| {
            number(&format!("request.{field}"), value.unwrap_or(default), low, high)
        };
        let sampling = Sampling {
            temperature: between("temperature", self.temperature, defaults.temperature, 0.0, 100.0)? as f32,
            top_p: between("topP", self.top_p, defaults.top_p, f64::MIN_POSITIVE, 1.0)? as f32,
            top_k: whole("request.topK", self.top_k.unwrap_or(defaults.top_k as f64), 0.0, SAFE_INTEGER_MAX)? as usize,
            seed: whole("request.seed", self.seed, 0.0, SAFE_INTEGER_MAX)? as u64,
            logit_bias: check_bias(self.logit_bias, rules.vocabulary)?,
            presence_penalty: between("presencePenalty", self.presence_penalty, 0.0, -2.0, 2.0)? as f32,
            frequency_penalty: between("frequencyPenalty", self.frequency_penalty, 0.0, -2.0, 2.0)? as f32,
        };
        let logprobs = match self.logprobs {
            Some(value) => Some(whole("request.logprobs", value, 0.0, LOGPROBS_MAX)? as usize),
            None => None,
        };
        let spec = SequenceSpec {
            id: self.id,
            request_id: self.request_id,
            prompt,
            resume: self.resume,
            max_tokens,
            sampling,
            eos: if self.ignore_eos { Vec::new() } else { defaults.eos.clone() },
            stop: self.stop,
            logprobs,
        };
        Sequence::new(spec, rules.text, ticket)
    }
}

impl EmbedRequest {
    /// The token IDs of each input.
    pub fn tokens(self, rules: &Rules) -> Result<Vec<Vec<u32>>> {
        if self.inputs.len() > INPUTS_MAX {
            let message = format!("{} inputs, at most {INPUTS_MAX} are taken at once", self.inputs.len());
            return Err(Error::invalid("inputs", message));
        }
        let one = |(index, input): (usize, Prompt)| {
            let field = format!("inputs[{index}]");
            let tokens = rules.tokens(input, &field)?;
            if tokens.is_empty() || tokens.len() > rules.context {
                let message = format!("{field} has {} tokens, the model takes 1 to {}", tokens.len(), rules.context);
                return Err(Error::invalid(field, message).remedy("Split the text."));
            }
            Ok(tokens)
        };
        self.inputs.into_iter().enumerate().map(one).collect()
    }
}

impl Rules<'_> {
    fn tokens(&self, prompt: Prompt, field: &str) -> Result<Vec<u32>> {
        let tokens = match prompt {
            Prompt::Tokens(tokens) => tokens,
            Prompt::Text(text) => self.tokenizer()?.encode(&text, true)?,
            // The template writes the special tokens itself.
            Prompt::Messages { messages, tools, variables } => {
                let text = self.tokenizer()?;
                text.encode(&text.render(messages, tools, variables)?, false)?
            }
        };
        self.check_tokens(&tokens, field)?;
        Ok(tokens)
    }

    fn tokenizer(&self) -> Result<&Text> {
        self.text.ok_or_else(|| {
            Error::unsupported("tokenizerJson", "the engine was made without a tokenizer").remedy("Give token IDs.")
        })
    }

    fn check_tokens(&self, tokens: &[u32], field: &str) -> Result<()> {
        match tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            Some(token) => {
                Err(Error::invalid(field, format!("token {token} is not in the vocabulary of {}", self.vocabulary)))
            }
            None => Ok(()),
        }
    }
}

fn check_stops(stops: &[String]) -> Result<()> {
    if stops.len() > STOPS_MAX {
        return Err(Error::invalid(
            "request.stop",
            format!("{} stop strings, at most {STOPS_MAX} are taken", stops.len()),
        ));
    }
    match stops.iter().position(|stop| stop.is_empty() || stop.len() > STOP_BYTES_MAX) {
        Some(index) => {
            let field = format!("request.stop[{index}]");
            Err(Error::invalid(field, format!("a stop string has 1 to {STOP_BYTES_MAX} bytes")))
        }
        None => Ok(()),
    }
}

fn check_bias(biases: Vec<(u32, f64)>, vocabulary: usize) -> Result<Vec<(u32, f32)>> {
    let field = "request.logitBias";
    if biases.len() > BIASES_MAX {
        return Err(Error::invalid(field, format!("{} biases, at most {BIASES_MAX} are taken", biases.len())));
    }
    let one = |(token, bias): (u32, f64)| {
        if token as usize >= vocabulary {
            return Err(Error::invalid(field, format!("token {token} is not in the vocabulary of {vocabulary}")));
        }
        Ok((token, number(field, bias, -1_000.0, 1_000.0)? as f32))
    };
    biases.into_iter().map(one).collect()
}

/// A finite number in low..=high.
pub fn number(field: &str, value: f64, low: f64, high: f64) -> Result<f64> {
    if value.is_finite() && (low..=high).contains(&value) {
        return Ok(value);
    }
    let low = if low == f64::MIN_POSITIVE { "above 0".to_string() } else { low.to_string() };
    Err(Error::invalid(field, format!("{field} is {value}; it must be in {low}..{high}")))
}

/// A whole number in low..=high.
pub fn whole(field: &str, value: f64, low: f64, high: f64) -> Result<f64> {
    if value.fract() != 0.0 {
        return Err(Error::invalid(field, format!("{field} is {value}; it must be a whole number")));
    }
    number(field, value, low, high)
}
