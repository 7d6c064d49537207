import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DTYPE_BITS, type Dtype } from "./dtype.ts";
import { HEADER_BYTES_MAX, LENGTH_BYTES, parseHeader, parseHeaderLength } from "./header.ts";
import { layoutFile } from "./layout.ts";

type Vector = {
  name: string;
  header: string;
  dataBytes: number;
  refused?: string;
  tensors?: Record<string, { dtype: string; shape: string[]; bytes: number }>;
};
const { vectors } = JSON.parse(
  readFileSync(new URL("./fixtures/reference-vectors.json", import.meta.url), "utf8"),
) as { vectors: Vector[] };

/** Accepted by the reference, refused here on purpose. */
const STRICTER = /appears twice|unknown field|"\{" was expected|below 2\^53/;

function parseVector(vector: Vector) {
  const header = Buffer.from(vector.header, "base64");
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(header.byteLength));
  const fileBytes = LENGTH_BYTES + header.byteLength + vector.dataBytes;
  expect(parseHeaderLength(length, fileBytes)).toBe(header.byteLength);
  return parseHeader(header, fileBytes);
}

describe("against the reference library", () => {
  test.each(vectors.filter(({ refused }) => refused !== undefined))(
    "refuses what it refuses: $name",
    (vector) => {
      expect(() => parseVector(vector)).toThrow(expect.objectContaining({ code: "corrupt" }));
    },
  );
  test.each(vectors.filter(({ refused }) => refused === undefined))(
    "finds what it finds: $name",
    (vector) => {
      let header: ReturnType<typeof parseVector>;
      try {
        header = parseVector(vector);
      } catch (error) {
        expect((error as Error).message).toMatch(STRICTER);
        return;
      }
      const found = header.tensors.map(({ name, dtype, shape, length }) => {
        return [name, { dtype, shape: shape.map(String), bytes: length }];
      });
      expect(Object.fromEntries(found)).toEqual(vector.tensors);
    },
  );
  test("hand-written vectors that only this parser refuses are the documented ones", () => {
    const stricter = vectors.filter((vector) => {
      if (vector.refused !== undefined || vector.name.startsWith("mutated")) return false;
      try {
        parseVector(vector);
        return false;
      } catch {
        return true;
      }
    });
    expect(stricter.map(({ name }) => name)).toEqual([
      "repeated tensor",
      "repeated tensor by escape",
      "unknown field",
      "tensor as array",
      "number 2^53",
      "number 2^64-1",
      "metadata key twice",
    ]);
  });
});

describe("the length field", () => {
  const field = (length: bigint) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(length);
    return bytes;
  };
  test.each([
    ["shorter than the field", field(0n).subarray(0, 7), 7, "at least 8 bytes"],
    ["past the file's end", field(100n), 107, "truncated"],
    ["over the limit", field(BigInt(HEADER_BYTES_MAX) + 1n), 1e12, "allows 100000000"],
    ["all ones", field(2n ** 64n - 1n), 1e12, "allows 100000000"],
  ])("%s is refused", (_name, bytes, fileBytes, message) => {
    expect(() => parseHeaderLength(bytes, fileBytes)).toThrow(message);
  });
  test("at the limit is accepted", () => {
    expect(parseHeaderLength(field(BigInt(HEADER_BYTES_MAX)), 1e9)).toBe(HEADER_BYTES_MAX);
  });
});

const dtypes = Object.keys(DTYPE_BITS) as Dtype[];
const tensors = fc.uniqueArray(
  fc.record({
    name: fc.string({ unit: "grapheme" }).filter((name) => name !== "__metadata__"),
    dtype: fc.constantFrom(...dtypes),
    // A last dimension of 8 ends sub-byte tensors on a byte.
    shape: fc.array(fc.nat(6), { maxLength: 4 }).map((shape) => [...shape, 8]),
  }),
  { selector: ({ name }) => name },
);

describe("laid-out files", () => {
  test("are read back as they were planned, without gaps, aligned", () => {
    fc.assert(
      fc.property(tensors, fc.dictionary(fc.string(), fc.string()), (planned, metadata) => {
        const { head, fileBytes, tensors: placed } = layoutFile(planned, metadata);
        const length = parseHeaderLength(head, fileBytes);
        const header = parseHeader(head.subarray(LENGTH_BYTES), fileBytes);
        expect(length % 8).toBe(0);
        expect(header.tensors.filter(({ length }) => length > 0)).toEqual(
          placed.filter(({ length }) => length > 0),
        );
        expect(new Set(header.tensors.map(({ name }) => name))).toEqual(
          new Set(planned.map(({ name }) => name)),
        );
        expect(Object.fromEntries(header.metadata)).toEqual({ ...metadata });
        for (const { offset, dtype } of placed)
          expect((offset * 8) % DTYPE_BITS[dtype] === 0 || DTYPE_BITS[dtype] < 8).toBe(true);
      }),
    );
  });
  test("damaged ones end as corrupt or as a file that is covered exactly", () => {
    fc.assert(
      fc.property(
        tensors,
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        (planned, edits) => {
          const { head, fileBytes } = layoutFile(planned);
          const damaged = Buffer.from(head.subarray(LENGTH_BYTES));
          for (const [at, byte] of edits) damaged[at % damaged.byteLength] = byte;
          let header: ReturnType<typeof parseHeader>;
          try {
            header = parseHeader(damaged, fileBytes);
          } catch (error) {
            expect(error).toMatchObject({ code: "corrupt" });
            return;
          }
          let position = header.dataOffset;
          for (const { offset, length } of header.tensors) {
            expect(offset).toBe(position);
            position += length;
          }
          expect(position).toBe(fileBytes);
        },
      ),
      { numRuns: 2000 },
    );
  });
  test("repeated names are refused", () => {
    const tensor = { name: "a", dtype: "U8" as const, shape: [1] };
    expect(() => layoutFile([tensor, tensor])).toThrow("unique");
  });
});
