import { describe, expect, test } from "vitest";
import { parseStoreUri } from "./uri.ts";

describe("store URIs", () => {
  test.each([
    ["file:///srv/my%20bucket/", { scheme: "file", directory: "/srv/my bucket" }],
    [
      "s3://bucket",
      {
        scheme: "s3",
        bucket: "bucket",
        prefix: "",
        endpoint: undefined,
        region: undefined,
        pathStyle: false,
        profile: undefined,
      },
    ],
    [
      "s3://my.bucket/a/b?endpoint=http://127.0.0.1:7070/&region=eu-west-1&profile=p",
      {
        scheme: "s3",
        bucket: "my.bucket",
        prefix: "a/b/",
        endpoint: "http://127.0.0.1:7070",
        region: "eu-west-1",
        pathStyle: true,
        profile: "p",
      },
    ],
    [
      "s3://bucket?endpoint=https://x.example&pathStyle=false",
      { scheme: "s3", endpoint: "https://x.example", pathStyle: false },
    ],
    ["https://example.org/models", { scheme: "http", base: "https://example.org/models/" }],
    [
      "gs://my_bucket/a/b?endpoint=http://127.0.0.1:4443",
      { scheme: "gs", bucket: "my_bucket", prefix: "a/b/", endpoint: "http://127.0.0.1:4443" },
    ],
    [
      "az://models/llama?account=mystorage",
      { scheme: "az", container: "models", prefix: "llama/", account: "mystorage", endpoint: undefined },
    ],
    ["hf://owner/repo", { scheme: "hf", kind: "models", repository: "owner/repo", revision: "main" }],
    [
      "hf://datasets/owner/repo@v1/x",
      { scheme: "hf", kind: "datasets", repository: "owner/repo", revision: "v1/x" },
    ],
  ])("%s", (uri, expected) => {
    expect(parseStoreUri(uri)).toMatchObject(expected);
  });
  test.each([
    "not a uri",
    "file://host/path",
    "file:///a?x=1",
    "s3://Bucket",
    "s3://b",
    "s3://bucket/a%2F..%2Fother",
    "s3://bucket/a//b",
    "s3://bucket?region=EU%20West",
    "s3://bucket?pathStyle=yes",
    "s3://bucket?endpoint=ftp://x",
    "gs://B",
    "gs://bucket?key=x",
    "az://Models",
    "az://a--b?account=mystorage",
    "az://models?account=My-Storage",
    "az://models?sig=x",
    "https://example.org/?token=1",
    "https://example.org/#x",
    "hf://repo",
    "hf://owner/repo@../x",
    "hf://owner/repo/file",
  ])("%s is refused", (uri) => {
    expect(() => parseStoreUri(uri)).toThrow(
      expect.objectContaining({ code: "invalidArgument", field: "uri" }),
    );
  });
  test.each([
    "s3://key:secret@bucket/",
    "s3://bucket?secretAccessKey=secret",
    "s3://bucket?endpoint=http://user:secret@host",
    "https://user:secret@example.org/",
    "https://example.org/?sig=secret",
  ])("%s: credentials in a URI are refused and not repeated", (uri) => {
    let message = "";
    try {
      parseStoreUri(uri);
    } catch (error) {
      message = String(error);
    }
    expect(message).not.toBe("");
    expect(message).not.toMatch(/secret(?!AccessKey)/);
  });
  test.each(["ftp://x", "abfs://x/y"])("%s is unsupported, with a remedy", (uri) => {
    expect(() => parseStoreUri(uri)).toThrow(
      expect.objectContaining({ code: "unsupported", remedy: expect.any(String) }),
    );
  });
});
