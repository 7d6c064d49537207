// The platform's own worker as an ordinary OCI image, made without a container engine: the C library and loader of this
// machine, the pinned Node, the bundled worker and the engine. Same inputs, same digest; made again only when they change.
// Where a container engine runs, services/worker/Dockerfile makes the same image from a public base.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { PlatformError } from "@pilotlight/errors";
import { ROOT } from "./checkout.ts";

const WORKER = join(ROOT, "services/worker");
const PARTS = ["dist/main.js", "dist/main.js.map", "engine.node"];
const USER_ID = 10_001;
const TAG = "latest";

/** Makes the image unless it is there. Gives its reference, `oci:///…:latest`. */
export async function ensureWorkerImage(directory: string): Promise<{ reference: string; made: boolean }> {
  const node = process.execPath;
  for (const part of PARTS) {
    if (!existsSync(join(WORKER, part))) {
      throw new PlatformError("preconditionFailed", `services/worker/${part} is not built`, {
        remedy: "Run npm start, which builds it.",
      });
    }
  }
  const key = await digestOf([node, ...PARTS.map((part) => join(WORKER, part))]);
  const layout = join(directory, `worker-${key.slice(0, 16)}`);
  const reference = `oci://${layout}:${TAG}`;
  if (existsSync(join(layout, "index.json"))) return { reference, made: false };
  // Loaded only when an image is made.
  const { hostPlatform, MERGED_USR_LINKS, sharedLibrarySources, writeOciLayout } = await import(
    "@pilotlight/oci"
  );
  const scratch = `${layout}.${process.pid}`;
  await mkdir(directory, { recursive: true });
  await writeOciLayout({
    directory: scratch,
    tag: TAG,
    platform: hostPlatform(),
    gzipLevel: 1,
    layers: [
      [
        ...MERGED_USR_LINKS,
        ...(await sharedLibrarySources([node, join(WORKER, "engine.node")])),
        ...baseFiles(),
      ],
      [{ from: node, to: "/usr/bin/node" }],
      PARTS.map((part) => ({ from: join(WORKER, part), to: `/opt/pilotlight/worker/${part}` })),
    ],
    run: {
      entrypoint: ["/usr/bin/node", "/opt/pilotlight/worker/dist/main.js"],
      env: { PATH: "/usr/bin:/bin" },
      user: String(USER_ID),
      workingDir: "/",
      labels: {
        "org.opencontainers.image.title": "pilotlight-worker",
        "org.opencontainers.image.licenses": "Apache-2.0",
      },
    },
  });
  // Whole or not at all: an interrupted writing never looks like an image.
  await rename(scratch, layout).catch(() => rm(scratch, { recursive: true, force: true }));
  return { reference, made: true };
}

/** The few files that programs expect of any root. */
const baseFiles = () => [
  {
    to: "/etc/passwd",
    content: `root:x:0:0:root:/root:/sbin/nologin\nworker:x:${USER_ID}:${USER_ID}:worker:/:/sbin/nologin\n`,
  },
  { to: "/etc/group", content: `root:x:0:\nworker:x:${USER_ID}:\n` },
  { to: "/etc/nsswitch.conf", content: "hosts: files dns\n" },
  { to: "/tmp", directory: true as const, mode: 0o1777 },
  { to: "/run", directory: true as const },
];

const BLOCK_BYTES = 1024 * 1024;

/** Read through one buffer: this process stays as long as the platform, and so would what it once needed. */
async function digestOf(files: readonly string[]): Promise<string> {
  const hash = createHash("sha256").update("worker-image-1");
  const block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  for (const path of files) {
    hash.update(basename(path));
    await using file = await open(path);
    for (;;) {
      const { bytesRead } = await file.read(block, 0, BLOCK_BYTES);
      if (bytesRead === 0) break;
      hash.update(block.subarray(0, bytesRead));
    }
  }
  return hash.digest("hex");
}
