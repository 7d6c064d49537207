//! config.json in both spellings, and refusals that name the field.

use super::*;
use crate::error::Code;
use serde_json::{Value, json};

fn llama(changes: Value) -> String {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 100, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16", "rope_theta": 10000.0
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    config.to_string()
}

fn decoder(changes: Value) -> DecoderConfig {
    match ModelConfig::parse(&llama(changes), None, None) {
        Ok(ModelConfig::Decoder(config)) => config,
        Ok(_) => panic!("not a decoder"),
        Err(error) => panic!("{error}"),
    }
}

fn refusal(changes: Value) -> (Code, String) {
    let error = ModelConfig::parse(&llama(changes), None, None).err().expect("refused");
    (error.code, error.field.expect("names the field"))
}

#[test]
fn old_and_new_spelling_mean_the_same() {
    let old = decoder(json!({ "rope_theta": 500000.0 }));
    let new = decoder(json!({
        "rope_theta": null, "torch_dtype": null, "dtype": "bfloat16",
        "rope_parameters": { "rope_type": "default", "rope_theta": 500000.0 }
    }));
    assert_eq!(old.rope.inverse_frequencies, new.rope.inverse_frequencies);
    assert_eq!(old.half_precision, new.half_precision);
    assert!((old.rope.inverse_frequencies[1] - 500000f32.powf(-0.125)).abs() < 1e-6);
}

#[test]
fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
    let plain = decoder(json!({ "rope_theta": 500000.0 })).rope.inverse_frequencies;
    let scaled = decoder(json!({ "rope_theta": 500000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192
    } }))
    .rope
    .inverse_frequencies;
    assert_eq!(plain[0], scaled[0]);
    assert!((plain[7] / scaled[7] - 8.0).abs() < 1e-4);
}

#[test]
fn windows_follow_the_architecture() {
    let window = |changes| decoder(changes).layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
    assert_eq!(window(json!({ "sliding_window": 8 })), [None; 3]);
    let mistral = json!({ "architectures": ["MistralForCausalLM"], "sliding_window": 8 });
    assert_eq!(window(mistral), [Some(8); 3]);
    assert_eq!(window(json!({ "architectures": ["MistralForCausalLM"], "sliding_window": null })), [None; 3]);
    assert_eq!(window(json!({ "architectures": ["MistralForCausalLM"] })), [Some(4096); 3]);
    let qwen = json!({ "architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 2 });
    assert_eq!(window(qwen), [None, None, Some(8)]);
    let listed = json!({ "architectures": ["Qwen3ForCausalLM"], "sliding_window": 8, "use_sliding_window": true,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] });
    assert_eq!(window(listed), [Some(8), None, Some(8)]);
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let cases = [
        (json!({ "architectures": ["MixtralForCausalLM"] }), Code::Unsupported, "config.architectures"),
        (json!({ "hidden_act": "relu" }), Code::Unsupported, "config.hidden_act"),
        (json!({ "quantization_config": { "quant_method": "gptq" } }), Code::Unsupported, "config.quantization_config"),
        (
            json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } }),
            Code::Unsupported,
            "config.rope_scaling.rope_type",
        ),
        (json!({ "partial_rotary_factor": 0.5 }), Code::Unsupported, "config.partial_rotary_factor"),
        (json!({ "torch_dtype": "float8" }), Code::Unsupported, "config.torch_dtype"),
        (json!({ "head_dim": 15 }), Code::Unsupported, "config.head_dim"),
        (json!({ "hidden_size": 0 }), Code::InvalidArgument, "config.hidden_size"),
        (json!({ "hidden_size": -5 }), Code::InvalidArgument, "config.hidden_size"),
        (json!({ "hidden_size": 1e300 }), Code::InvalidArgument, "config.hidden_size"),
        (json!({ "hidden_size": null }), Code::InvalidArgument, "config.hidden_size"),
        (json!({ "num_key_value_heads": 3 }), Code::InvalidArgument, "config.num_key_value_heads"),
        (
            json!({ "num_attention_heads": 6, "num_key_value_heads": 2 }),
            Code::InvalidArgument,
            "config.num_attention_heads",
        ),
        (json!({ "rms_norm_eps": "small" }), Code::InvalidArgument, "config.rms_norm_eps"),
        (json!({ "eos_token_id": ["x"] }), Code::InvalidArgument, "config.eos_token_id"),
        (
            json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } }),
            Code::InvalidArgument,
            "config.rope_scaling.low_freq_factor",
        ),
    ];
    for (changes, code, field) in cases {
        assert_eq!(refusal(changes.clone()), (code, field.to_string()), "{changes}");
    }
    assert_eq!(ModelConfig::parse("[]", None, None).err().unwrap().code, Code::InvalidArgument);
    assert_eq!(ModelConfig::parse("{", None, None).err().unwrap().code, Code::InvalidArgument);
}

#[test]
fn an_encoder_pools_as_its_files_say() {
    let config = json!({ "architectures": ["BertModel"], "hidden_size": 32, "intermediate_size": 64,
        "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 50 })
    .to_string();
    let parse = |pooling: Option<&str>, modules: Option<&str>| match ModelConfig::parse(&config, pooling, modules) {
        Ok(ModelConfig::Encoder(config)) => Ok((config.pooling, config.normalise)),
        Ok(_) => panic!("not an encoder"),
        Err(error) => Err(error.code),
    };
    assert_eq!(parse(None, None), Ok((Pooling::Mean, true)));
    let cls = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    let two =
        r#"[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]"#;
    assert_eq!(parse(Some(cls), Some(two)), Ok((Pooling::FirstToken, false)));
    assert_eq!(parse(Some(r#"{"pooling_mode_max_tokens": true}"#), None), Err(Code::Unsupported));
    assert_eq!(parse(None, Some(r#"[{"type": "x.Dense"}]"#)), Err(Code::Unsupported));
}
