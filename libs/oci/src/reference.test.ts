import { describe, expect, test } from "vitest";
import { formatReference, parseReference } from "./reference.ts";

const DIGEST = `sha256:${"0a".repeat(32)}`;

describe("references", () => {
  test.each([
    ["nginx", "docker.io/library/nginx:latest"],
    ["nginx:1.27", "docker.io/library/nginx:1.27"],
    ["me/app", "docker.io/me/app:latest"],
    ["index.docker.io/me/app", "docker.io/me/app:latest"],
    ["localhost/app", "localhost/app:latest"],
    ["localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    ["registry.example.com/a__b/c-d.e", "registry.example.com/a__b/c-d.e:latest"],
    [`app@${DIGEST}`, `docker.io/library/app@${DIGEST}`],
    [`r.io/app:v2@${DIGEST}`, `r.io/app:v2@${DIGEST}`],
    ["oci:///srv/layout", "oci:///srv/layout"],
    ["oci:///srv/layout/:worker", "oci:///srv/layout:worker"],
    [`oci:///srv/x@${DIGEST}`, `oci:///srv/x@${DIGEST}`],
  ])("%s means %s", (text, full) => {
    expect(formatReference(parseReference(text))).toBe(full);
  });
  test.each([
    "",
    "UPPER",
    "a//b",
    "a:b:c",
    "app@sha256:123",
    "app:",
    "-a",
    "r.io:port/app",
    "oci://relative",
    "app@md5:0",
    "a b",
    `r.io/${"x".repeat(300)}`,
  ])("%j is refused", (text) => {
    expect(() => parseReference(text)).toThrow(
      expect.objectContaining({ code: "invalidArgument", field: "image" }),
    );
  });
});
