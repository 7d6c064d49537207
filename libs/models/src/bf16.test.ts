import { expect, test } from "vitest";
import { fromBf16, fromF16, toBf16 } from "./bf16.ts";

test.each([
  [1, 0x3f80],
  [-0, 0x8000],
  [1 + 2 ** -8, 0x3f80],
  [1 + 2 ** -8 + 2 ** -20, 0x3f81],
  [1 + 3 * 2 ** -8, 0x3f82],
  [3.4e38, 0x7f80],
  [Number.POSITIVE_INFINITY, 0x7f80],
  [2 ** -133, 0x0001],
])("%d rounds to even as %d", (value, bits) => {
  expect(toBf16(value)).toBe(bits);
});
test("NaN stays NaN", () => {
  expect(fromBf16(toBf16(Number.NaN))).toBeNaN();
});
test("every bf16 comes back as itself", () => {
  for (let bits = 0; bits < 0x7f80; bits++) expect(toBf16(fromBf16(bits))).toBe(bits);
});
test("half precision has subnormals and infinities", () => {
  expect([0x3c00, 0xc000, 1, 0x7c00, 0x7bff].map(fromF16)).toEqual([
    1,
    -2,
    2 ** -24,
    Number.POSITIVE_INFINITY,
    65504,
  ]);
});
