//! Chat templates as transformers runs them (utils/chat_template_utils.py): Jinja with trimmed blocks, Python's string
//! methods, `raise_exception`, `strftime_now` and a `tojson` with Python's spacing. Templates come with the model and are
//! not trusted: their work is bounded.

use crate::error::{Code, Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value as JinjaValue};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};
use std::io;

pub struct ChatTemplate {
    environment: Environment<'static>,
    /// bos_token and the like, as the templates name them.
    special_tokens: Map<String, Value>,
    has_tool_template: bool,
}

const DEFAULT: &str = "default";
/// The name older repositories give to a second template for requests with tools.
const TOOL_USE: &str = "tool_use";
const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Instructions one rendering may take; ordinary templates need some hundred per message.
const FUEL: u64 = 20_000_000;
/// What a template reports through `raise_exception` travels as an error with this prefix.
const RAISED: &str = "raised: ";

impl ChatTemplate {
    /// None when neither place has a template.
    pub fn load(config: &Value, separate: Option<&str>) -> Result<Option<ChatTemplate>> {
        let templates = match separate {
            Some(source) => vec![(DEFAULT.to_string(), source.to_string())],
            None => inside(config)?,
        };
        if templates.is_empty() {
            return Ok(None);
        }
        let mut environment = environment();
        for (name, source) in &templates {
            if source.len() > TEMPLATE_BYTES_MAX {
                return Err(Error::invalid("chatTemplate", format!("a template of {} bytes", source.len())));
            }
            environment.add_template_owned(name.clone(), source.clone()).map_err(|error| {
                Error::invalid("chatTemplate", format!("the chat template is not valid: {error:#}"))
            })?;
        }
        let has_tool_template = templates.iter().any(|(name, _)| name == TOOL_USE);
        Ok(Some(ChatTemplate { environment, special_tokens: special_tokens(config), has_tool_template }))
    }

    pub fn render(&self, messages: Value, tools: Option<Value>, variables: Option<Value>) -> Result<String> {
        let name = if tools.is_some() && self.has_tool_template { TOOL_USE } else { DEFAULT };
        let mut context = self.special_tokens.clone();
        if let Some(Value::Object(variables)) = variables {
            context.extend(variables);
        }
        context.insert("messages".into(), messages);
        context.insert("tools".into(), tools.unwrap_or(Value::Null));
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), json!(true));
        let template = self.environment.get_template(name).map_err(|error| Error::internal(error.to_string()))?;
        template.render(JinjaValue::from(Serde(&context))).map_err(explain)
    }
}

fn explain(error: minijinja::Error) -> Error {
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::new(Code::ResourceExhausted, "the chat template takes too long for these messages")
            .at("messages");
    }
    match error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
        Some(message) => Error::invalid("messages", message.to_string()),
        None => Error::invalid("messages", format!("the chat template cannot render these messages: {error:#}")),
    }
}

/// `chat_template` of tokenizer_config.json: one template, or a list of named ones.
fn inside(config: &Value) -> Result<Vec<(String, String)>> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![(DEFAULT.to_string(), source.clone())]),
        Some(Value::Array(list)) => {
            let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_string);
            let pairs = list.iter().map(|entry| Some((text(entry, "name")?, text(entry, "template")?)));
            pairs.collect::<Option<Vec<_>>>().ok_or_else(wrong_template)
        }
        Some(_) => Err(wrong_template()),
    }
}

fn wrong_template() -> Error {
    Error::invalid("tokenizerConfig.chat_template", "chat_template must be a string or a list of {name, template}")
}

/// `"bos_token": "<s>"` or `"bos_token": {"content": "<s>", …}`.
pub fn special_tokens(config: &Value) -> Map<String, Value> {
    let mut tokens = Map::new();
    for name in ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"] {
        let token = config.get(name).and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        if let Some(token) = token {
            tokens.insert(name.to_string(), json!(token));
        }
    }
    tokens
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    environment
}

/// json.dumps with ensure_ascii=False: ", " and ": " between things, or lines when `indent` is given.
fn to_json(value: JinjaValue, options: Kwargs) -> std::result::Result<JinjaValue, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            value
                .serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, PythonSpacing)),
    };
    let failed = |error: &dyn std::fmt::Display| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    written.map_err(|error| failed(&error))?;
    String::from_utf8(bytes).map(JinjaValue::from_safe_string).map_err(|error| failed(&error))
}

struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Today, as the templates of some models state it in the system prompt.
fn strftime_now(format: String) -> std::result::Result<String, minijinja::Error> {
    let format = std::ffi::CString::new(format)
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    let mut out = [0u8; 256];
    // SAFETY: the buffer's length is passed, `tm` is filled before it is read, and both strings end with a zero.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts = std::mem::zeroed::<libc::tm>();
        libc::localtime_r(&now, &mut parts);
        libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), &parts)
    };
    Ok(String::from_utf8_lossy(&out[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::load(&json!({ "bos_token": { "content": "<s>" }, "eos_token": "</s>" }), Some(source))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn templates_see_tokens_messages_tools_and_python_methods() {
        let source = "{{ bos_token }}{% for m in messages %}\n<{{ m['role'].upper() }}>{{ m.content.strip() }}{% endfor %}\n\
            {% if tools %}{{ tools | tojson }}{% endif %}\n{% if add_generation_prompt %}<A>{% endif %}";
        let rendered = template(source).render(
            json!([{ "role": "user", "content": "  hi " }]),
            Some(json!([{ "name": "f", "n": [1, 2] }])),
            None,
        );
        assert_eq!(rendered.unwrap(), "<s><USER>hi[{\"name\": \"f\", \"n\": [1, 2]}]<A>");
    }

    #[test]
    fn an_exception_raised_by_the_template_is_the_callers_error() {
        let error =
            template("{{ raise_exception('roles must alternate') }}").render(json!([]), None, None).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (Code::InvalidArgument, "roles must alternate"));
    }

    #[test]
    fn endless_templates_run_out_of_fuel_and_broken_ones_are_refused() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        assert_eq!(template(nested).render(json!([]), None, None).unwrap_err().code, Code::ResourceExhausted);
        assert!(ChatTemplate::load(&Value::Null, Some("{% if %}")).is_err());
        assert!(ChatTemplate::load(&json!({ "chat_template": 5 }), None).is_err());
        assert!(ChatTemplate::load(&Value::Null, None).unwrap().is_none());
    }

    #[test]
    fn the_tool_template_is_used_for_requests_with_tools() {
        let config = json!({ "chat_template": [{ "name": "default", "template": "plain" }, { "name": "tool_use", "template": "tools" }] });
        let template = ChatTemplate::load(&config, None).unwrap().unwrap();
        assert_eq!(template.render(json!([]), None, None).unwrap(), "plain");
        assert_eq!(template.render(json!([]), Some(json!([])), None).unwrap(), "tools");
    }
}
