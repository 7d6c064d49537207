import { describe, expect, test } from "vitest";
import { cutIntoChunks } from "./chunks.ts";
import { chunksOf, orderedNames, orderedTensors, Sequence } from "./order.ts";

const at = (file: number, name: string, offset: number, length: number) => ({
  file,
  tensor: { name, offset, length },
});
const TENSORS = [
  at(0, "embed", 8, 10),
  at(0, "layers.0.up", 18, 10),
  at(0, "layers.1.up", 28, 10),
  at(0, "layers.10.up", 38, 2),
  at(1, "layers.1.down", 8, 12),
  at(1, "head", 20, 4),
];
const names = (placed: readonly { tensor: { name: string } }[]) => placed.map(({ tensor }) => tensor.name);

describe("an order", () => {
  test("names tensors, and everything below a name in file order, each once", () => {
    expect(names(orderedTensors(TENSORS, ["head", "layers.1.", "layers.1.down", "layers."]))).toEqual([
      "head",
      "layers.1.up",
      "layers.1.down",
      "layers.0.up",
      "layers.10.up",
    ]);
    expect(orderedTensors(TENSORS, [])).toEqual([]);
  });
  test("that names what is not there is refused by name", () => {
    for (const wrong of ["layers", "layers.2.", "heads", "", "."]) {
      expect(() => orderedTensors(TENSORS, ["head", wrong]), wrong).toThrow(
        expect.objectContaining({ code: "invalidArgument", field: "order" }),
      );
    }
  });
  test("of many beginnings costs what they find", () => {
    const many = Array.from({ length: 20_000 }, (_, i) => at(0, `layers.${i}.up`, i, 1));
    const order = many.map((_, i) => `layers.${many.length - 1 - i}.`);
    expect(names(orderedTensors(many, order))).toEqual(names(many).reverse());
  });
  test("becomes ranges to fetch, each once, however many tensors share it", () => {
    const chunks = [...cutIntoChunks([40, 24], 10)];
    const wanted = orderedTensors(TENSORS, ["layers.1.", "head", "embed"]);
    expect(chunksOf(wanted, chunks, 10).map(({ file, offset }) => [file, offset])).toEqual([
      [0, 20],
      [0, 30],
      [1, 0],
      [1, 10],
      [1, 20],
      [0, 0],
      [0, 10],
    ]);
  });
});

describe("a sequence", () => {
  test("holds back what comes early and lets everything through once, in the one order", () => {
    const order = orderedNames(names(TENSORS), ["head"]);
    expect(order[0]).toBe("head");
    const sequence = new Sequence<{ name: string }>(order);
    const handed = ["layers.0.up", "embed", "layers.10.up", "head", "layers.1.down", "layers.1.up"].map(
      (name) => sequence.came({ name }).map((tensor) => tensor.name),
    );
    expect(handed.slice(0, 3)).toEqual([[], [], []]);
    expect(handed[3]).toEqual(["head", "embed", "layers.0.up"]);
    expect(handed.flat()).toEqual(order);
  });
});
