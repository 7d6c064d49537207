//! Text on both sides of the model: tokenizer, chat template, detokeniser, stop strings.

mod detokenise;
mod stop;
mod template;

pub use detokenise::Detokeniser;
pub use stop::StopMatcher;

use crate::error::{Error, Result};
use serde_json::Value;
use template::ChatTemplate;
use tokenizers::Tokenizer;

pub struct Text {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos: Option<u32>,
}

/// Longest text that is tokenised at once, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

impl Text {
    /// From the files of a repository, as text. `template` wins over the one inside tokenizer_config.json.
    pub fn load(tokenizer: &str, tokenizer_config: Option<&str>, template: Option<&str>) -> Result<Text> {
        let mut tokenizer: Tokenizer = tokenizer
            .parse()
            .map_err(|error| Error::invalid("tokenizer", format!("tokenizer.json cannot be used: {error}")))?;
        // Some repositories store the limits of their training; the engine has its own.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| Error::invalid("tokenizer.truncation", format!("tokenizer.json: {error}")))?;
        let config = match tokenizer_config {
            Some(text) => serde_json::from_str(text).map_err(|error| {
                Error::invalid("tokenizerConfig", format!("tokenizer_config.json is not JSON: {error}"))
            })?,
            None => Value::Null,
        };
        let template = ChatTemplate::load(&config, template)?;
        let eos =
            template::special_tokens(&config).get("eos_token").and_then(|token| tokenizer.token_to_id(token.as_str()?));
        Ok(Text { tokenizer, template, eos })
    }

    /// The token that tokenizer_config.json calls the end of a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        if text.len() > TEXT_BYTES_MAX {
            let message = format!("{} bytes of text; at most {TEXT_BYTES_MAX} are taken", text.len());
            return Err(Error::invalid("text", message));
        }
        let encoding = self
            .tokenizer
            .encode_fast(text, add_special_tokens)
            .map_err(|error| Error::invalid("text", format!("the text cannot be tokenised: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Without special tokens; incomplete characters become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|error| Error::invalid("tokenIds", format!("the tokens cannot be turned into text: {error}")))
    }

    /// The prompt for `messages`, ending where the answer begins.
    pub fn render(&self, messages: Value, tools: Option<Value>, variables: Option<Value>) -> Result<String> {
        match &self.template {
            Some(template) => template.render(messages, tools, variables),
            None => Err(Error::unsupported("messages", "the model has no chat template")
                .remedy("Give text or promptTokenIds, or add chat_template.jinja to the model's repository.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A tokenizer with one token per byte.
    pub fn byte_level() -> Text {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut characters: Vec<char> = alphabet.into_iter().collect();
        characters.sort_unstable();
        let vocabulary: serde_json::Map<String, Value> =
            characters.iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
        let byte_level =
            json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] }
        });
        Text::load(&tokenizer.to_string(), None, None).unwrap()
    }

    #[test]
    fn text_survives_a_round_trip() {
        let text = byte_level();
        let ids = text.encode("Grüße, 世界!", true).unwrap();
        assert_eq!(text.decode(&ids).unwrap(), "Grüße, 世界!");
    }

    #[test]
    fn a_broken_tokenizer_and_a_missing_template_are_errors() {
        assert_eq!(Text::load("{}", None, None).err().unwrap().field.as_deref(), Some("tokenizer"));
        assert_eq!(byte_level().render(json!([]), None, None).unwrap_err().field.as_deref(), Some("messages"));
    }
}
