"""Run:ai Model Streamer over S3, as its documentation uses it; settings come by environment.

Says "ready" once everything is imported, then for each line {"files": [...]} streams the files' tensors and reads from every
page of them.
"""

import json
import sys
import time

import torch
from runai_model_streamer import SafetensorsStreamer

PAGE_BYTES = 4096

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    files = json.loads(line)["files"]
    started = time.perf_counter()
    total = 0
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files)
        for _, tensor in streamer.get_tensors():
            total += int(tensor.contiguous().view(-1).view(torch.uint8)[::PAGE_BYTES].sum())
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
