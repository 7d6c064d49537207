// The tensors of each architecture, by name and shape, in the order in which a model is built. Pure.
import type { Architecture, Shape } from "./shapes.ts";

/** What a tensor's values look like. */
type Fill =
  /** Uniform around zero, so that a product with it keeps its input's variance: deviation 1/√columns. */
  | { kind: "matrix" }
  /** Uniform around zero with this deviation. */
  | { kind: "around"; mean: number; deviation: number };

export type ModelTensor = { name: string; shape: number[]; fill: Fill };

const MATRIX: Fill = { kind: "matrix" };
const NORM: Fill = { kind: "around", mean: 1, deviation: 0.1 };
const BIAS: Fill = { kind: "around", mean: 0, deviation: 0.1 };
const EMBEDDING: Fill = { kind: "around", mean: 0, deviation: 0.5 };

/** True where the output head is the embedding matrix: in small Qwen models, as in the real ones. */
export function tiesEmbeddings(architecture: Architecture, shape: Shape): boolean {
  return architecture.startsWith("qwen") && shape.hidden < 1024;
}

export function modelTensors(architecture: Architecture, shape: Shape): ModelTensor[] {
  return architecture === "bert" ? bertTensors(shape) : decoderTensors(architecture, shape);
}

function decoderTensors(architecture: Architecture, shape: Shape): ModelTensor[] {
  const { hidden, vocabulary, layers } = shape;
  const head = { name: "lm_head.weight", shape: [vocabulary, hidden], fill: MATRIX };
  return [
    { name: "model.embed_tokens.weight", shape: [vocabulary, hidden], fill: EMBEDDING },
    ...Array.from({ length: layers }, (_, i) =>
      decoderLayer(architecture, shape, `model.layers.${i}`),
    ).flat(),
    { name: "model.norm.weight", shape: [hidden], fill: NORM },
    ...(tiesEmbeddings(architecture, shape) ? [] : [head]),
  ];
}

function decoderLayer(architecture: Architecture, shape: Shape, layer: string): ModelTensor[] {
  const { hidden, intermediate, heads, keyValueHeads, headSize, experts } = shape;
  const rows = { q: heads * headSize, k: keyValueHeads * headSize, v: keyValueHeads * headSize };
  const projections = Object.entries(rows).flatMap(([part, size]): ModelTensor[] => [
    { name: `${layer}.self_attn.${part}_proj.weight`, shape: [size, hidden], fill: MATRIX },
    ...(architecture === "qwen2"
      ? [{ name: `${layer}.self_attn.${part}_proj.bias`, shape: [size], fill: BIAS }]
      : []),
  ]);
  const headNorms = ["q_norm", "k_norm"].map((part): ModelTensor => {
    return { name: `${layer}.self_attn.${part}.weight`, shape: [headSize], fill: NORM };
  });
  return [
    { name: `${layer}.input_layernorm.weight`, shape: [hidden], fill: NORM },
    ...projections,
    ...(architecture === "qwen3" ? headNorms : []),
    { name: `${layer}.self_attn.o_proj.weight`, shape: [hidden, heads * headSize], fill: MATRIX },
    { name: `${layer}.post_attention_layernorm.weight`, shape: [hidden], fill: NORM },
    ...(architecture === "mixtral"
      ? expertTensors(`${layer}.block_sparse_moe`, hidden, intermediate, experts)
      : feedForward(`${layer}.mlp`, ["gate_proj", "up_proj", "down_proj"], hidden, intermediate)),
  ];
}

function expertTensors(prefix: string, hidden: number, intermediate: number, experts: number): ModelTensor[] {
  return [
    { name: `${prefix}.gate.weight`, shape: [experts, hidden], fill: MATRIX },
    ...Array.from({ length: experts }, (_, i) =>
      feedForward(`${prefix}.experts.${i}`, ["w1", "w3", "w2"], hidden, intermediate),
    ).flat(),
  ];
}

function feedForward(
  prefix: string,
  names: [string, string, string],
  hidden: number,
  inner: number,
): ModelTensor[] {
  const [gate, up, down] = names;
  return [
    { name: `${prefix}.${gate}.weight`, shape: [inner, hidden], fill: MATRIX },
    { name: `${prefix}.${up}.weight`, shape: [inner, hidden], fill: MATRIX },
    { name: `${prefix}.${down}.weight`, shape: [hidden, inner], fill: MATRIX },
  ];
}

function bertTensors(shape: Shape): ModelTensor[] {
  const { hidden, intermediate, vocabulary, context, layers } = shape;
  const linear = (name: string, rows: number, columns: number): ModelTensor[] => [
    { name: `${name}.weight`, shape: [rows, columns], fill: MATRIX },
    { name: `${name}.bias`, shape: [rows], fill: BIAS },
  ];
  const norm = (name: string): ModelTensor[] => [
    { name: `${name}.weight`, shape: [hidden], fill: NORM },
    { name: `${name}.bias`, shape: [hidden], fill: BIAS },
  ];
  return [
    { name: "embeddings.word_embeddings.weight", shape: [vocabulary, hidden], fill: EMBEDDING },
    { name: "embeddings.position_embeddings.weight", shape: [context, hidden], fill: EMBEDDING },
    { name: "embeddings.token_type_embeddings.weight", shape: [2, hidden], fill: EMBEDDING },
    ...norm("embeddings.LayerNorm"),
    ...Array.from({ length: layers }, (_, i) => {
      const layer = `encoder.layer.${i}`;
      return [
        ...["query", "key", "value"].flatMap((part) =>
          linear(`${layer}.attention.self.${part}`, hidden, hidden),
        ),
        ...linear(`${layer}.attention.output.dense`, hidden, hidden),
        ...norm(`${layer}.attention.output.LayerNorm`),
        ...linear(`${layer}.intermediate.dense`, intermediate, hidden),
        ...linear(`${layer}.output.dense`, hidden, intermediate),
        ...norm(`${layer}.output.LayerNorm`),
      ];
    }).flat(),
    ...linear("pooler.dense", hidden, hidden),
  ];
}
