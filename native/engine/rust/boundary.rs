//! The addon: plain data in and out, `null` for what is absent. Every function catches panics; what may take longer than
//! a few microseconds runs on libuv's threads. Errors cross as JSON in the message: `{code, message, field, remedy}`.

use crate::error::{Error, Result, panic_message};
use crate::model::{Announced, Expected};
use crate::serve::{Chunk, EmbedRequest, Engine, EngineOptions, Event, FieldValue, GenerateRequest, Prompt};
use crate::tensor::Pieces;
use napi::bindgen_prelude::{AsyncTask, Float32Array, Function, ToNapiValue, TypeName, Uint8Array, Uint32Array};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi::{Env, Status, Task};
use napi_derive::napi;
use serde_json::{Map, Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

fn to_json(error: &Error) -> String {
    json!({
        "code": error.code.name(), "message": error.message, "field": error.field, "remedy": error.remedy
    })
    .to_string()
}

fn to_napi(error: Error) -> napi::Error {
    napi::Error::new(Status::GenericFailure, to_json(&error))
}

/// Work for libuv's thread pool whose panic is an error.
pub struct Job<T> {
    work: Option<Box<dyn FnOnce() -> Result<T> + Send>>,
}

impl<T> Job<T> {
    fn start(work: impl FnOnce() -> Result<T> + Send + 'static) -> AsyncTask<Job<T>>
    where
        T: Send + ToNapiValue + TypeName + 'static,
    {
        AsyncTask::new(Job { work: Some(Box::new(work)) })
    }
}

impl<T: Send + ToNapiValue + TypeName + 'static> Task for Job<T> {
    type Output = T;
    type JsValue = T;

    fn compute(&mut self) -> napi::Result<T> {
        let Some(work) = self.work.take() else {
            return Err(to_napi(Error::internal("the same work was started twice")));
        };
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => result.map_err(to_napi),
            Err(payload) => Err(to_napi(Error::internal(panic_message(&*payload)))),
        }
    }

    fn resolve(&mut self, _env: Env, output: T) -> napi::Result<T> {
        Ok(output)
    }
}

#[napi(object, use_nullable = true)]
pub struct NativeOptions {
    pub config_json: String,
    pub generation_config_json: Option<String>,
    pub modules_json: Option<String>,
    pub pooling_config_json: Option<String>,
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

#[napi(object)]
pub struct NativeModel {
    pub architecture: String,
    pub kind: String,
    pub layers: u32,
    pub dimensions: u32,
    pub vocabulary_size: u32,
    pub context_tokens_max: u32,
    pub threads: u32,
    pub instruction_set: String,
    pub tensor_parallel: u32,
}

#[napi(object)]
pub struct NativeExpected {
    pub name: String,
    pub shape: Vec<u32>,
    pub required: bool,
}

#[napi(object)]
pub struct NativeTensor {
    pub name: String,
    pub rank: f64,
    pub dtype: String,
    pub shape: Vec<f64>,
}

/// `length`: bytes of all runs, which lie `stride_bytes` apart.
#[napi(object)]
pub struct NativePlace {
    pub path: String,
    pub offset: f64,
    pub length: f64,
    pub runs: f64,
    pub stride_bytes: f64,
}

/// Exactly one of `messages_json`, `text` and `token_ids`.
#[napi(object, use_nullable = true)]
pub struct NativePrompt {
    pub messages_json: Option<String>,
    pub tools_json: Option<String>,
    pub template_variables_json: Option<String>,
    pub text: Option<String>,
    pub token_ids: Option<Uint32Array>,
}

#[napi(object, use_nullable = true)]
pub struct NativeGenerate {
    pub id: u32,
    pub request_id: Option<String>,
    pub prompt: NativePrompt,
    pub resume_token_ids: Uint32Array,
    pub max_tokens: Option<f64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<f64>,
    pub seed: f64,
    pub stop: Vec<String>,
    pub ignore_eos: bool,
    pub logit_bias_tokens: Uint32Array,
    pub logit_bias_values: Vec<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub logprobs: Option<f64>,
}

#[napi(object, use_nullable = true)]
pub struct NativeUsage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub queued_ms: f64,
    pub prefill_ms: Option<f64>,
    pub decode_ms: f64,
}

#[napi(object)]
pub struct NativeLogprob {
    pub token_id: u32,
    pub logprob: f64,
}

#[napi(object)]
pub struct NativeLogprobs {
    pub token_id: u32,
    pub logprob: f64,
    pub top: Vec<NativeLogprob>,
}

/// `kind` says which fields are there: chunk, failed, embedded, weightsComplete, quiesced, ended, log.
#[napi(object, use_nullable = true)]
pub struct NativeEvent {
    pub kind: String,
    pub id: Option<u32>,
    pub token_ids: Option<Vec<u32>>,
    pub text: Option<String>,
    pub logprobs: Option<NativeLogprobs>,
    pub finish_reason: Option<String>,
    pub usage: Option<NativeUsage>,
    pub error_json: Option<String>,
    pub dimensions: Option<u32>,
    pub values: Option<Float32Array>,
    pub level: Option<String>,
    pub message: Option<String>,
    pub fields_json: Option<String>,
}

#[napi(object, use_nullable = true)]
pub struct NativeStats {
    pub state: String,
    pub failure: Option<String>,
    pub running: u32,
    pub waiting: u32,
    pub kv_tokens_used: f64,
    pub kv_tokens_max: f64,
    pub prompt_tokens_total: f64,
    pub generated_tokens_total: f64,
    pub embedded_tokens_total: f64,
    pub requests_stopped_total: f64,
    pub requests_cancelled_total: f64,
    pub requests_failed_total: f64,
    pub preemptions_total: f64,
    pub steps_total: f64,
    pub step_ms_last: f64,
    pub step_ms_mean: f64,
    pub tensors_expected: u32,
    pub tensors_received: u32,
    pub weight_bytes_mapped: f64,
    pub weight_bytes_owned: f64,
}

#[napi]
pub struct NativeEngine {
    engine: Arc<Engine>,
}

#[napi]
impl NativeEngine {
    /// `notify` is called without arguments when `takeEvents` has something to give.
    #[napi(constructor, catch_unwind)]
    pub fn new(options: NativeOptions, notify: Function<(), ()>) -> napi::Result<NativeEngine> {
        let notify = notify.build_threadsafe_function::<()>().weak::<true>().build()?;
        let options = EngineOptions {
            config: options.config_json,
            generation_config: options.generation_config_json,
            modules: options.modules_json,
            pooling: options.pooling_config_json,
            device: options.device,
            dtype: options.dtype,
            threads: options.threads,
            kv_tokens_max: options.kv_tokens_max,
            context_tokens_max: options.context_tokens_max,
            batch_tokens_max: options.batch_tokens_max,
            sequences_max: options.sequences_max,
            waiting_max: options.waiting_max,
            stall_ms: options.stall_ms,
            tensor_parallel: options.tensor_parallel,
        };
        // The mailbox notifies once per emptying, so at most one call is ever queued.
        let notify = move || {
            notify.call((), ThreadsafeFunctionCallMode::NonBlocking);
        };
        let engine = Engine::new(options, Box::new(notify)).map_err(to_napi)?;
        Ok(NativeEngine { engine: Arc::new(engine) })
    }

    #[napi(catch_unwind)]
    pub fn model(&self) -> NativeModel {
        let info = self.engine.info();
        NativeModel {
            architecture: info.architecture.clone(),
            kind: info.kind.to_string(),
            layers: info.layers as u32,
            dimensions: info.dimensions as u32,
            vocabulary_size: info.vocabulary as u32,
            context_tokens_max: info.context as u32,
            threads: info.threads as u32,
            instruction_set: info.isa.to_string(),
            tensor_parallel: info.tensor_parallel as u32,
        }
    }

    #[napi(catch_unwind)]
    pub fn load_text(&self, tokenizer: String, config: Option<String>, template: Option<String>) -> AsyncTask<Job<()>> {
        let engine = self.engine.clone();
        Job::start(move || engine.load_text(&tokenizer, config.as_deref(), template.as_deref()))
    }

    #[napi(catch_unwind)]
    pub fn expected_tensors(&self) -> Vec<NativeExpected> {
        let expected = self.engine.expected().into_iter();
        let one = |tensor: Expected| NativeExpected {
            shape: tensor.shape.into_iter().map(|size| size as u32).collect(),
            name: tensor.name,
            required: tensor.required,
        };
        expected.map(one).collect()
    }

    #[napi(catch_unwind)]
    pub fn push(&self, tensor: NativeTensor, bytes: Uint8Array) -> AsyncTask<Job<()>> {
        let engine = self.engine.clone();
        Job::start(move || {
            let shape = to_shape(&tensor.shape)?;
            engine.push(&announced(&tensor, &shape, bytes.len(), Pieces::ONE)?, &bytes)
        })
    }

    #[napi(catch_unwind)]
    pub fn push_mapped(&self, tensor: NativeTensor, place: NativePlace) -> AsyncTask<Job<()>> {
        let engine = self.engine.clone();
        Job::start(move || {
            let shape = to_shape(&tensor.shape)?;
            let (offset, length) = (to_size("offset", place.offset)?, to_size("length", place.length)?);
            let (count, stride) = (to_size("runs", place.runs)?, to_size("strideBytes", place.stride_bytes)?);
            let announced = announced(&tensor, &shape, length, Pieces { count, stride })?;
            engine.push_mapped(&announced, Path::new(&place.path), offset)
        })
    }

    /// Queues a request; its answer comes as events under `request.id`, which no other open request has.
    #[napi(catch_unwind)]
    pub fn generate(&self, request: NativeGenerate) -> napi::Result<AsyncTask<Job<()>>> {
        let ticket = self.engine.reserve().map_err(to_napi)?;
        let engine = self.engine.clone();
        let request = to_request(request).map_err(to_napi)?;
        Ok(Job::start(move || engine.generate(request, ticket)))
    }

    /// Queues texts; their vectors come as one event under `id`.
    #[napi(catch_unwind)]
    pub fn embed(
        &self,
        id: u32,
        request_id: Option<String>,
        inputs: Vec<NativePrompt>,
    ) -> napi::Result<AsyncTask<Job<()>>> {
        let ticket = self.engine.reserve().map_err(to_napi)?;
        let engine = self.engine.clone();
        let inputs = inputs.into_iter().map(to_prompt).collect::<Result<_>>().map_err(to_napi)?;
        Ok(Job::start(move || engine.embed(EmbedRequest { id, request_id, inputs }, ticket)))
    }

    #[napi(catch_unwind)]
    pub fn cancel(&self, id: u32) {
        self.engine.cancel(id);
    }

    #[napi(catch_unwind)]
    pub fn consumed(&self, id: u32, tokens: u32) {
        self.engine.consumed(id, tokens as usize);
    }

    #[napi(catch_unwind)]
    pub fn take_events(&self) -> Vec<NativeEvent> {
        self.engine.take_events().into_iter().map(to_event).collect()
    }

    #[napi(catch_unwind)]
    pub fn tokenize(&self, text: String, add_special_tokens: bool) -> AsyncTask<Job<Vec<u32>>> {
        let engine = self.engine.clone();
        Job::start(move || engine.text()?.encode(&text, add_special_tokens))
    }

    #[napi(catch_unwind)]
    pub fn detokenize(&self, token_ids: Uint32Array) -> AsyncTask<Job<String>> {
        let engine = self.engine.clone();
        let token_ids = token_ids.to_vec();
        Job::start(move || engine.text()?.decode(&token_ids))
    }

    #[napi(catch_unwind)]
    pub fn render_chat(&self, prompt: NativePrompt) -> AsyncTask<Job<String>> {
        let engine = self.engine.clone();
        Job::start(move || match to_prompt(prompt)? {
            Prompt::Messages { messages, tools, variables } => engine.render(messages, tools, variables),
            _ => Err(Error::invalid("messages", "there are no messages")),
        })
    }

    #[napi(catch_unwind)]
    pub fn stats(&self) -> NativeStats {
        let (stats, progress) = (self.engine.stats(), self.engine.loading().progress());
        NativeStats {
            state: stats.state.name().to_string(),
            failure: stats.failure,
            running: stats.running as u32,
            waiting: stats.waiting as u32,
            kv_tokens_used: stats.kv_tokens_used as f64,
            kv_tokens_max: self.engine.kv_tokens_max() as f64,
            prompt_tokens_total: stats.prompt_tokens as f64,
            generated_tokens_total: stats.generated_tokens as f64,
            embedded_tokens_total: stats.embedded_tokens as f64,
            requests_stopped_total: stats.stopped as f64,
            requests_cancelled_total: stats.cancelled as f64,
            requests_failed_total: stats.failed as f64,
            preemptions_total: stats.preemptions as f64,
            steps_total: stats.steps as f64,
            step_ms_last: stats.step_ms_last,
            step_ms_mean: stats.step_ms_mean,
            tensors_expected: progress.expected as u32,
            tensors_received: progress.received as u32,
            weight_bytes_mapped: progress.bytes.mapped as f64,
            weight_bytes_owned: progress.bytes.owned as f64,
        }
    }

    #[napi(catch_unwind)]
    pub fn quiesce(&self) -> napi::Result<()> {
        self.engine.quiesce().map_err(to_napi)
    }

    #[napi(catch_unwind)]
    pub fn resume(&self) -> napi::Result<()> {
        self.engine.resume().map_err(to_napi)
    }

    #[napi(catch_unwind)]
    pub fn close(&self) -> AsyncTask<Job<()>> {
        let engine = self.engine.clone();
        Job::start(move || {
            engine.close();
            Ok(())
        })
    }
}

#[cfg(feature = "fault-injection")]
#[napi]
impl NativeEngine {
    /// Makes the engine's thread panic (`step`), or this call (`call`), for the tests of containment.
    #[napi(catch_unwind)]
    pub fn inject_panic(&self, place: String) -> napi::Result<()> {
        if place == "call" {
            panic!("injected into a call");
        }
        self.engine.inject_panic("injected into a step".into()).map_err(to_napi)
    }
}

fn to_size(field: &str, value: f64) -> Result<usize> {
    const SAFE_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;
    if value.fract() == 0.0 && (0.0..=SAFE_INTEGER_MAX).contains(&value) {
        return Ok(value as usize);
    }
    Err(Error::invalid(field, format!("{field} is {value}; it must be a whole number from 0")))
}

fn announced<'a>(tensor: &'a NativeTensor, shape: &'a [usize], length: usize, pieces: Pieces) -> Result<Announced<'a>> {
    let rank = to_size("rank", tensor.rank)?;
    Ok(Announced { name: &tensor.name, rank, dtype: &tensor.dtype, shape, length, pieces })
}

fn to_shape(shape: &[f64]) -> Result<Vec<usize>> {
    shape.iter().map(|size| to_size("shape", *size)).collect()
}

fn parse(field: &str, text: Option<String>) -> Result<Option<Value>> {
    let wrong = |error| Error::invalid(field, format!("{field} is not JSON: {error}"));
    text.map(|text| serde_json::from_str(&text).map_err(wrong)).transpose()
}

fn to_prompt(prompt: NativePrompt) -> Result<Prompt> {
    match (prompt.messages_json, prompt.text, prompt.token_ids) {
        (Some(messages), None, None) => Ok(Prompt::Messages {
            messages: parse("messages", Some(messages))?.unwrap_or(Value::Null),
            tools: parse("tools", prompt.tools_json)?,
            variables: parse("templateVariables", prompt.template_variables_json)?,
        }),
        (None, Some(text), None) => Ok(Prompt::Text(text)),
        (None, None, Some(tokens)) => Ok(Prompt::Tokens(tokens.to_vec())),
        _ => Err(Error::invalid("request", "give exactly one of messages, text and promptTokenIds")),
    }
}

fn to_request(request: NativeGenerate) -> Result<GenerateRequest> {
    Ok(GenerateRequest {
        id: request.id,
        request_id: request.request_id,
        prompt: to_prompt(request.prompt)?,
        resume: request.resume_token_ids.to_vec(),
        max_tokens: request.max_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        seed: request.seed,
        stop: request.stop,
        ignore_eos: request.ignore_eos,
        logit_bias: request.logit_bias_tokens.iter().copied().zip(request.logit_bias_values).collect(),
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        logprobs: request.logprobs,
    })
}

fn event(kind: &str, id: Option<u32>) -> NativeEvent {
    NativeEvent {
        kind: kind.to_string(),
        id,
        token_ids: None,
        text: None,
        logprobs: None,
        finish_reason: None,
        usage: None,
        error_json: None,
        dimensions: None,
        values: None,
        level: None,
        message: None,
        fields_json: None,
    }
}

fn to_event(from: Event) -> NativeEvent {
    match from {
        Event::Chunk(chunk) => to_chunk(chunk),
        Event::Failed { id, error } => NativeEvent { error_json: Some(to_json(&error)), ..event("failed", Some(id)) },
        Event::Embedded { id, dimensions, values } => NativeEvent {
            dimensions: Some(dimensions as u32),
            values: Some(Float32Array::new(values)),
            ..event("embedded", Some(id))
        },
        Event::WeightsComplete => event("weightsComplete", None),
        Event::Quiesced => event("quiesced", None),
        Event::EngineEnded { error } => NativeEvent { error_json: Some(to_json(&error)), ..event("ended", None) },
        Event::Log(line) => NativeEvent {
            level: Some(line.level.name().to_string()),
            message: Some(line.message.to_string()),
            fields_json: Some(to_fields(line.fields)),
            ..event("log", None)
        },
    }
}

fn to_chunk(chunk: Chunk) -> NativeEvent {
    let logprobs = chunk.logprobs.map(|all| NativeLogprobs {
        token_id: all.token,
        logprob: all.logprob,
        top: all.top.into_iter().map(|(token_id, logprob)| NativeLogprob { token_id, logprob }).collect(),
    });
    let usage = chunk.end.map(|(_, usage)| NativeUsage {
        prompt_tokens: usage.prompt_tokens as u32,
        completion_tokens: usage.completion_tokens as u32,
        queued_ms: usage.queued_ms,
        prefill_ms: usage.prefill_ms,
        decode_ms: usage.decode_ms,
    });
    NativeEvent {
        token_ids: Some(chunk.tokens),
        text: Some(chunk.text),
        logprobs,
        finish_reason: chunk.end.map(|(reason, _)| reason.name().to_string()),
        usage,
        ..event("chunk", Some(chunk.id))
    }
}

fn to_fields(fields: Vec<(&'static str, FieldValue)>) -> String {
    let value = |value| match value {
        FieldValue::Text(text) => Value::from(text),
        FieldValue::Number(number) => Value::from(number),
    };
    let fields: Map<String, Value> = fields.into_iter().map(|(name, v)| (name.to_string(), value(v))).collect();
    Value::Object(fields).to_string()
}
