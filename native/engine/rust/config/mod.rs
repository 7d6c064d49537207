//! config.json, checked field by field. Every value that the engine does not compute exactly is refused by name; fields
//! without influence on the result are ignored.

mod decoder;
mod defaults;
mod encoder;
mod fields;
mod rope;

pub use decoder::{DecoderConfig, DecoderLayer};
pub use defaults::Defaults;
pub use encoder::{EncoderConfig, Pooling};
pub use rope::Rope;

use crate::error::{Error, Result};
use fields::Fields;

pub enum ModelConfig {
    Decoder(DecoderConfig),
    Encoder(EncoderConfig),
}

/// Element-wise functions between two projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    Gelu,
    GeluTanh,
}

impl Activation {
    fn parse(name: &str) -> Option<Activation> {
        match name {
            "silu" | "swish" => Some(Activation::Silu),
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Activation::GeluTanh),
            _ => None,
        }
    }
}

impl ModelConfig {
    /// `pooling` and `modules` are sentence-transformers' 1_Pooling/config.json and modules.json.
    pub fn parse(config: &str, pooling: Option<&str>, modules: Option<&str>) -> Result<ModelConfig> {
        let root = Fields::parse(config, "config")?;
        if root.has("quantization_config") {
            return Err(Error::unsupported("config.quantization_config", "quantised weights are not supported")
                .remedy("Use a repository with F32, BF16 or F16 weights."));
        }
        let architecture = architecture(&root)?;
        match architecture.as_str() {
            "LlamaForCausalLM" | "Qwen2ForCausalLM" | "Qwen3ForCausalLM" | "MistralForCausalLM" => {
                DecoderConfig::parse(&root, architecture).map(ModelConfig::Decoder)
            }
            "BertModel" | "BertForMaskedLM" => {
                EncoderConfig::parse(&root, architecture, pooling, modules).map(ModelConfig::Encoder)
            }
            other => {
                Err(Error::unsupported("config.architectures", format!("the architecture {other} is not supported"))
                    .remedy(
                        "Use LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, MistralForCausalLM or BertModel.",
                    ))
            }
        }
    }

    pub fn architecture(&self) -> &str {
        match self {
            ModelConfig::Decoder(config) => &config.architecture,
            ModelConfig::Encoder(config) => &config.architecture,
        }
    }
}

/// `architectures[0]`, or what `model_type` stands for when a repository leaves it out.
fn architecture(root: &Fields) -> Result<String> {
    let listed = root.strings("architectures")?.unwrap_or_default();
    if let Some(first) = listed.into_iter().next() {
        return Ok(first);
    }
    let name = match root.string("model_type")?.as_deref() {
        Some("llama") => "LlamaForCausalLM",
        Some("qwen2") => "Qwen2ForCausalLM",
        Some("qwen3") => "Qwen3ForCausalLM",
        Some("mistral") => "MistralForCausalLM",
        Some("bert") => "BertModel",
        Some(other) => {
            return Err(Error::unsupported("config.model_type", format!("the model type {other} is not supported")));
        }
        None => {
            return Err(Error::invalid(
                "config.architectures",
                "config.json names neither architectures nor model_type",
            ));
        }
    };
    Ok(name.to_string())
}

#[cfg(test)]
mod tests;
