import { expect, test } from "vitest";
import { ownerOf } from "./owner.ts";

test("everybody finds the same owner, and the work is spread", () => {
  const keys = Array.from({ length: 300 }, (_, i) => `image-${i}`);
  const owned = keys.filter((key) => ownerOf(["a", "b", "c"], key) === "a");
  expect(ownerOf(["c", "a", "b"], "image-1")).toBe(ownerOf(["a", "b", "c"], "image-1"));
  expect(owned.length).toBeGreaterThan(60);
  expect(owned.length).toBeLessThan(140);
});

test("a node that leaves changes only what was its own", () => {
  for (let i = 0; i < 50; i++) {
    const before = ownerOf(["a", "b", "c"], `${i}`);
    if (before !== "c") expect(ownerOf(["a", "b"], `${i}`)).toBe(before);
  }
});
