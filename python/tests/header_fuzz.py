"""Seeded mutations of safetensors files, and what the reference library says of one."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator

import safetensors

WIDTHS = {"F32": 4, "BF16": 2, "U8": 1, "F64": 8, "I64": 8, "F8_E4M3": 1, "BOOL": 1}
TOKENS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"-1", b"1e3", b"null", b" ", b"\\u0061", b"\xff", b"18446744073709551616"]


def good_file(rng: random.Random) -> tuple[bytes, int]:
    """A header's JSON, and how many bytes of data follow it."""
    header: dict[str, object] = {}
    if rng.random() < 0.3:
        header["__metadata__"] = {"format": "pt"}
    end = 0
    for index in range(rng.randrange(4)):
        dtype = rng.choice(list(WIDTHS))
        shape = [rng.randrange(4) for _ in range(rng.randrange(3))]
        size = WIDTHS[dtype]
        for dimension in shape:
            size *= dimension
        header[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return json.dumps(header, separators=rng.choice([(",", ":"), (", ", ": ")])).encode(), end


def mutate(rng: random.Random, text: bytes) -> bytes:
    at = rng.randrange(len(text) + 1)
    match rng.randrange(5):
        case 0:
            return text[:at] + rng.choice(TOKENS) + text[at:]
        case 1:
            return text[:at] + text[at + rng.randrange(1, 4) :]
        case 2:
            return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
        case 3:
            other = rng.randrange(len(text) + 1)
            low, high = min(at, other), max(at, other)
            return text[:high] + text[low:high] + text[high:]
        case _:
            digits = [index for index, byte in enumerate(text) if 48 <= byte <= 57]
            if not digits:
                return text
            where = rng.choice(digits)
            return text[:where] + str(rng.randrange(20)).encode() + text[where + 1 :]


def mutations(seed: int, count: int) -> Iterator[bytes]:
    """Whole files: length field, header, data."""
    rng = random.Random(seed)
    for _ in range(count):
        header, data = good_file(rng)
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            header = mutate(rng, header)
        length = max(0, len(header) + (rng.choice([-1, 1, 1000]) if rng.random() < 0.05 else 0))
        body = max(0, data + (rng.choice([-1, 1]) if rng.random() < 0.05 else 0))
        yield struct.pack("<Q", length) + header + bytes(body)


def reference_verdict(file: bytes) -> dict[str, object] | None:
    """Tensors by name, as the reference library finds them; None when it refuses the file."""
    try:
        found = safetensors.deserialize(file)
    except Exception:  # noqa: BLE001: whatever it raises is a refusal
        return None
    return {name: [info["dtype"], list(info["shape"]), len(info["data"])] for name, info in found}
