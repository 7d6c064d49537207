"""vLLM's greedy answers, as one line of JSON: the token IDs for each prompt. What loads the weights is an argument."""

import argparse
import json
import sys

PROMPTS = [
    "The capital of France is",
    "Water boils at a lower temperature on a mountain because",
    "def largest(numbers):",
    "Once upon a time there was a",
]
TOKENS = 24


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="folder with config.json and the tokenizer; with weights for vLLM's own loader")
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--uri", help="where the pilotlight loader has the weights from")
    arguments = parser.parse_args()

    from vllm import LLM, SamplingParams

    engine = LLM(
        model=arguments.model,
        load_format=arguments.load_format,
        model_loader_extra_config={"uri": arguments.uri} if arguments.uri else {},
        dtype="bfloat16",
        max_model_len=256,
        max_num_seqs=len(PROMPTS),
        enforce_eager=True,
        seed=0,
    )
    greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    answers = engine.generate(PROMPTS, greedy, use_tqdm=False)
    tokens = [list(answer.outputs[0].token_ids) for answer in answers]
    text = [answer.outputs[0].text for answer in answers]
    sys.stdout.write(json.dumps({"tokens": tokens, "text": text}) + "\n")
    sys.stdout.flush()


# vLLM starts processes that import this file.
if __name__ == "__main__":
    main()
