import { expect, test } from "vitest";
import { loadPolicy } from "./policy.ts";

test("a gate without keys does not open", async () => {
  await expect(loadPolicy("signed", "")).rejects.toMatchObject({
    code: "invalidArgument",
    field: "imageSigningKeysFile",
  });
  await expect(loadPolicy("signed", import.meta.filename)).rejects.toMatchObject({ code: "invalidArgument" });
});

test("other policies need no keys", async () => {
  expect(await loadPolicy("digest", "")).toEqual({ kind: "digest" });
});
