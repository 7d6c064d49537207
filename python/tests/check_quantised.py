"""Artefacts of `pilotlight model add --quantize` as transformers with compressed-tensors reads them, beside their original.

Arguments: the original's folder, then the artefacts'. Every weight must be off by what the quality record says."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

# The reference rounds each weight to bfloat16 after scaling; the record is of the exact product.
TOLERANCE = 0.002


def weights(folder: Path, **options: object) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).state_dict()


def check(original: dict[str, torch.Tensor], folder: Path) -> None:
    plain = weights(folder, quantization_config=CompressedTensorsConfig(run_compressed=False))
    recorded = {one["name"]: one["relativeRms"] for one in json.loads((folder / "pilotlight-quality.json").read_text())["tensors"]}
    assert recorded, f"{folder}: no tensor was quantised"
    for name, before in original.items():
        off = (before.double() - plain[name].double()).square().sum()
        relative = (off / before.double().square().sum()).sqrt().item() if off > 0 else 0.0
        expected = recorded.get(name, 0.0)
        assert abs(relative - expected) < TOLERANCE, f"{folder}: {name} is off by {relative}, the record says {expected}"
    print(f"{folder.name}: {len(recorded)} matrices are what the record says", flush=True)


first, *artefacts = map(Path, sys.argv[1:])
original = weights(first)
for artefact in artefacts:
    check(original, artefact)
