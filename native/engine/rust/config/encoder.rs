//! BERT for sentence embeddings, with the pooling that sentence-transformers' files describe.

use super::Activation;
use super::decoder::half_precision;
use super::fields::Fields;
use crate::error::{Error, Result};
use crate::kernels::HEAD_DIM_MAX;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    FirstToken,
}

#[derive(Clone, Debug)]
pub struct EncoderConfig {
    pub architecture: String,
    pub vocabulary: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub layers: usize,
    pub context: usize,
    pub token_types: usize,
    pub epsilon: f32,
    pub activation: Activation,
    pub pooling: Pooling,
    /// Scale each embedding to length 1.
    pub normalise: bool,
    pub half_precision: bool,
}

const VOCABULARY_MAX: usize = 1 << 22;
const WIDTH_MAX: usize = 1 << 16;
const HEADS_MAX: usize = 1 << 8;
const LAYERS_MAX: usize = 1 << 8;
const CONTEXT_MAX: usize = 1 << 16;

impl EncoderConfig {
    pub fn parse(
        root: &Fields,
        architecture: String,
        pooling: Option<&str>,
        modules: Option<&str>,
    ) -> Result<EncoderConfig> {
        root.only("is_encoder_decoder", &json!(false))?;
        root.only("add_cross_attention", &json!(false))?;
        root.only("is_decoder", &json!(false))?;
        root.only("position_embedding_type", &json!("absolute"))?;
        let hidden = root.required_count("hidden_size", WIDTH_MAX)?;
        let heads = root.required_count("num_attention_heads", HEADS_MAX)?;
        let head_dim = hidden / heads;
        if hidden % heads != 0 || head_dim > HEAD_DIM_MAX {
            let path = root.path("num_attention_heads");
            return Err(Error::invalid(
                path.clone(),
                format!("{path} is {heads}, which does not fit hidden_size {hidden}"),
            ));
        }
        let name = root.string("hidden_act")?.unwrap_or_else(|| "gelu".to_string());
        let activation = match Activation::parse(&name) {
            Some(activation @ (Activation::Gelu | Activation::GeluTanh)) => activation,
            _ => {
                return Err(Error::unsupported(
                    root.path("hidden_act"),
                    format!("config.hidden_act {name} is not supported"),
                ));
            }
        };
        Ok(EncoderConfig {
            vocabulary: root.required_count("vocab_size", VOCABULARY_MAX)?,
            intermediate: root.required_count("intermediate_size", WIDTH_MAX)?,
            layers: root.required_count("num_hidden_layers", LAYERS_MAX)?,
            context: root.count("max_position_embeddings", CONTEXT_MAX)?.unwrap_or(512),
            token_types: root.count("type_vocab_size", WIDTH_MAX)?.unwrap_or(2),
            epsilon: root.positive("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            pooling: pooling.map(parse_pooling).transpose()?.unwrap_or(Pooling::Mean),
            normalise: modules.map(parse_normalise).transpose()?.unwrap_or(true),
            half_precision: half_precision(root)?,
            architecture,
            hidden,
            heads,
            head_dim,
            activation,
        })
    }
}

fn parse_pooling(text: &str) -> Result<Pooling> {
    let fields = Fields::parse(text, "pooling")?;
    for name in [
        "pooling_mode_max_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
    ] {
        fields.only(name, &json!(false))?;
    }
    let mean = fields.flag("pooling_mode_mean_tokens")?.unwrap_or(false);
    let first = fields.flag("pooling_mode_cls_token")?.unwrap_or(false);
    match (mean, first, fields.string("pooling_mode")?.as_deref()) {
        (true, false, _) | (false, false, Some("mean")) => Ok(Pooling::Mean),
        (false, true, _) | (false, false, Some("cls")) => Ok(Pooling::FirstToken),
        _ => Err(Error::unsupported("pooling", "exactly one of mean and first-token pooling is supported")),
    }
}

/// modules.json lists the steps of a sentence-transformers model in order.
fn parse_normalise(text: &str) -> Result<bool> {
    let modules: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| Error::invalid("modules", format!("modules.json is not a JSON list: {error}")))?;
    let mut normalise = false;
    for module in &modules {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Pooling" => {}
            "Normalize" => normalise = true,
            other => {
                return Err(Error::unsupported(
                    "modules",
                    format!("the module {other} of modules.json is not supported"),
                ));
            }
        }
    }
    Ok(normalise)
}
