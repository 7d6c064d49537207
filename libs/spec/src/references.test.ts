import { describe, expect, test } from "vitest";
import { formatImage, parseImage, parseModelSource } from "./index.ts";

const DIGEST = `sha256:${"0a".repeat(32)}`;

describe("images", () => {
  test.each([
    ["pilotlight://worker", { kind: "platform", name: "worker" }],
    [
      "oci:///var/images/worker:1.2",
      { kind: "layout", path: "/var/images/worker", tag: "1.2", digest: null },
    ],
    [`oci:///var/images/w@${DIGEST}`, { kind: "layout", path: "/var/images/w", tag: null, digest: DIGEST }],
    [
      "localhost:5000/a/b:v1",
      { kind: "registry", registry: "localhost:5000", repository: "a/b", tag: "v1", digest: null },
    ],
    [
      `r.example/a@${DIGEST}`,
      { kind: "registry", registry: "r.example", repository: "a", tag: null, digest: DIGEST },
    ],
    [
      `r.example/a:1@${DIGEST}`,
      { kind: "registry", registry: "r.example", repository: "a", tag: "1", digest: DIGEST },
    ],
  ])("%s is read, and written back as it was", (text, expected) => {
    const parsed = parseImage(text);
    expect(parsed).toEqual(expected);
    if (parsed.kind !== "invalid") expect(formatImage(parsed)).toBe(text);
  });

  test("a registry reference without tag or digest means latest", () => {
    expect(parseImage("r.example/a")).toMatchObject({ tag: "latest" });
  });

  test.each([
    ["", "empty"],
    ["a b", "white space"],
    ["ubuntu:22.04", "docker.io/library/ubuntu"],
    ["team/app", "names no registry"],
    ["r.example/A", "not a repository path component"],
    ["r.example//a", "not a repository path component"],
    ["r_.example/a", "not a registry host"],
    ["r.example/a:", "not a tag"],
    ["r.example/a@sha256:12", "not a digest"],
    ["oci://relative/path:1", "absolute"],
    ["oci:///a/../etc:1", ".."],
    ["docker://r.example/a", "not an image scheme"],
    ["pilotlight://other", "unknown"],
  ])("%j is refused: %s", (text, why) => {
    expect(parseImage(text)).toEqual({ kind: "invalid", why: expect.stringContaining(why) });
  });
});

describe("model sources", () => {
  test.each([
    "bucket://models/m",
    "s3://b/k",
    "hf://owner/name",
    "hf://owner/name@refs/pr/1",
    "file:///m",
    "https://h/p",
  ])("%s is a source", (uri) => expect(parseModelSource(uri)).toMatchObject({ kind: "source", uri }));
  test.each([
    ["models/m", "not a URI"],
    ["ftp://h/m", "not supported"],
    ["file://m", "absolute"],
    ["bucket://a/../../b", ".."],
    ["https://user:secret@h/p", "user name or password"],
    ["hf://name", "hf://owner/name"],
    ["s3://", "names no bucket"],
  ])("%s is refused: %s", (uri, why) => {
    expect(parseModelSource(uri)).toEqual({ kind: "invalid", why: expect.stringContaining(why) });
  });
});
