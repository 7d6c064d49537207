import { describe, expect, test } from "vitest";
import { chunkBytesFor, cutIntoChunks, TensorTracker } from "./chunks.ts";

test("files are cut front to back, the last piece shorter", () => {
  expect([...cutIntoChunks([25, 0, 10], 10)]).toEqual([
    { file: 0, offset: 0, length: 10 },
    { file: 0, offset: 10, length: 10 },
    { file: 0, offset: 20, length: 5 },
    { file: 2, offset: 0, length: 10 },
  ]);
});

test("ranges grow with the repository, within limits", () => {
  const of = (bytes: number) => chunkBytesFor(bytes, 10);
  expect([0, 900, 1_900, 1_920, 3_000, 4_000, 1e9].map(of)).toEqual([10, 10, 10, 20, 30, 40, 40]);
});

describe("complete tensors", () => {
  const tensor = (name: string, offset: number, length: number) => {
    return { name, dtype: "U8" as const, shape: [length], offset, length };
  };
  // A header of 8 bytes, then 8…20, an empty one, 20…22, 22…30.
  const tensors = [tensor("a", 8, 12), tensor("none", 20, 0), tensor("b", 20, 2), tensor("c", 22, 8)];
  const chunks = [...cutIntoChunks([30], 7)];

  test("each is told exactly once, when its last byte arrived, whatever the order", () => {
    for (const order of permutations(chunks)) {
      const tracker = new TensorTracker(tensors);
      const arrived = new Set<number>();
      const told: string[] = [];
      for (const { offset, length } of order) {
        for (let i = offset; i < offset + length; i++) arrived.add(i);
        for (const { name, offset: start, length: bytes } of tracker.arrived(offset, length)) {
          told.push(name);
          for (let i = start; i < start + bytes; i++) expect(arrived.has(i)).toBe(true);
        }
      }
      expect(told.sort()).toEqual(["a", "b", "c", "none"]);
    }
  });
});

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((item, i) => permutations(items.toSpliced(i, 1)).map((rest) => [item, ...rest]));
}
