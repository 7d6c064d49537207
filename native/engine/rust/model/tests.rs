//! Logits and embeddings of every architecture against stored results of transformers (scripts/make_fixtures.py).

use super::*;
use crate::config::{ModelConfig, Pooling};
use crate::kernels::{BLOCK_TOKENS, Dtype, Isa};
use crate::pool::Pool;
use crate::tensor::{Mappings, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bar: every logit and every element of an embedding in f32.
const TOLERANCE: f32 = 1e-3;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers<T>(value: &Value, convert: impl Fn(f64) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(|item| convert(item.as_f64().unwrap())).collect()
}

/// Builds a fixture's model from its tensors, in an order that differs with `rotate`.
fn load(
    name: &str,
    isa: Isa,
    dtype: Option<Dtype>,
    rotate: usize,
    change: impl Fn(ModelConfig) -> ModelConfig,
) -> Model {
    let config = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let config = change(ModelConfig::parse(&config, None, None).unwrap());
    let mut assembly = Assembly::new(Arc::new(config), isa, dtype);
    let path = folder(name).join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let mut entries: Vec<_> = entries.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__").collect();
    let count = entries.len();
    entries.rotate_left(rotate % count);
    let mappings = Mappings::default();
    let mut model = None;
    for (name, entry) in entries {
        assert!(model.is_none(), "complete before {name}");
        let offsets = numbers(&entry["data_offsets"], |x| x as usize);
        let shape = numbers(&entry["shape"], |x| x as usize);
        let length = offsets[1] - offsets[0];
        let claim = assembly.claim(name, entry["dtype"].as_str().unwrap(), &shape, length).unwrap();
        if !claim.wanted {
            continue;
        }
        let tensor = mappings.tensor(claim.dtype, shape, &path, header + offsets[0], length).unwrap();
        model = assembly.deliver(claim, Assembly::prepare(dtype, tensor)).unwrap();
    }
    model.expect("complete")
}

fn decoder(name: &str, isa: Isa, dtype: Option<Dtype>, rotate: usize) -> Decoder {
    match load(name, isa, dtype, rotate, |config| config) {
        Model::Decoder(decoder) => decoder,
        Model::Encoder(_) => panic!("{name} is an encoder"),
    }
}

const DECODERS: [&str; 5] = ["llama", "llama3-bias", "qwen2", "qwen3", "mistral"];

fn cache(decoder: &Decoder, dtype: Dtype, blocks: usize) -> KvCache {
    let config = &decoder.config;
    KvCache::new(dtype, config.layers.len(), config.kv_heads, config.head_dim, blocks).unwrap()
}

/// Logits after each of the pieces that `tokens` is cut into at `cuts`.
fn run(
    decoder: &mut Decoder,
    pool: &mut Pool,
    cache: &KvCache,
    blocks: &[u32],
    tokens: &[u32],
    cuts: &[usize],
) -> Vec<f32> {
    let mut logits = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([tokens.len()]) {
        let span = Span { tokens: &tokens[start..end], position: start, blocks };
        decoder.step(pool, cache, &DecoderStep { spans: vec![span], outputs: vec![end - start - 1] }, &mut logits);
        start = end;
    }
    logits
}

fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= TOLERANCE, "{what}[{i}]: {g} instead of {e}");
    }
}

#[test]
fn logits_equal_transformers_in_f32_on_every_instruction_set() {
    let mut pool = Pool::new(2).unwrap();
    for (rotate, name) in DECODERS.into_iter().enumerate() {
        let expected = json(folder(name).join("expected.json"));
        for isa in Isa::available() {
            let mut decoder = decoder(name, isa, Some(Dtype::F32), rotate * 7);
            let cache = cache(&decoder, Dtype::F32, 4);
            for case in expected["logits"].as_array().unwrap() {
                let tokens = numbers(&case["tokens"], |x| x as u32);
                let got = run(&mut decoder, &mut pool, &cache, &[3, 1], &tokens, &[]);
                assert_close(&got, &numbers(&case["last"], |x| x as f32), &format!("{name} {isa:?}"));
            }
        }
    }
}

#[test]
fn a_sequence_is_computed_alike_in_one_piece_in_chunks_and_beside_others() {
    let mut pool = Pool::new(2).unwrap();
    for name in DECODERS {
        for (isa, dtype) in [(Isa::detect(), Dtype::Bf16), (Isa::detect(), Dtype::F32), (Isa::Portable, Dtype::F32)] {
            let mut decoder = decoder(name, isa, Some(dtype), 0);
            let cache = cache(&decoder, dtype, 12);
            let tokens: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % 90).collect();
            let whole = run(&mut decoder, &mut pool, &cache, &[0, 1, 2], &tokens, &[]);
            let chunked = run(&mut decoder, &mut pool, &cache, &[5, 3, 4], &tokens, &[1, 2, 31, 33, 64, 69]);
            assert_eq!(whole, chunked, "{name} {isa:?} {dtype:?}");

            // One token of it in a step with a prompt and another decoding sequence.
            let other: Vec<u32> = (0..33).map(|i| (i * 5) % 90).collect();
            run(&mut decoder, &mut pool, &cache, &[6, 7, 8], &tokens[..69], &[]);
            run(&mut decoder, &mut pool, &cache, &[9, 10], &other[..20], &[]);
            let spans = vec![
                Span { tokens: &other, position: 0, blocks: &[11, 5] },
                Span { tokens: &tokens[69..], position: 69, blocks: &[6, 7, 8] },
                Span { tokens: &other[20..21], position: 20, blocks: &[9, 10] },
            ];
            let mut logits = Vec::new();
            decoder.step(&mut pool, &cache, &DecoderStep { spans, outputs: vec![32, 33, 34] }, &mut logits);
            let vocabulary = decoder.config.vocabulary;
            assert_eq!(logits[vocabulary..2 * vocabulary], whole, "{name} {isa:?} {dtype:?} mixed");
        }
    }
}

#[test]
fn greedy_answers_equal_transformers_in_bf16() {
    let mut pool = Pool::new(2).unwrap();
    for name in DECODERS {
        let expected = json(folder(name).join("expected.json"));
        for isa in Isa::available() {
            let mut decoder = decoder(name, isa, Some(Dtype::Bf16), 3);
            let cache = cache(&decoder, Dtype::Bf16, 4);
            for case in expected["greedyBf16"].as_array().unwrap() {
                let mut tokens = numbers(&case["prompt"], |x| x as u32);
                let answer = numbers(&case["answer"], |x| x as u32);
                let prompt = tokens.len();
                for done in 0..answer.len() {
                    let cuts: Vec<usize> = (prompt..prompt + done).collect();
                    let logits = run(&mut decoder, &mut pool, &cache, &[2, 0], &tokens, &cuts);
                    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                    tokens.push(best as u32);
                }
                assert_eq!(tokens[prompt..], answer, "{name} {isa:?}");
            }
        }
    }
}

#[test]
fn embeddings_equal_transformers_in_f32() {
    let mut pool = Pool::new(2).unwrap();
    let expected = json(folder("bert").join("expected.json"));
    let cases = expected["embeddings"].as_array().unwrap();
    let texts: Vec<Vec<u32>> = cases.iter().map(|case| numbers(&case["tokens"], |x| x as u32)).collect();
    for isa in Isa::available() {
        for (field, pooling) in [("mean", Pooling::Mean), ("first", Pooling::FirstToken)] {
            let change = |config: ModelConfig| match config {
                ModelConfig::Encoder(mut encoder) => {
                    encoder.pooling = pooling;
                    encoder.normalise = pooling == Pooling::Mean;
                    ModelConfig::Encoder(encoder)
                }
                ModelConfig::Decoder(_) => panic!("bert is an encoder"),
            };
            let Model::Encoder(encoder) = load("bert", isa, Some(Dtype::F32), 5, change) else {
                panic!("bert is an encoder")
            };
            let together: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let packed = encoder.embed(&mut pool, &together).unwrap();
            for (case, (text, embedding)) in cases.iter().zip(texts.iter().zip(&packed)) {
                assert_close(embedding, &numbers(&case[field], |x| x as f32), &format!("{field} {isa:?}"));
                let alone = encoder.embed(&mut pool, &[text]).unwrap();
                assert_eq!(&alone[0], embedding, "{field} {isa:?}: alone and packed");
            }
        }
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_and_can_be_given_again() {
    use crate::error::Code;
    let config = std::fs::read_to_string(folder("qwen3").join("config.json")).unwrap();
    let mut assembly = Assembly::new(Arc::new(ModelConfig::parse(&config, None, None).unwrap()), Isa::detect(), None);
    let code =
        |result: crate::error::Result<Claim>| result.err().map(|error| (error.code, error.field.unwrap_or_default()));
    let norm = "model.norm.weight";
    assert_eq!(code(assembly.claim("model.nothing", "F32", &[1], 4)), Some((Code::InvalidArgument, "name".into())));
    assert_eq!(code(assembly.claim(norm, "F32", &[49], 196)), Some((Code::InvalidArgument, "shape".into())));
    assert_eq!(code(assembly.claim(norm, "F32", &[48], 191)), Some((Code::InvalidArgument, "length".into())));
    assert_eq!(code(assembly.claim(norm, "I8", &[48], 48)), Some((Code::Unsupported, "dtype".into())));
    let claim = assembly.claim(norm, "F32", &[48], 192).unwrap();
    assert_eq!(code(assembly.claim(norm, "F32", &[48], 192)), Some((Code::AlreadyExists, "name".into())));
    assembly.release(claim);
    let claim = assembly.claim(norm, "F32", &[48], 192).unwrap();
    assert!(assembly.deliver(claim, Tensor::owned(Dtype::F32, vec![48], vec![0; 192])).unwrap().is_none());
    // Tied: the head is tolerated, whatever it looks like.
    assert!(!assembly.claim("lm_head.weight", "I8", &[3], 3).unwrap().wanted);
    assert_eq!(assembly.received, 1);
    assert_eq!(BLOCK_TOKENS, 32, "the cases above span two blocks");
}
