"""Writes the fixtures of the GGUF reader's tests, with PyPI's gguf as the reference.

    pip install gguf numpy torch && python make-fixtures.py ../src/fixtures

block-vectors.json   random blocks of every quantised format and what they expand to
tiny.gguf            a two-layer Llama with permuted heads, Q4_1, Q8_0 and F32 tensors and a small BPE tokenizer
tiny-tensors.json    SHA-256 of each tensor's bf16 bytes after conversion
"""

import base64
import hashlib
import json
import sys

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, dequantize, quantize

FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16"]
# Where the half-precision scales of a block are.
SCALES = {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q4_1": [0, 2], "Q5_1": [0, 2]}
HIDDEN, INNER, HEADS, KV, LAYERS = 64, 96, 4, 2, 2


def block_vectors(rng: np.random.Generator) -> list[dict]:
    vectors = []
    for name in FORMATS:
        kind = GGMLQuantizationType[name]
        values, size = GGML_QUANT_SIZES[kind]
        count = 3 if values > 1 else 64
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        if values > 1:
            for at in SCALES.get(name, [0]):
                blocks[:, at : at + 2] = rng.normal(0, 0.1, (count, 1)).astype(np.float16).view(np.uint8)
        elif name == "F16":
            special = np.array([0, 0x8000, 1, 0x83FF, 0x7C00, 0xFC00, 0x7BFF], dtype=np.uint16)
            blocks[: len(special)] = special.view(np.uint8).reshape(-1, 2)
        expanded = dequantize(blocks, kind).astype(np.float32).reshape(-1)
        keep = ~np.isnan(expanded)
        if values == 1:
            blocks, expanded = blocks[keep], expanded[keep]
        vectors.append({
            "format": name, "type": int(kind),
            "blocks": base64.b64encode(blocks.tobytes()).decode(),
            "values": base64.b64encode(expanded.tobytes()).decode(),
        })  # fmt: skip
    return vectors


def permute(values: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter stores q and k (convert_hf_to_gguf.py, LlamaModel.permute)."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def tiny_gguf(path: str, rng: np.random.Generator) -> dict[str, str]:
    specials = ["<|end|>", "<|user|>"]
    byte_tokens = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]]
    merges = ["t h", "th e", "Ġ the"]
    tokens = [*specials, *byte_tokens, "th", "the", "Ġthe", "<custom>"]
    writer = GGUFWriter(path, "llama")
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(specials) + [1] * (len(tokens) - len(specials) - 1) + [4])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    digests = {}

    def add(gguf: str, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, heads: int | None = None) -> None:
        values = rng.normal(0, 0.05, shape).astype(np.float32)
        # What is stored and read back is the quantised value; the reference order of rows is the original one.
        restored = dequantize(quantize(values, kind), kind) if kind != GGMLQuantizationType.F32 else values
        stored = permute(values, heads) if heads else values
        data = quantize(stored, kind) if kind != GGMLQuantizationType.F32 else stored
        writer.add_tensor(gguf, data, raw_dtype=kind)
        bf16 = torch.from_numpy(np.ascontiguousarray(restored)).to(torch.bfloat16).view(torch.int16).numpy()
        digests[name] = hashlib.sha256(bf16.tobytes()).hexdigest()

    q4, q8, f32 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0, GGMLQuantizationType.F32
    add("output_norm.weight", "model.norm.weight", (HIDDEN,), f32)
    add("token_embd.weight", "model.embed_tokens.weight", (len(tokens), HIDDEN), q8)
    size = HIDDEN // HEADS
    for i in range(LAYERS):
        a, b = f"blk.{i}.", f"model.layers.{i}."
        add(a + "attn_norm.weight", b + "input_layernorm.weight", (HIDDEN,), f32)
        add(a + "attn_q.weight", b + "self_attn.q_proj.weight", (HIDDEN, HIDDEN), q4, HEADS)
        add(a + "attn_k.weight", b + "self_attn.k_proj.weight", (KV * size, HIDDEN), q4, KV)
        add(a + "attn_v.weight", b + "self_attn.v_proj.weight", (KV * size, HIDDEN), q4)
        add(a + "attn_output.weight", b + "self_attn.o_proj.weight", (HIDDEN, HIDDEN), q4)
        add(a + "ffn_norm.weight", b + "post_attention_layernorm.weight", (HIDDEN,), f32)
        add(a + "ffn_gate.weight", b + "mlp.gate_proj.weight", (INNER, HIDDEN), q4)
        add(a + "ffn_up.weight", b + "mlp.up_proj.weight", (INNER, HIDDEN), q4)
        add(a + "ffn_down.weight", b + "mlp.down_proj.weight", (HIDDEN, INNER), q4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return digests


def main() -> None:
    folder = sys.argv[1]
    rng = np.random.default_rng(20261121)
    with open(f"{folder}/block-vectors.json", "w") as file:
        json.dump(block_vectors(rng), file, indent=1)
        file.write("\n")
    with open(f"{folder}/tiny-tensors.json", "w") as file:
        json.dump(tiny_gguf(f"{folder}/tiny.gguf", rng), file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
