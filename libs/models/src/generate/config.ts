// config.json and tokenizer files of generated models. The tokenizer takes any text: one token a byte.
import { byteCharacters, byteLevelTokenizer } from "../byte-level.ts";
import type { Architecture, Shape } from "./shapes.ts";
import { tiesEmbeddings } from "./tensors.ts";

const CLASS_NAMES: Record<Architecture, string> = {
  llama: "LlamaForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  mistral: "MistralForCausalLM",
  mixtral: "MixtralForCausalLM",
  bert: "BertModel",
};

const FIRST_SPECIAL = 256;
const CHAT_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"];
const BERT_SPECIAL = ["[CLS]", "[SEP]", "[MASK]", "[PAD]"];
const CHAT_TEMPLATE =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** The smallest vocabulary that the tokenizer fits into. */
export const VOCABULARY_MIN = FIRST_SPECIAL + CHAT_SPECIAL.length;

export function modelConfig(architecture: Architecture, shape: Shape): object {
  const common = {
    architectures: [CLASS_NAMES[architecture]],
    model_type: architecture,
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    vocab_size: shape.vocabulary,
    max_position_embeddings: shape.context,
    initializer_range: 0.02,
    pad_token_id: FIRST_SPECIAL + 3,
  };
  if (architecture === "bert") {
    return {
      ...common,
      hidden_act: "gelu",
      hidden_dropout_prob: 0.1,
      attention_probs_dropout_prob: 0.1,
      layer_norm_eps: 1e-12,
      type_vocab_size: 2,
      position_embedding_type: "absolute",
      torch_dtype: "float32",
    };
  }
  return {
    ...common,
    num_key_value_heads: shape.keyValueHeads,
    head_dim: shape.headSize,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: tiesEmbeddings(architecture, shape),
    use_cache: true,
    bos_token_id: FIRST_SPECIAL + 1,
    eos_token_id: FIRST_SPECIAL + 2,
    torch_dtype: "bfloat16",
    ...(architecture === "llama" ? { attention_bias: false, mlp_bias: false } : {}),
    ...(architecture === "qwen3" ? { attention_bias: false } : {}),
    ...(architecture === "mistral" ? { sliding_window: shape.context / 2 } : {}),
    ...(architecture === "mixtral"
      ? { num_local_experts: shape.experts, num_experts_per_tok: 2, sliding_window: null }
      : {}),
  };
}

export function tokenizerFiles(architecture: Architecture, shape: Shape): Record<string, object> {
  const special = architecture === "bert" ? BERT_SPECIAL : CHAT_SPECIAL;
  const tokenizer = byteLevelTokenizer({
    tokens: [...byteCharacters(), ...special],
    merges: [],
    added: special.map((content, i) => ({ id: FIRST_SPECIAL + i, content, special: true })),
    preTokenizer: { kind: "gpt2" },
    ignoreMerges: false,
    ...(architecture === "bert" ? { around: { before: special[0] ?? "", after: special[1] ?? "" } } : {}),
  });
  const common = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    model_max_length: shape.context,
    pad_token: special[3],
  };
  if (architecture === "bert") {
    const named = { cls_token: special[0], sep_token: special[1], mask_token: special[2] };
    return { "tokenizer.json": tokenizer, "tokenizer_config.json": { ...common, ...named } };
  }
  return {
    "tokenizer.json": tokenizer,
    "tokenizer_config.json": {
      ...common,
      bos_token: special[1],
      eos_token: special[2],
      unk_token: special[0],
      chat_template: CHAT_TEMPLATE,
    },
    "generation_config.json": {
      bos_token_id: FIRST_SPECIAL + 1,
      eos_token_id: FIRST_SPECIAL + 2,
      pad_token_id: FIRST_SPECIAL + 3,
    },
  };
}
