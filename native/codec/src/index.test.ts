import { createHash, randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { createSha256 } from "./index.ts";

test("a hash of pieces is that of the whole", async () => {
  const pieces = [randomBytes(1), Buffer.alloc(0), randomBytes(100_000), randomBytes(63)];
  const hash = createSha256();
  for (const piece of pieces) await hash.update(piece);
  expect(hash.digest().equals(createHash("sha256").update(Buffer.concat(pieces)).digest())).toBe(true);
});

test("a hash of nothing is that of the empty string", () => {
  expect(createSha256().digest().equals(createHash("sha256").digest())).toBe(true);
});
