import { expect, test } from "vitest";
import { EMPTY_SHA256, encodePath, sha256Hex, signV4 } from "./sigv4.ts";

// The worked examples of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
const example = {
  credentials: {
    accessKeyId: "AKIAIOSFODNN7EXAMPLE",
    secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
  },
  region: "us-east-1",
  now: Date.UTC(2013, 4, 24),
};
const HOST = "https://examplebucket.s3.amazonaws.com";

test.each([
  [
    "GET with a signed range",
    { method: "GET", url: `${HOST}/test.txt`, headers: { range: "bytes=0-9" }, payloadHash: EMPTY_SHA256 },
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  ],
  [
    "PUT with a key that must be encoded",
    {
      method: "PUT",
      url: `${HOST}/${encodePath("test$file.text")}`,
      headers: { date: "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY" },
      payloadHash: sha256Hex("Welcome to Amazon S3."),
    },
    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
  ],
  [
    "GET of a subresource without value",
    { method: "GET", url: `${HOST}/?lifecycle`, headers: {}, payloadHash: EMPTY_SHA256 },
    "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
  ],
  [
    "GET of a list",
    { method: "GET", url: `${HOST}/?max-keys=2&prefix=J`, headers: {}, payloadHash: EMPTY_SHA256 },
    "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
  ],
])("signs %s as in the specification", (_name, input, signature) => {
  const { authorization } = signV4({ ...input, ...example, url: new URL(input.url) });
  expect(authorization).toContain(`Signature=${signature}`);
});

test("a session token is sent and signed", () => {
  const credentials = { ...example.credentials, sessionToken: "token" };
  const headers = signV4({
    ...example,
    credentials,
    method: "GET",
    url: new URL(HOST),
    headers: {},
    payloadHash: EMPTY_SHA256,
  });
  expect(headers["x-amz-security-token"]).toBe("token");
  expect(headers.authorization).toContain("x-amz-security-token");
});
