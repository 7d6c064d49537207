import { describe, expect, test } from "vitest";
import { convertedDtype, convertFloats, parseTarget } from "./floats.ts";

const bytes = (values: Float64Array | Float32Array | Uint16Array) =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
const every16Bits = Uint16Array.from({ length: 65_536 }, (_, i) => i);
const isNumber = (value: number) => !Number.isNaN(value);

describe("floats", () => {
  test.each(["F16", "BF16"] as const)("every %s comes back from 32 bits as itself", (dtype) => {
    const wide = convertFloats(bytes(every16Bits), dtype, "F32");
    const back = new Uint16Array(new Uint8Array(convertFloats(wide, "F32", dtype)).buffer);
    const values = new Float32Array(new Uint8Array(wide).buffer);
    for (const [i, code] of every16Bits.entries()) {
      if (isNumber(values[i] as number)) expect(back[i]).toBe(code);
    }
    expect(values.filter((value) => !isNumber(value)).length).toBeGreaterThan(100);
  });
  test("ties go to even, what is too large becomes infinite, NaN stays NaN", () => {
    const wide = Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38, -3.4e38, Number.NaN);
    const narrow = convertFloats(convertFloats(bytes(wide), "F32", "BF16"), "BF16", "F32");
    const values = new Float32Array(new Uint8Array(narrow).buffer);
    expect([...values]).toEqual([
      1,
      1 + 2 ** -6,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      Number.NaN,
    ]);
    const half = convertFloats(bytes(Float32Array.of(65_520, 1 + 2 ** -11, 2 ** -25)), "F32", "F16");
    expect([...new Uint16Array(new Uint8Array(half).buffer)]).toEqual([0x7c00, 0x3c00, 0]);
  });
  test("64 bits pass through 32", () => {
    const out = convertFloats(bytes(Float64Array.of(0.1, 1e300)), "F64", "F32");
    expect([...new Float32Array(new Uint8Array(out).buffer)]).toEqual([
      Math.fround(0.1),
      Number.POSITIVE_INFINITY,
    ]);
  });
  test("begin anywhere in memory", () => {
    const odd = new Uint8Array(9);
    odd.set(bytes(Float32Array.of(1.5, -2)), 1);
    expect([
      ...new Uint16Array(new Uint8Array(convertFloats(odd.subarray(1), "F32", "BF16")).buffer),
    ]).toEqual([0x3fc0, 0xc000]);
  });
  test("are converted; codes, scales and counts stay as they are", () => {
    expect(convertedDtype("F32", "BF16")).toBe("BF16");
    for (const dtype of ["F8_E4M3", "F8_E8M0", "F4", "I64", "BOOL", "C64"] as const) {
      expect(convertedDtype(dtype, "F16")).toBe(dtype);
    }
    expect(parseTarget("")).toBeUndefined();
    expect(() => parseTarget("F8_E4M3")).toThrow(
      expect.objectContaining({ code: "invalidArgument", field: "dtype" }),
    );
  });
});
