"""Writes src/fixtures/reference-vectors.json: safetensors files, good and bad, and what the reference library says.

    pip install safetensors==0.8.0 && python reference-vectors.py > ../src/fixtures/reference-vectors.json

Each vector is a header (base64), the number of data bytes that follow it, and either the tensors that the reference
library finds or its refusal. The second half are seeded mutations of good files.
"""

import base64
import json
import random
import struct

import safetensors

DTYPES = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def one(fields: str, name: str = '"a"') -> bytes:
    return f"{{{name}:{{{fields}}}}}".encode()


U8_1 = '"dtype":"U8","shape":[1],"data_offsets":[0,1]'
HAND = [
    *[(f"dtype {d}", one(f'"dtype":"{d}","shape":[8],"data_offsets":[0,{b}]'), b) for d, b in DTYPES.items()],
    *[(f"dtype {d}", one(f'"dtype":"{d}","shape":[8],"data_offsets":[0,8]'), 8) for d in ("C128", "I4", "f32", "")],
    ("sub-byte tensor that ends inside a byte", one('"dtype":"F4","shape":[3],"data_offsets":[0,2]'), 2),
    ("empty object", b"{}", 0),
    ("empty header", b"", 0),
    ("leading whitespace", b" \n\t\r{}", 0),
    ("trailing whitespace", b"{} \n\t\r", 0),
    ("form feed", b"\x0c{}", 0),
    ("trailing NUL", b"{}\0", 0),
    ("trailing comma", one(U8_1 + ","), 1),
    ("two objects", b"{}{}", 0),
    ("byte order mark", b"\xef\xbb\xbf{}", 0),
    ("top-level array", b"[]", 0),
    ("top-level null", b"null", 0),
    ("comment", b"{/**/}", 0),
    ("single quotes", b"{'a':1}", 0),
    ("unterminated", b'{"a":{"dtype":"U8"', 1),
    ("unterminated string", b'{"a', 0),
    ("scalar", one('"dtype":"F32","shape":[],"data_offsets":[0,4]'), 4),
    ("no elements", one('"dtype":"F32","shape":[3,0],"data_offsets":[0,0]'), 0),
    ("fields in another order", one('"data_offsets":[0,1],"shape":[1],"dtype":"U8"'), 1),
    ("whitespace everywhere", b'{ "a" : { "dtype" : "U8" , "shape" : [ 1 ] , "data_offsets" : [ 0 , 1 ] } }', 1),
    ("file order differs from offsets", b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{' + U8_1.encode() + b"}}", 2),
    ("repeated tensor", b'{"a":{' + U8_1.encode() + b'},"a":{' + U8_1.encode() + b"}}", 1),
    ("repeated tensor by escape", b'{"a":{' + U8_1.encode() + b'},"\\u0061":{' + U8_1.encode() + b"}}", 1),
    ("repeated field", one('"dtype":"U8",' + U8_1), 1),
    ("unknown field", one(U8_1 + ',"x":1'), 1),
    ("unknown field out of range", one(U8_1 + ',"x":1e999'), 1),
    ("tensor as array", b'{"a":["U8",[1],[0,1]]}', 1),
    ("tensor null", b'{"a":null}', 0),
    ("tensor number", b'{"a":1}', 0),
    ("missing dtype", one('"shape":[1],"data_offsets":[0,1]'), 1),
    ("missing shape", one('"dtype":"U8","data_offsets":[0,1]'), 1),
    ("missing offsets", one('"dtype":"U8","shape":[1]'), 1),
    ("one offset", one('"dtype":"U8","shape":[1],"data_offsets":[1]'), 1),
    ("three offsets", one('"dtype":"U8","shape":[1],"data_offsets":[0,1,2]'), 1),
    ("offsets as text", one('"dtype":"U8","shape":[1],"data_offsets":["0","1"]'), 1),
    *[
        (f"number {n}", one(f'"dtype":"U8","shape":[{n}],"data_offsets":[0,1]'), 1)
        for n in ("1.0", "1e0", "-1", "-0", "01", "+1", "0x1", " 1", "null", '"1"', "[1]", "1_0", "")
    ],
    ("number 2^53", one('"dtype":"U8","shape":[9007199254740992,0],"data_offsets":[0,0]'), 0),
    ("number 2^64-1", one('"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]'), 0),
    ("number 2^64", one('"dtype":"U8","shape":[0,18446744073709551616],"data_offsets":[0,0]'), 0),
    ("overflow before a zero", one('"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]'), 0),
    ("overflow by bits", one('"dtype":"F64","shape":[4294967296,268435456],"data_offsets":[0,0]'), 0),
    ("gap at the start", one('"dtype":"U8","shape":[1],"data_offsets":[1,2]'), 2),
    ("gap", b'{"a":{' + U8_1.encode() + b'},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}', 3),
    ("overlap", b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', 3),
    ("same bytes twice", b'{"a":{' + U8_1.encode() + b'},"b":{' + U8_1.encode() + b"}}", 1),
    ("two empty tensors at one place", b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', 0),
    ("offsets backwards", one('"dtype":"U8","shape":[1],"data_offsets":[1,0]'), 1),
    ("size differs from shape", one('"dtype":"U8","shape":[2],"data_offsets":[0,1]'), 1),
    ("bytes after the last tensor", one(U8_1), 2),
    ("truncated data", one(U8_1), 0),
    ("metadata", b'{"__metadata__":{"format":"pt","":""}}', 0),
    ("metadata last", b'{"a":{' + U8_1.encode() + b'},"__metadata__":{"k":"v"}}', 1),
    ("metadata null", b'{"__metadata__":null}', 0),
    ("metadata number", b'{"__metadata__":{"a":1}}', 0),
    ("metadata list", b'{"__metadata__":[]}', 0),
    ("metadata twice", b'{"__metadata__":{},"__metadata__":{}}', 0),
    ("metadata key twice", b'{"__metadata__":{"a":"1","a":"2"}}', 0),
    ("name empty", one(U8_1, '""'), 1),
    ("name __proto__", one(U8_1, '"__proto__"'), 1),
    ("name Unicode", one(U8_1, '"\u00e9\u65e5\U0001f680"'), 1),
    ("name escaped", one(U8_1, r'"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude80"'), 1),
    ("name with escaped NUL", one(U8_1, r'"\u0000"'), 1),
    ("name lone surrogate", one(U8_1, r'"\ud800"'), 1),
    ("name low surrogate", one(U8_1, r'"\udc00"'), 1),
    ("name bad escape", one(U8_1, r'"\x41"'), 1),
    ("name short escape", one(U8_1, r'"\u41"'), 1),
    ("name raw newline", one(U8_1, '"\n"'), 1),
    ("name DEL", one(U8_1, '"\x7f"'), 1),
    ("name invalid UTF-8", b'{"\xff":{' + U8_1.encode() + b"}}", 1),
    ("name overlong UTF-8", b'{"\xc0\x80":{' + U8_1.encode() + b"}}", 1),
]  # fmt: skip


def random_file(rng: random.Random) -> tuple[bytes, int]:
    tensors, position = {}, 0
    for i in range(rng.randint(0, 5)):
        dtype = rng.choice(list(DTYPES))
        shape = [rng.randint(0, 5) for _ in range(rng.randint(0, 3))] + [rng.choice([4, 8])]
        bits = DTYPES[dtype]
        for dimension in shape:
            bits *= dimension
        tensors[f"t{i}"] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + bits // 8]}
        position += bits // 8
    items = list(tensors.items())
    rng.shuffle(items)
    return json.dumps(dict(items)).encode(), position


def mutate(rng: random.Random, header: bytes) -> bytes:
    data = bytearray(header)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = rng.choice(b'0123456789{}[]":, .eE-\\u')
        elif kind == 1 and at < len(data):
            del data[at : at + rng.randint(1, 4)]
        elif kind == 2:
            data[at:at] = bytes([rng.choice(b'0123456789{}[]":, \xc3\xa9')])
        elif kind == 3 and len(data) > 8:
            start = rng.randrange(len(data) - 4)
            data[at:at] = data[start : start + rng.randint(1, 40)]
        else:
            digits = [i for i, b in enumerate(data) if chr(b).isdigit()]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789")
    return bytes(data)


def judge(name: str, header: bytes, data_bytes: int) -> dict:
    vector = {"name": name, "header": base64.b64encode(header).decode(), "dataBytes": data_bytes}
    file = struct.pack("<Q", len(header)) + header + bytes(data_bytes)
    try:
        found = safetensors.deserialize(file)
    except Exception as error:
        return {**vector, "refused": str(error).split(" at line")[0]}
    tensors = {
        name: {"dtype": t["dtype"], "shape": [str(n) for n in t["shape"]], "bytes": len(t["data"])} for name, t in found
    }
    return {**vector, "tensors": dict(sorted(tensors.items()))}


def main() -> None:
    rng = random.Random(20261121)
    vectors = [judge(*case) for case in HAND]
    for i in range(40):
        vectors.append(judge(f"random {i}", *random_file(rng)))
    for i in range(400):
        header, data_bytes = random_file(rng)
        vectors.append(judge(f"mutated {i}", mutate(rng, header), data_bytes))
    print(json.dumps({"library": f"safetensors {safetensors.__version__}", "vectors": vectors}, indent=1))


if __name__ == "__main__":
    main()
