// What a Llama-shaped decoder in GGUF is called in Hugging Face's layout: configuration and tensor names.
import { PlatformError } from "@pilotlight/errors";
import type { GgufFile } from "./file.ts";

type Architecture = { className: string; modelType: string; permutedHeads: boolean };

const ARCHITECTURES: Record<string, Architecture> = {
  // llama.cpp stores rotary pairs interleaved for this one (Mistral included), so the rows of q and k are reordered.
  llama: { className: "LlamaForCausalLM", modelType: "llama", permutedHeads: true },
  qwen2: { className: "Qwen2ForCausalLM", modelType: "qwen2", permutedHeads: false },
  qwen3: { className: "Qwen3ForCausalLM", modelType: "qwen3", permutedHeads: false },
};

const TAKE_SAFETENSORS = "Take the model's safetensors repository instead.";

export type DecoderShape = Architecture & {
  /** The prefix of the file's metadata keys. */
  key: string;
  layers: number;
  attentionHeads: number;
  keyValueHeads: number;
};

/** Which decoder a file holds. Throws `unsupported` for any other. */
export function decoderShape({ metadata }: GgufFile): DecoderShape {
  const key = metadata.string("general.architecture");
  const known = ARCHITECTURES[key];
  if (known === undefined) {
    const supported = Object.keys(ARCHITECTURES).join(", ");
    throw new PlatformError("unsupported", `GGUF architecture ${key} is not supported (only ${supported})`, {
      remedy: TAKE_SAFETENSORS,
    });
  }
  const attentionHeads = metadata.number(`${key}.attention.head_count`);
  return {
    ...known,
    key,
    layers: metadata.number(`${key}.block_count`),
    attentionHeads,
    keyValueHeads: metadata.optionalNumber(`${key}.attention.head_count_kv`) ?? attentionHeads,
  };
}

/** `config.json`, in the spelling that every version of transformers reads. */
export function decoderConfig(file: GgufFile): Record<string, unknown> {
  const { metadata, tensors } = file;
  const shape = decoderShape(file);
  const number = (key: string): number => metadata.number(`${shape.key}.${key}`);
  const hidden = number("embedding_length");
  const scaling = metadata.optionalString(`${shape.key}.rope.scaling.type`);
  if (tensors.has("rope_freqs.weight") || (scaling !== undefined && scaling !== "none")) {
    throw new PlatformError("unsupported", "GGUF files with scaled rotary frequencies are not supported", {
      remedy: TAKE_SAFETENSORS,
    });
  }
  return {
    architectures: [shape.className],
    model_type: shape.modelType,
    hidden_size: hidden,
    intermediate_size: number("feed_forward_length"),
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.attentionHeads,
    num_key_value_heads: shape.keyValueHeads,
    head_dim: metadata.optionalNumber(`${shape.key}.attention.key_length`) ?? hidden / shape.attentionHeads,
    vocab_size: tensors.get("token_embd.weight")?.shape[0],
    max_position_embeddings: number("context_length"),
    // Stored as a 32-bit float: 1e-5 comes back as 9.999999747e-6.
    rms_norm_eps: Number(number("attention.layer_norm_rms_epsilon").toPrecision(6)),
    rope_theta: metadata.optionalNumber(`${shape.key}.rope.freq_base`) ?? 10_000,
    hidden_act: "silu",
    attention_bias: tensors.has("blk.0.attn_q.bias"),
    mlp_bias: false,
    attention_dropout: 0,
    initializer_range: 0.02,
    tie_word_embeddings: !tensors.has("output.weight"),
    use_cache: true,
    bos_token_id: metadata.optionalNumber("tokenizer.ggml.bos_token_id"),
    eos_token_id: metadata.optionalNumber("tokenizer.ggml.eos_token_id"),
    pad_token_id: metadata.optionalNumber("tokenizer.ggml.padding_token_id"),
    torch_dtype: "bfloat16",
  };
}

const TOP_NAMES: Record<string, string> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

const LAYER_NAMES: Record<string, string> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

/** The Hugging Face name of a GGUF tensor. Throws `unsupported` for a tensor that the layout has no place for. */
export function tensorName(name: string): string {
  const [, layer, part = "", kind] = /^(?:blk\.(\d{1,4})\.)?(\w+)\.(weight|bias)$/.exec(name) ?? [];
  const mapped = layer === undefined ? TOP_NAMES[part] : LAYER_NAMES[part];
  if (mapped === undefined) {
    throw new PlatformError(
      "unsupported",
      `the GGUF tensor ${name} has no counterpart in the safetensors layout`,
      {
        remedy: TAKE_SAFETENSORS,
      },
    );
  }
  return layer === undefined ? `${mapped}.${kind}` : `model.layers.${layer}.${mapped}.${kind}`;
}

/** Heads whose rows are interleaved in this tensor; undefined for all others. */
export function interleavedHeads(name: string, shape: DecoderShape): number | undefined {
  if (!shape.permutedHeads) return undefined;
  if (/\.attn_q\.(weight|bias)$/.test(name)) return shape.attentionHeads;
  return /\.attn_k\.(weight|bias)$/.test(name) ? shape.keyValueHeads : undefined;
}
