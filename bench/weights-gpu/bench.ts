// From host memory to a GPU: what the driver copies from pinned memory is the limit; beside it the streamer's memory (the ring), and
// files that lie in the page cache, by our loader and by the usual ones. Sides take turns in one process, after a round that is not
// counted. Where no CUDA device is, nothing is measured and every figure is null, with the reason.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { ensurePythonVenv, freePort, startNatsServer } from "@pilotlight/servers";
import { startServiceProcess } from "@pilotlight/testing";
import { type Folders, inFolders } from "../src/folders.ts";
import { type Figures, median, type Target } from "../src/report.ts";
import { PACKAGES } from "../weights/sides.ts";
import { Conversation } from "../weights/tools.ts";

const TARGETS: Record<string, Target> = {
  "weights.gpu_ring_share": {
    op: ">=",
    value: 0.9,
    unit: "of limit",
    what: "host ring to GPU over the pinned-copy limit of the same run",
  },
  "weights.gpu_speedup_safetensors": {
    op: ">=",
    value: 3,
    unit: "x",
    what: "page cache to GPU over safetensors.torch.load_file to the GPU",
  },
};
const REPOSITORY = join(import.meta.dirname, "../..");
const LOADER = join(REPOSITORY, "python");
const STREAMER = new URL("../../services/weight-streamer/src/main.ts", import.meta.url);
const MODEL = "generated://llama/7b?layers=4&shardMB=700";
const SMOKE_MODEL = "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4&keyValueHeads=4";
const ROUNDS_DEFAULT = 5;
const PINNED_BYTES = 2 ** 30;
const PEERS = ["safetensors", "fastsafetensors", "runai"] as const;
const REQUIREMENTS = [...PACKAGES, "grpcio==1.76.0", "protobuf==6.33.1"];

export async function run({ smoke, rounds }: { smoke: boolean; rounds?: number }): Promise<Figures> {
  const missing = whyNoDevice();
  const keys = Object.keys(TARGETS);
  const result: Figures = {
    bench: "weights-gpu",
    targets: TARGETS,
    figures: Object.fromEntries(keys.map((key) => [key, null])),
    notes: missing === null ? {} : Object.fromEntries(keys.map((key) => [key, `not measured: ${missing}`])),
    versions: Object.fromEntries(REQUIREMENTS.map((item) => item.split("==") as [string, string])),
  };
  if (missing !== null) return result;
  const ending: (() => Promise<unknown>)[] = [];
  const end = async () => {
    for (const stop of ending) await stop();
  };
  await inFolders("bench-weights-gpu-", end, (folders) =>
    measure(result, smoke, smoke ? 1 : (rounds ?? ROUNDS_DEFAULT), folders, ending),
  );
  return result;
}

/** Null where there is a device; the copier's own words where not. */
function whyNoDevice(): string | null {
  const program = "import sys; sys.path.insert(0, sys.argv[1]); import device; device.Copier(0).close()";
  const folder = join(LOADER, "pilotlight_loader");
  const { status, stderr } = spawnSync("python3", ["-c", program, folder], { encoding: "utf8" });
  if (status === 0) return null;
  return (
    stderr
      .trim()
      .split("\n")
      .at(-1)
      ?.replace(/^.*DeviceError: /, "") ?? "python3 did not run"
  );
}

/** What it starts is to be ended as `ending` says, in that order. */
async function measure(
  result: Figures,
  smoke: boolean,
  rounds: number,
  { scratch: disk, memory }: Folders,
  ending: (() => Promise<unknown>)[],
): Promise<void> {
  const venv = await ensurePythonVenv("bench-weights-gpu", REQUIREMENTS);
  const folder = join(disk, "model");
  const { record } = await addModel({
    from: smoke ? SMOKE_MODEL : MODEL,
    to: openStore(`file://${folder}`),
  });
  const weights = Object.entries(record.files).filter(([name]) => name.endsWith(".safetensors"));
  const bytes = weights.reduce((sum, [, file]) => sum + file.bytes, 0);
  const files = weights.map(([name]) => join(folder, name));
  const nats = await startNatsServer({ stateDir: join(disk, "nats"), port: await freePort() });
  ending.unshift(() => nats.stop());
  // Its state lies on another file system than the model, so that it copies into its memory instead of linking the files;
  // for the page cache it lies on the same, and the files themselves are mapped.
  const ring = await startStreamer(memory, "ring", nats.url);
  ending.unshift(ring.stop);
  const linked = await startStreamer(disk, "linked", nats.url);
  ending.unshift(linked.stop);
  const sides = new Map<string, Conversation>();
  for (const [name, address] of [
    ["ring", ring.address],
    ["linked", linked.address],
  ] as const) {
    const side = new Conversation(join(venv, "bin/python"), [join(import.meta.dirname, "sides.py")], {
      ...process.env,
      PYTHONPATH: LOADER,
      PILOTLIGHT_WEIGHT_STREAMER: address,
    });
    ending.unshift(() => side.end());
    await side.hear();
    sides.set(name, side);
  }
  const ask = async (process: string, side: string): Promise<number> => {
    const conversation = sides.get(process) as Conversation;
    conversation.say(JSON.stringify({ side, files, uri: `file://${folder}` }));
    return (await conversation.hear<{ seconds: number }>()).seconds;
  };
  const seconds: Record<string, number[]> = {};
  for (let round = 0; round <= rounds; round++) {
    const taken: Record<string, number> = {
      pinned: await ask("ring", "pinned"),
      ring: await ask("ring", "ours"),
      "page cache": await ask("linked", "ours"),
    };
    for (const peer of PEERS) taken[peer] = await ask("linked", peer);
    // The first one fills the page cache and the streamers' memory.
    if (round === 0) continue;
    for (const [name, value] of Object.entries(taken)) seconds[name] = [...(seconds[name] ?? []), value];
  }
  report(result, bytes, seconds);
}

function report(result: Figures, bytes: number, seconds: Record<string, number[]>): void {
  const rate = (name: string): number => {
    const moved = name === "pinned" ? PINNED_BYTES : bytes;
    return moved / 1e9 / median(seconds[name] ?? []);
  };
  for (const name of Object.keys(seconds)) result.notes[name] = `${rate(name).toFixed(2)} GB/s`;
  result.figures["weights.gpu_ring_share"] = rate("ring") / rate("pinned");
  result.figures["weights.gpu_speedup_safetensors"] = rate("page cache") / rate("safetensors");
}

async function startStreamer(root: string, nodeId: string, natsUrl: string) {
  const service = await startServiceProcess(STREAMER, {
    NATS_URL: natsUrl,
    NODE_ID: nodeId,
    GRPC_PORT: "0",
    ADMIN_PORT: "0",
    STATE_DIR: join(root, nodeId),
    SEGMENT_DIR: join(root, `${nodeId}-segments`),
    MEMORY_BYTES_MAX: String(8 * 2 ** 30),
    STRANGERS_ALLOWED: "true",
  });
  const { address } = await service.logged((line) => line.msg === "serving");
  return { address: String(address), stop: () => service.stop() };
}
