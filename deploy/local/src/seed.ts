// Fills a platform that was not started from a checkout (compose): the demo's models into its bucket, the worker's image as an
// OCI layout where the converter reads it. Does nothing that is done already.
import { mkdir, rename, rm, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { parseArgs } from "node:util";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { CHAT_MODEL, EMBEDDING_MODEL, joinUri } from "./demo.ts";
import { say } from "./terminal.ts";
import { ensureWorkerImage } from "./worker-image.ts";

const { values } = parseArgs({ options: { bucket: { type: "string" }, images: { type: "string" } } });
if (values.bucket === undefined || values.images === undefined) {
  process.stderr.write("usage: seed.ts --bucket URI --images DIRECTORY\n");
  process.exit(2);
}

for (const name of [CHAT_MODEL, EMBEDDING_MODEL]) {
  const { outcome } = await addModel({ from: name, to: openStore(joinUri(values.bucket, `models/${name}`)) });
  say(`${name}: ${outcome === "added" ? "added to the bucket" : "is in the bucket"}`);
}

await mkdir(values.images, { recursive: true });
const { reference, made } = await ensureWorkerImage(values.images);
const layout = new URL(reference.replace(/:[^:/]*$/, "")).pathname;
const stable = join(values.images, "worker");
await rm(`${stable}.new`, { force: true });
await symlink(relative(dirname(stable), layout), `${stable}.new`);
await rename(`${stable}.new`, stable);
say(`the worker's image ${made ? "was made" : "is there"}: oci://${stable}:latest`);
