import { createHash, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import {
  type ImagePolicy,
  openImage,
  parseSigningKeys,
  type WrittenLayout,
  writeOciLayout,
} from "./index.ts";

const scratch = mkdtempSync(join(tmpdir(), "policy-"));
const AMD64 = { os: "linux", architecture: "amd64" };
const ours = generateKeyPairSync("ec", { namedCurve: "P-256" });
const other = generateKeyPairSync("ec", { namedCurve: "P-256" });
let layout: WrittenLayout;
let number = 0;

beforeEach(async () => {
  layout = await writeOciLayout({
    directory: join(scratch, String(++number)),
    tag: "v1",
    platform: AMD64,
    layers: [[{ to: "/data", content: "data" }]],
    run: {},
  });
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const directory = () => join(scratch, String(number));
const open = (policy: ImagePolicy, reference = layout.reference) =>
  openImage(reference, { platform: AMD64, policy });
const trusted: ImagePolicy = { kind: "signed", keys: [ours.publicKey] };

function blob(content: string) {
  const digest = createHash("sha256").update(content).digest("hex");
  mkdirSync(join(directory(), "blobs/sha256"), { recursive: true });
  writeFileSync(join(directory(), "blobs/sha256", digest), content);
  return { digest: `sha256:${digest}`, size: Buffer.byteLength(content) };
}

/** What `cosign sign --key` pushes: a manifest under the tag of the signed digest. */
function addSignature(key: KeyObject, signedDigest: string, payloadDigest = signedDigest): void {
  const payload = JSON.stringify({
    critical: {
      identity: { "docker-reference": "registry.example/app" },
      image: { "docker-manifest-digest": payloadDigest },
      type: "cosign container image signature",
    },
    optional: null,
  });
  const algorithm = key.asymmetricKeyType === "ed25519" ? null : "sha256";
  const signature = sign(algorithm, Buffer.from(payload), key).toString("base64");
  const manifest = blob(
    JSON.stringify({
      schemaVersion: 2,
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...blob("{}") },
      layers: [
        {
          mediaType: "application/vnd.dev.cosign.simplesigning.v1+json",
          ...blob(payload),
          annotations: { "dev.cosignproject.cosign/signature": signature },
        },
      ],
    }),
  );
  const path = join(directory(), "index.json");
  const index = JSON.parse(readFileSync(path, "utf8")) as { manifests: unknown[] };
  const tag = `${signedDigest.replace(":", "-")}.sig`;
  index.manifests.push({ ...manifest, annotations: { "org.opencontainers.image.ref.name": tag } });
  writeFileSync(path, JSON.stringify(index));
}

describe("only digests", () => {
  test("a tag is refused, and the remedy names the digest", async () => {
    await expect(open({ kind: "digest" })).rejects.toMatchObject({
      code: "permissionDenied",
      remedy: expect.stringContaining(layout.manifestDigest),
    });
  });
});

describe("only signed images", () => {
  test("an image that a trusted key signed is opened", async () => {
    addSignature(ours.privateKey, layout.manifestDigest);
    expect((await open(trusted)).manifestDigest).toBe(layout.manifestDigest);
  });

  test("Ed25519 and RSA keys do too", async () => {
    const ed25519 = generateKeyPairSync("ed25519");
    addSignature(ed25519.privateKey, layout.manifestDigest);
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
    await expect(open({ kind: "signed", keys: [rsa.publicKey] })).rejects.toMatchObject({
      code: "permissionDenied",
    });
    await expect(open({ kind: "signed", keys: [rsa.publicKey, ed25519.publicKey] })).resolves.toBeDefined();
  });

  test.each<[string, () => void]>([
    ["no signature", () => undefined],
    ["a signature by another key", () => addSignature(other.privateKey, layout.manifestDigest)],
    [
      "a signature of another digest",
      () => addSignature(ours.privateKey, layout.manifestDigest, `sha256:${"0".repeat(64)}`),
    ],
    [
      "a damaged payload",
      () => {
        addSignature(ours.privateKey, layout.manifestDigest);
        for (const name of readdirSync(join(directory(), "blobs/sha256"))) {
          const path = join(directory(), "blobs/sha256", name);
          const text = readFileSync(path, "utf8");
          if (text.includes("critical"))
            writeFileSync(path, text.replace("registry.example", "registry.elsewhere"));
        }
      },
    ],
  ])("an image with %s is refused", async (_, arrange) => {
    arrange();
    await expect(open(trusted)).rejects.toMatchObject({ code: "permissionDenied" });
  });

  test("keys are read from PEM, several in one file; a file without any is an error", () => {
    const pem = [ours, other]
      .map(({ publicKey }) => publicKey.export({ type: "spki", format: "pem" }))
      .join("\n");
    expect(parseSigningKeys(pem)).toHaveLength(2);
    expect(() => parseSigningKeys("nothing")).toThrow(expect.objectContaining({ code: "invalidArgument" }));
  });
});
