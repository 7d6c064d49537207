"""One side of the comparison at a time, from host memory to a GPU: for each line `{"side": …, "files": […], "uri": …}` the seconds
until every tensor is on the device. Says "ready" once everything is imported and the device has been used."""

import gc
import json
import sys
import time

import torch
from fastsafetensors import fastsafe_open
from pilotlight_loader import open_weights
from pilotlight_loader.tensors import iterate
from runai_model_streamer import SafetensorsStreamer
from safetensors.torch import load_file

DEVICE = "cuda:0"
PINNED_BYTES = 1 << 30
PINNED_ROUNDS = 8


def pinned(_asked):
    """The limit: pinned memory of PyTorch's own, copied by the driver. Seconds for a gigabyte (2^30)."""
    source = torch.empty(PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=DEVICE)
    target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(PINNED_ROUNDS):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / PINNED_ROUNDS


def timed(load):
    def run(asked):
        started = time.perf_counter()
        tensors = load(asked)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        assert all(tensor.device.type == "cuda" for tensor in tensors)
        return seconds

    return run


def streamer(asked):
    with open_weights(asked["uri"]) as lease:
        return [tensor for _, tensor in iterate(lease, DEVICE)]


def safetensors(asked):
    return [tensor for path in asked["files"] for tensor in load_file(path, device=DEVICE).values()]


def fastsafetensors(asked):
    tensors = []
    with fastsafe_open(filenames=asked["files"], nogds=True, device=DEVICE) as opened:
        for name in opened.keys():
            tensors.append(opened.get_tensor(name).clone())
    return tensors


def runai(asked):
    tensors = []
    with SafetensorsStreamer() as source:
        source.stream_files(asked["files"])
        for _, tensor in source.get_tensors():
            tensors.append(tensor.to(DEVICE))
    return tensors


SIDES = {
    "pinned": pinned,
    "ours": timed(streamer),
    "safetensors": timed(safetensors),
    "fastsafetensors": timed(fastsafetensors),
    "runai": timed(runai),
}

torch.ones(1, device=DEVICE)
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    seconds = SIDES[asked["side"]](asked)
    gc.collect()
    torch.cuda.empty_cache()
    print(json.dumps({"seconds": seconds}), flush=True)
