"""Safetensors files, most of them damaged, and what the reference library says of each, as lines of JSON without end:
`{"file": hex, "tensors": {name: [dtype, shape, bytes]} | null}`. The same seed gives the same files.

    pip install safetensors==0.8.0 && python header_cases.py SEED | head -n 1000
"""

from __future__ import annotations

import json
import random
import struct
import sys

import safetensors

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
NAMES = ["a", "b", "model.layers.0.weight", "é", "\u2028", "a\\b", 'a"b', "", "__metadata__x", "\U0001f600", "toString", "__proto__"]
TOKENS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"-0", b"-1", b"1e3", b"1.0", b"00", b"null", b"true", b" ", b"\t", b"\n",
    b"\x0b", b"\x00", b"\\u0061", b"\\ud800", b"\\", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"18446744073709551615",
    b"18446744073709551616", b"9007199254740993", b'"dtype"', b'"shape"', b'"data_offsets"', b'"F32"', b'"__metadata__"', b"{}", b"[]",
]  # fmt: skip


def good_header(rng: random.Random) -> tuple[dict[str, object], int]:
    """A header, and how many bytes of data follow it."""
    header: dict[str, object] = {}
    if rng.random() < 0.3:
        header["__metadata__"] = {"format": "pt", "é": ""} if rng.random() < 0.5 else {}
    end = 0
    for _ in range(rng.randrange(5)):
        dtype = rng.choice(list(BITS))
        shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.randrange(4))]
        bits = BITS[dtype]
        for dimension in shape:
            bits *= dimension
        size = bits // 8
        name = rng.choice(NAMES) + rng.choice(["", str(rng.randrange(3))])
        if name not in header:
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
    return header, end


def wrong_structure(rng: random.Random, header: dict[str, object]) -> None:
    """Well-formed JSON that says something else."""
    tensors = [name for name in header if name != "__metadata__"]
    if not tensors:
        header["__metadata__"] = rng.choice([None, [], "x", {"a": 1}, {"a": None}, {"a": {}}])
        return
    tensor = header[rng.choice(tensors)]
    assert isinstance(tensor, dict)
    big = rng.choice([2**31, 2**53, 2**53 + 1, 2**63, 2**64 - 1, 2**64, -1, 0, 1, 1.5])
    match rng.randrange(7):
        case 0:
            tensor["shape"].insert(rng.randrange(len(tensor["shape"]) + 1), big)
        case 1:
            tensor["data_offsets"][rng.randrange(2)] += rng.choice([-8, -1, 1, 8, 2**32, 2**53])
        case 2:
            tensor["data_offsets"].reverse()
        case 3:
            tensor["dtype"] = rng.choice([*BITS, "f32", "I4", "", None, 1, ["F32"]])
        case 4:
            del tensor[rng.choice(list(tensor))]
        case 5:
            tensor[rng.choice(["extra", "Dtype", "shape "])] = rng.choice([None, 1, "x", {}, [1e400]])
        case _:
            header[rng.choice(NAMES) + "2"] = dict(tensor)


def mutate(rng: random.Random, text: bytes) -> bytes:
    at = rng.randrange(len(text) + 1)
    match rng.randrange(6):
        case 0 | 1:
            return text[:at] + rng.choice(TOKENS) + text[at:]
        case 2:
            return text[:at] + text[at + rng.randrange(1, 4) :]
        case 3:
            return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
        case 4:
            other = rng.randrange(len(text) + 1)
            low, high = min(at, other), max(at, other)
            return text[:high] + text[low:high] + text[high:]
        case _:
            digits = [index for index, byte in enumerate(text) if 48 <= byte <= 57]
            if not digits:
                return text
            where = rng.choice(digits)
            return text[:where] + str(rng.randrange(20)).encode() + text[where + 1 :]


def case(rng: random.Random) -> bytes:
    """A whole file: length field, header, data."""
    header, data = good_header(rng)
    if rng.random() < 0.3:
        wrong_structure(rng, header)
    entries = list(header.items())
    rng.shuffle(entries)
    text = json.dumps(
        dict(entries),
        separators=rng.choice([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]),
        ensure_ascii=rng.random() < 0.5,
        allow_nan=True,
    ).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        text = rng.choice([b" ", b"\n\t", b"\xef\xbb\xbf", b"\x00"]) + text
    if rng.random() < 0.2:
        text += rng.choice([b" " * 7, b"\n", b"\x00", b"{}"])
    for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3])):
        text = mutate(rng, text)
    length = max(0, len(text) + (rng.choice([-1, 1, 1000]) if rng.random() < 0.05 else 0))
    body = max(0, data + (rng.choice([-1, 1]) if rng.random() < 0.05 else 0))
    if rng.random() < 0.01:
        return rng.choice([b"", b"\x00" * 7, struct.pack("<Q", 2**63), struct.pack("<Q", 100_000_001) + text])
    return struct.pack("<Q", length) + text + bytes(body)


def reference_verdict(file: bytes) -> dict[str, object] | None:
    """Tensors by name, as the reference library finds them; None when it refuses the file."""
    try:
        found = safetensors.deserialize(file)
    except Exception:  # noqa: BLE001: whatever it raises is a refusal
        return None
    return {name: [info["dtype"], list(info["shape"]), len(info["data"])] for name, info in found}


def main() -> None:
    rng = random.Random(int(sys.argv[1]))
    try:
        while True:
            file = case(rng)
            print(json.dumps({"file": file.hex(), "tensors": reference_verdict(file)}))
    except BrokenPipeError:
        # Whoever reads has seen enough.
        sys.stdout = None


if __name__ == "__main__":
    main()
