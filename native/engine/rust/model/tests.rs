//! Logits and embeddings of every architecture against stored results of transformers (scripts/make_fixtures.py).

use super::*;
use crate::config::{DecoderConfig, ModelConfig, Pooling};
use crate::error::Code;
use crate::kernels::{BLOCK_TOKENS, Dtype, Isa};
use crate::pool::Pool;
use crate::tensor::{Mappings, Pieces, Place, Tensor};
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

/// How a fixture's tensors come.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// In an order that differs with it.
    rotate: usize,
    ranks: usize,
    /// Each rank's slices in one piece, as from a folder of its own, instead of where they lie in the whole.
    cut: bool,
}

const WHOLE: Way = Way { rotate: 0, ranks: 1, cut: false };

/// One rank's slice: its shape, the first byte in the tensor, its pieces.
fn slice(name: &str, shape: &[usize], kv_heads: usize, rank: usize, ranks: usize) -> (Vec<usize>, usize, Pieces) {
    let part = name.rsplit('.').nth(1).unwrap();
    let mut sliced = shape.to_vec();
    match part {
        "o_proj" | "down_proj" if name.ends_with("weight") => {
            sliced[1] /= ranks;
            (sliced.clone(), rank * sliced[1] * 2, Pieces { count: shape[0], stride: shape[1] * 2 })
        }
        "q_proj" | "k_proj" | "v_proj" | "gate_proj" | "up_proj" | "embed_tokens" | "lm_head" => {
            let parts = if matches!(part, "k_proj" | "v_proj") { kv_heads.min(ranks) } else { ranks };
            sliced[0] /= parts;
            let bytes = sliced.iter().product::<usize>() * 2;
            (sliced, rank * parts / ranks * bytes, Pieces::ONE)
        }
        _ => (sliced, 0, Pieces::ONE),
    }
}

/// Builds a fixture's model from its tensors.
fn load(name: &str, isa: Isa, dtype: Option<Dtype>, way: Way, change: impl Fn(ModelConfig) -> ModelConfig) -> Model {
    let config = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let config = change(ModelConfig::parse(&config, None, None).unwrap());
    let kv_heads = if let ModelConfig::Decoder(config) = &config { config.kv_heads } else { 1 };
    let mut assembly = Assembly::new(Arc::new(config), isa, dtype, way.ranks);
    let path = folder(name).join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let entries = entries.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let mut entries: Vec<_> = entries.flat_map(|entry| (0..way.ranks).map(move |rank| (entry, rank))).collect();
    let count = entries.len();
    entries.rotate_left(way.rotate % count);
    let mappings = Mappings::default();
    let mut model = None;
    for ((name, entry), rank) in entries {
        assert!(model.is_none(), "complete before {name}");
        let offsets = numbers(&entry["data_offsets"], |x| x as usize);
        let shape = numbers(&entry["shape"], |x| x as usize);
        let (shape, begin, pieces) =
            if way.ranks > 1 { slice(name, &shape, kv_heads, rank, way.ranks) } else { (shape, 0, Pieces::ONE) };
        let dtype_name = entry["dtype"].as_str().unwrap();
        let length = if way.ranks > 1 { shape.iter().product::<usize>() * 2 } else { offsets[1] - offsets[0] };
        let place = Place { path: &path, offset: header + offsets[0] + begin, length, pieces };
        let pieces = if way.cut { Pieces::ONE } else { pieces };
        let claim =
            assembly.claim(&Announced { name, rank, dtype: dtype_name, shape: &shape, length, pieces }).unwrap();
        if !claim.wanted {
            continue;
        }
        let mut tensor = mappings.tensor(claim.dtype, shape.clone(), &place).unwrap();
        if way.cut {
            tensor = Tensor::owned(claim.dtype, shape, tensor.pieces().collect::<Vec<_>>().concat());
        }
        model = assembly.deliver(claim, Assembly::prepare(dtype, tensor)).unwrap();
    }
    assert_eq!(assembly.received, assembly.required());
    model.expect("complete")
}

fn decoder(name: &str, isa: Isa, dtype: Option<Dtype>, way: Way) -> Decoder {
    match load(name, isa, dtype, way, |config| config) {
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
            let mut decoder = decoder(name, isa, Some(Dtype::F32), Way { rotate: rotate * 7, ..WHOLE });
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
            let mut decoder = decoder(name, isa, Some(dtype), WHOLE);
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

/// Greedy answers to a fixture's prompts, against those of transformers.
fn assert_greedy(pool: &mut Pool, name: &str, isa: Isa, way: Way) {
    let expected = json(folder(name).join("expected.json"));
    let mut decoder = decoder(name, isa, Some(Dtype::Bf16), way);
    let cache = cache(&decoder, Dtype::Bf16, 4);
    for case in expected["greedyBf16"].as_array().unwrap() {
        let mut tokens = numbers(&case["prompt"], |x| x as u32);
        let answer = numbers(&case["answer"], |x| x as u32);
        let prompt = tokens.len();
        for done in 0..answer.len() {
            let cuts: Vec<usize> = (prompt..prompt + done).collect();
            let logits = run(&mut decoder, pool, &cache, &[2, 0], &tokens, &cuts);
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            tokens.push(best as u32);
        }
        assert_eq!(tokens[prompt..], answer, "{name} {isa:?} {way:?}");
    }
}

#[test]
fn greedy_answers_equal_transformers_in_bf16() {
    let mut pool = Pool::new(2).unwrap();
    for name in DECODERS {
        for isa in Isa::available() {
            assert_greedy(&mut pool, name, isa, Way { rotate: 3, ..WHOLE });
        }
    }
}

/// Two ranks have a key/value head each; of four, two share one.
const GROUPS: [Way; 4] = [
    Way { rotate: 0, ranks: 2, cut: false },
    Way { rotate: 11, ranks: 2, cut: true },
    Way { rotate: 29, ranks: 4, cut: false },
    Way { rotate: 5, ranks: 4, cut: true },
];

#[test]
fn a_group_of_ranks_computes_what_one_does() {
    let mut pool = Pool::new(2).unwrap();
    for name in DECODERS {
        let expected = json(folder(name).join("expected.json"));
        for way in GROUPS {
            for isa in Isa::available() {
                let mut whole = decoder(name, isa, Some(Dtype::F32), WHOLE);
                let mut group = decoder(name, isa, Some(Dtype::F32), way);
                let cache = cache(&group, Dtype::F32, 4);
                for case in expected["logits"].as_array().unwrap() {
                    let tokens = numbers(&case["tokens"], |x| x as u32);
                    let got = run(&mut group, &mut pool, &cache, &[3, 1], &tokens, &[]);
                    let alone = run(&mut whole, &mut pool, &cache, &[2, 0], &tokens, &[]);
                    assert_close(&got, &alone, &format!("{name} {isa:?} {way:?}"));
                    assert_close(&got, &numbers(&case["last"], |x| x as f32), &format!("{name} {isa:?} {way:?}"));
                }
            }
            assert_greedy(&mut pool, name, Isa::detect(), way);
        }
    }
}

#[test]
fn in_a_group_too_a_sequence_is_computed_alike_in_one_piece_and_in_chunks() {
    let mut pool = Pool::new(2).unwrap();
    for way in GROUPS {
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let mut decoder = decoder("qwen2", Isa::detect(), Some(dtype), way);
            let cache = cache(&decoder, dtype, 12);
            let tokens: Vec<u32> = (0..70).map(|i| (i * 37 + 11) % 90).collect();
            let whole = run(&mut decoder, &mut pool, &cache, &[0, 1, 2], &tokens, &[]);
            let chunked = run(&mut decoder, &mut pool, &cache, &[5, 3, 4], &tokens, &[1, 2, 31, 33, 64, 69]);
            assert_eq!(whole, chunked, "{way:?} {dtype:?}");
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
            let Model::Encoder(encoder) = load("bert", isa, Some(Dtype::F32), Way { rotate: 5, ..WHOLE }, change)
            else {
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

fn assembly(name: &str, ranks: usize) -> Assembly {
    let config = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    Assembly::new(Arc::new(ModelConfig::parse(&config, None, None).unwrap()), Isa::detect(), None, ranks)
}

fn refusal<T>(result: crate::error::Result<T>) -> Option<(Code, String)> {
    result.err().map(|error| (error.code, error.field.unwrap_or_default()))
}

#[test]
fn tensors_that_do_not_fit_are_refused_and_can_be_given_again() {
    let mut assembly = assembly("qwen3", 1);
    let norm =
        Announced { name: "model.norm.weight", rank: 0, dtype: "F32", shape: &[48], length: 192, pieces: Pieces::ONE };
    let invalid = |field: &str| Some((Code::InvalidArgument, field.to_string()));
    for (wrong, refused) in [
        (Announced { name: "model.nothing", ..norm }, invalid("name")),
        (Announced { rank: 1, ..norm }, invalid("rank")),
        (Announced { shape: &[49], length: 196, ..norm }, invalid("shape")),
        (Announced { length: 191, ..norm }, invalid("length")),
        (Announced { pieces: Pieces { count: 2, stride: 96 }, ..norm }, invalid("runs")),
        (Announced { dtype: "I8", length: 48, ..norm }, Some((Code::Unsupported, "dtype".into()))),
    ] {
        assert_eq!(refusal(assembly.claim(&wrong)), refused);
    }
    let claim = assembly.claim(&norm).unwrap();
    assert_eq!(refusal(assembly.claim(&norm)), Some((Code::AlreadyExists, "name".into())));
    assembly.release(claim);
    let claim = assembly.claim(&norm).unwrap();
    assert!(assembly.deliver(claim, Tensor::owned(Dtype::F32, vec![48], vec![0; 192])).unwrap().is_none());
    // Tied: the head is tolerated, whatever it looks like.
    let head = Announced { name: "lm_head.weight", dtype: "I8", shape: &[3], length: 3, ..norm };
    assert!(!assembly.claim(&head).unwrap().wanted);
    assert_eq!(assembly.received, 1);
    assert_eq!(BLOCK_TOKENS, 32, "the cases above span two blocks");
}

#[test]
fn a_slice_that_does_not_fit_is_refused_by_tensor_and_rank() {
    let mut assembly = assembly("qwen3", 4);
    let name = "model.layers.1.mlp.down_proj.weight";
    let pieces = Pieces { count: 48, stride: 160 };
    let slice = Announced { name, rank: 2, dtype: "BF16", shape: &[48, 20], length: 1920, pieces };
    let whole = assembly.claim(&Announced { shape: &[48, 80], length: 7680, ..slice }).err().unwrap();
    let expected = format!("{name} of rank 2 has shape [48, 80], config.json asks for [48, 20] of 4 ranks");
    assert_eq!((whole.field.as_deref(), whole.message), (Some("shape"), expected));
    for (pieces, field) in [
        (Pieces { count: 47, stride: 160 }, "runs"),
        (Pieces { count: 0, stride: 160 }, "runs"),
        (Pieces { count: 48, stride: 39 }, "strideBytes"),
        (Pieces { count: 48, stride: 161 }, "strideBytes"),
    ] {
        let refused = refusal(assembly.claim(&Announced { pieces, ..slice }));
        assert_eq!(refused, Some((Code::InvalidArgument, field.to_string())));
    }
    assert_eq!(refusal(assembly.claim(&Announced { rank: 4, ..slice })), Some((Code::InvalidArgument, "rank".into())));
    assembly.claim(&slice).unwrap();
    let again = assembly.claim(&slice).err().unwrap();
    assert_eq!((again.code, again.message), (Code::AlreadyExists, format!("{name} of rank 2 was handed over twice")));
    assembly.claim(&Announced { rank: 3, ..slice }).unwrap();
}

#[test]
fn what_every_rank_has_is_kept_once_and_must_be_the_same() {
    let mut assembly = assembly("qwen3", 2);
    let norm = "model.norm.weight";
    let mut give = |rank: usize, value: u8| {
        let shape = &[48];
        let claim =
            assembly.claim(&Announced { name: norm, rank, dtype: "BF16", shape, length: 96, pieces: Pieces::ONE })?;
        let given = assembly.deliver(claim, Tensor::owned(Dtype::Bf16, vec![48], vec![value; 96]));
        given.map(|_| (assembly.received, assembly.bytes.owned))
    };
    assert_eq!(give(1, 7).unwrap(), (1, 96));
    let other = give(0, 8).err().unwrap();
    assert_eq!(
        (other.code, other.message),
        (Code::Corrupt, format!("{norm} of rank 0 differs from what another rank brought"))
    );
    assert_eq!(give(0, 7).unwrap(), (2, 96));
}

#[test]
fn groups_that_do_not_divide_the_model_are_refused() {
    let config = |change: fn(&mut DecoderConfig)| {
        let text = std::fs::read_to_string(folder("llama").join("config.json")).unwrap();
        let Ok(ModelConfig::Decoder(mut config)) = ModelConfig::parse(&text, None, None) else { panic!("a decoder") };
        change(&mut config);
        config
    };
    let message =
        |change: fn(&mut DecoderConfig), ranks| check_group(&config(change), ranks).err().map(|error| error.message);
    for ranks in [1, 2, 4] {
        assert_eq!(message(|_| {}, ranks), None);
    }
    for (change, ranks, why) in [
        ((|_| {}) as fn(&mut DecoderConfig), 3, "4 attention heads"),
        (|_| {}, 8, "4 attention heads"),
        (|config| config.intermediate = 82, 4, "82 intermediate features"),
        (|config| config.vocabulary = 261, 2, "261 tokens of vocabulary"),
        (|config| (config.heads, config.kv_heads) = (12, 6), 4, "6 key/value heads"),
    ] {
        let message = message(change, ranks).unwrap();
        assert_eq!(message, format!("options.tensorParallel is {ranks}, which does not divide the model's {why}"));
    }
}
