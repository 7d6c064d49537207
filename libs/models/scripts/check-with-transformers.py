"""Checks the converted SmolLM2 repository against independent readers: python check-with-transformers.py REPOSITORY GGUF

    pip install torch transformers==5.23.0 gguf safetensors

1. Every tensor equals PyPI gguf's dequantisation rounded to bfloat16 by PyTorch (q and k permuted back by the model
   converter's own formula).
2. AutoTokenizer on the repository gives the IDs that AutoTokenizer gives on the GGUF file, on texts of many kinds;
   with --vectors these are printed. (Known difference: transformers ignores the pre-tokenizer that the GGUF names and so
   does not cut apart non-ASCII digits such as "½ ²"; llama.cpp and the original tokenizer do, as ours does.)
3. LlamaForCausalLM answers greedily.
"""

import json
import sys

import torch
from gguf import GGUFReader, dequantize
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "", " ", "Hello", " Hello", "Hello, world!", "The capital of France is Paris.", "I'm we'll they've DON'T can't",
    "1234567890", "3.14159 and 1,000,000", "a1b22c333", "  two  spaces   three", "\n\n\n", "tabs\tand\r\nlines\n",
    "snake_case camelCase kebab-case", "def f(x):\n    return x ** 2  # comment\n", "<html><body>&nbsp;</body></html>",
    "naïve café œuvre Ærø ÿ", "Привет, мир! Как дела?", "日本語のテキスト、漢字とかな。", "안녕하세요 세계", "مرحبا بالعالم",
    "שלום עולם", "🚀🎉👩‍👩‍👧‍👦 emoji", "e\u0301 combining", "\u00a0non\u2009breaking\u200bspaces", "½ ² ٣ Ⅷ digits",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "<|im_start|><|im_start|>", "<|im_star",
    "https://example.org/a?b=c&d=e#f", "$1,299.99 + 15% = ?", "\x00\x01\x7f", "A" * 100, "ab " * 40,
]  # fmt: skip


def undo_permutation(values: torch.Tensor, heads: int) -> torch.Tensor:
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def check_tensors(repository: str, gguf: str) -> None:
    reader = GGUFReader(gguf)
    count = 0
    with safe_open(f"{repository}/model.safetensors", framework="pt") as file:
        mapped = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
        layer = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
        for tensor in reader.tensors:
            values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            part = tensor.name.split(".")
            if part[0] == "blk":
                name = layer.get(part[2]) or ("mlp." if part[2].startswith("ffn") else "self_attn.") + part[2].split("_")[1] + "_proj"
                name = f"model.layers.{part[1]}.{name}.weight"
                if part[2] in ("attn_q", "attn_k"):
                    values = undo_permutation(values, 9 if part[2] == "attn_q" else 3)
            else:
                name = mapped[part[0]] + ".weight"
            assert torch.equal(file.get_tensor(name), values.to(torch.bfloat16)), name
            count += 1
        assert count == len(list(file.keys())), "as many tensors"
    print(f"tensors: {count} equal", file=sys.stderr)


def main() -> None:
    repository, gguf = sys.argv[1:3]
    folder, _, name = gguf.rpartition("/")
    check_tensors(repository, gguf)
    ours = AutoTokenizer.from_pretrained(repository)
    reference = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    different = [text for text in TEXTS if ours(text)["input_ids"] != reference(text)["input_ids"]]
    for text in different:
        print("tokens differ:", repr(text), ours(text)["input_ids"], reference(text)["input_ids"], file=sys.stderr)
    for text in TEXTS:
        back = ours.decode(ours(text)["input_ids"], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert back == text, (text, back)
    print(f"tokenizer: {len(TEXTS) - len(different)} of {len(TEXTS)} texts equal, all decode back", file=sys.stderr)
    if "--vectors" in sys.argv:
        print(json.dumps([{"text": t, "ids": ours(t)["input_ids"]} for t in TEXTS], ensure_ascii=True))
    model = AutoModelForCausalLM.from_pretrained(repository, torch_dtype=torch.bfloat16)
    for question in ("What is the capital of France?", "Describe the sea in one sentence."):
        prompt = ours.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**prompt, max_new_tokens=30, do_sample=False)
        print(question, "->", ours.decode(out[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True), file=sys.stderr)


if __name__ == "__main__":
    main()
