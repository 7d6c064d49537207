"""Makes native/engine/fixtures: tiny random models and what transformers on PyTorch computes with them.

    uv venv /tmp/fixtures && . /tmp/fixtures/bin/activate
    uv pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0 numpy
    python native/engine/scripts/make_fixtures.py

Made with exactly these versions on Python 3.11, CPU. Weights are stored in bf16, so that the f32 and the bf16 run of a
model start from the same numbers. Greedy prompts for the bf16 comparison are chosen so that at every step the best token
leads by more than bf16's rounding noise: a near-tie is decided by rounding, in transformers as well as here.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers.utils.chat_template_utils import render_jinja_template

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
GREEDY_PROMPTS = 20
GREEDY_TOKENS = 12
# Lead of the best logit over the second, in standard deviations of the logits; bf16's noise here is about 0.02.
GREEDY_LEAD = 0.12

SMALL = dict(
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=96,
    max_position_embeddings=128,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)

# The template is the one of the byte-level chat fixture below.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|user|>' if message['role'] == 'user' else '<|assistant|>' }}"
    "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def decoders():
    llama3 = dict(
        rope_type="llama3",
        rope_theta=10000.0,
        factor=4.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    yield "llama", transformers.LlamaConfig(**{**SMALL, "vocab_size": 260}, tie_word_embeddings=True), False
    yield "llama3-bias", transformers.LlamaConfig(
        **SMALL, rope_parameters=llama3, attention_bias=True, mlp_bias=True, tie_word_embeddings=False
    ), True
    yield "qwen2", transformers.Qwen2Config(**SMALL, tie_word_embeddings=False), True
    yield "qwen3", transformers.Qwen3Config(**SMALL, head_dim=20, tie_word_embeddings=True), False
    yield "mistral", transformers.MistralConfig(**SMALL, head_dim=16, sliding_window=8, tie_word_embeddings=False), False


def randomise(model, seed):
    """Every parameter from one seeded generator, large enough that each of them matters to the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name.lower() and name.endswith("weight")
            value = 1 + 0.2 * noise if norm else noise * (0.3 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5)
            parameter.copy_(value.to(torch.bfloat16).float())


def save(model, config, folder, old_spelling):
    folder.mkdir(parents=True, exist_ok=True)
    tied = getattr(config, "tie_word_embeddings", False)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    if tied:
        state.pop("lm_head.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    written = {k: v for k, v in config.to_dict().items() if v is not None}
    written["architectures"] = [type(model).__name__]
    written.pop("transformers_version", None)
    if old_spelling:
        # As transformers 4 wrote it.
        rope = written.pop("rope_parameters")
        written["rope_theta"] = rope.pop("rope_theta")
        if rope["rope_type"] != "default":
            written["rope_scaling"] = rope
        written["torch_dtype"] = "bfloat16"
        written.pop("dtype", None)
        written.pop("layer_types", None)
    else:
        written["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")


def rounded(tensor):
    return [round(x, 6) for x in tensor.flatten().tolist()]


def write(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


@torch.no_grad()
def greedy(model, prompt, count, lead):
    """The answer, or None when some step's lead is smaller than asked for."""
    tokens = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([tokens])).logits[0, -1].float()
        top = logits.topk(2).values
        if (top[0] - top[1]) / logits.std() < lead:
            return None
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@torch.no_grad()
def make_decoder(name, config, old_spelling, seed):
    transformers.set_seed(seed)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model, seed)
    save(model, config, OUT / name, old_spelling)
    generator = torch.Generator().manual_seed(seed + 1)
    draw = lambda n: torch.randint(0, config.vocab_size, (n,), generator=generator).tolist()
    # 40 tokens: more than one block of the key/value cache, and more than the sliding window.
    prompts = [draw(40), draw(5)]
    logits = []
    for prompt in prompts:
        all_positions = model(torch.tensor([prompt])).logits[0]
        logits.append({"tokens": prompt, "last": rounded(all_positions[-1])})
    half = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    answers = []
    while len(answers) < GREEDY_PROMPTS:
        prompt = draw(4 + len(answers))
        answer = greedy(half, prompt, GREEDY_TOKENS, GREEDY_LEAD)
        if answer is not None:
            answers.append({"prompt": prompt, "answer": answer})
    write(OUT / name / "expected.json", {"logits": logits, "greedyBf16": answers})
    print(name, sum(p.numel() for p in model.parameters()), "parameters")


@torch.no_grad()
def make_encoder(seed):
    config = transformers.BertConfig(
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=96,
        max_position_embeddings=64,
    )
    config._attn_implementation = "eager"
    model = transformers.BertModel(config, add_pooling_layer=True).float().eval()
    randomise(model, seed)
    save(model, config, OUT / "bert", False)
    generator = torch.Generator().manual_seed(seed + 1)
    cases = []
    for length in (1, 7, 33, 64):
        tokens = torch.randint(0, config.vocab_size, (length,), generator=generator)
        hidden = model(tokens[None]).last_hidden_state[0]
        mean = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        cases.append({"tokens": tokens.tolist(), "mean": rounded(mean), "first": rounded(hidden[0])})
    write(OUT / "bert" / "expected.json", {"embeddings": cases})
    print("bert", sum(p.numel() for p in model.parameters()), "parameters")


def make_tokenizer():
    """One token per byte and four special tokens: text tests without a real vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(OUT / "llama" / "tokenizer.json"), pretty=False)
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE}
    (OUT / "llama" / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


# Constructs that the templates of Llama 3, Qwen and Mistral use.
TEMPLATES = {
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "tools": """{%- if tools %}
    {{- '<|start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- tools | tojson(indent=2) }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, multi=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and message.content is string and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.multi = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- macro block(role, text) -%}<{{ role }}>{{ text|trim }}</{{ role }}>{%- endmacro %}
{%- for message in messages %}
    {%- if message.content is string %}
        {{- block(message.role, message.content) }}
    {%- else %}
        {%- for part in message.content | selectattr('type', 'equalto', 'text') %}
            {{- block(message['role'].upper(), part.text.split('|')[-1].lstrip('\\n')) }}
        {%- endfor %}
    {%- endif %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- for call in message.tool_calls %}
            {%- set call = call.function if call.function else call %}
            {{- '{"name": "' ~ call.name ~ '", "arguments": ' ~ (call.arguments | tojson) ~ '}' }}
        {%- endfor %}
    {%- endif %}
    {%- if loop.index0 > ns.last %}{% continue %}{% endif %}
    {{- loop.index }}
{%- endfor %}
{%- for key, value in extra.items() if extra is defined %}
    {{- key.replace('_', ' ').title() }}={{ value }};
{%- endfor %}
{%- if add_generation_prompt %}
    {{- bos_token + 'assistant' }}
    {%- if thinking is defined and thinking is false %}{{ ' (brief)' }}{% endif %}
{%- endif %}
""",
}

TEMPLATE_CASES = [
    ("chatml", [{"role": "user", "content": "Grüße <b>&\"'"}], None, {}),
    ("chatml", [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}], None, {}),
    (
        "tools",
        [
            {"role": "system", "content": " sys "},
            {"role": "user", "content": [{"type": "text", "text": "x|\nwhat?"}, {"type": "image", "url": "u"}]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1.5, "a": ["é", None, True]}}}]},
            {"role": "user", "content": "plain"},
        ],
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"z": {}, "a": []}}}}],
        {"thinking": False, "extra": {"max_words": 5, "tone": "dry"}},
    ),
]


def make_templates():
    cases = []
    for name, messages, tools, variables in TEMPLATE_CASES:
        rendered, _ = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=TEMPLATES[name],
            add_generation_prompt=True,
            bos_token="<s>",
            **variables,
        )
        cases.append({"template": name, "messages": messages, "tools": tools, "variables": variables, "text": rendered[0]})
    (OUT / "templates.json").write_text(
        json.dumps({"templates": TEMPLATES, "cases": cases}, indent=1, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, (name, config, old_spelling) in enumerate(decoders()):
        make_decoder(name, config, old_spelling, seed=100 + number)
    make_encoder(seed=200)
    make_tokenizer()
    make_templates()
