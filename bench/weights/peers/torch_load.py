"""The second half of download-then-load: safetensors.torch over files that are there.

Says "ready" once everything is imported, then for each line {"files": [...], "rank": r, "ranks": n} loads the files' tensors
(a rank of several: its slice of each, as a tensor-parallel engine takes them) and reads from every page of them.
"""

import json
import sys
import time

import torch
from safetensors import safe_open
from safetensors.torch import load_file

PAGE_BYTES = 4096
COLUMNS = ("o_proj.weight", "down_proj.weight")
ROWS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
VOCABULARY = ("embed_tokens.weight", "lm_head.weight")


def touch(tensor):
    return int(tensor.contiguous().view(-1).view(torch.uint8)[::PAGE_BYTES].sum())


def rank_slice(part, name, rank, ranks):
    shape = part.get_shape()
    if name.endswith(COLUMNS):
        each = shape[1] // ranks
        return part[:, rank * each : (rank + 1) * each]
    if name.endswith(ROWS + VOCABULARY):
        each = shape[0] // ranks
        return part[rank * each : (rank + 1) * each]
    return part[:]


def load(files, rank, ranks):
    total = 0
    for path in files:
        if ranks == 1:
            total += sum(touch(tensor) for tensor in load_file(path).values())
            continue
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():
                total += touch(rank_slice(opened.get_slice(name), name, rank, ranks))
    return total


print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    started = time.perf_counter()
    load(asked["files"], asked["rank"], asked["ranks"])
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
