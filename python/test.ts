// `npm run test:python`: the loader's tests, in an environment of their own (torch and safetensors from the package index, kept
// in the user's cache), against a real weight streamer.
import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { ensurePythonVenv, freePort, startNatsServer } from "@pilotlight/servers";
import { startServiceProcess } from "@pilotlight/testing";

const PACKAGES = [
  "grpcio==1.76.0",
  "numpy==2.4.6",
  "protobuf==6.33.1",
  "safetensors==0.8.0",
  "torch==2.13.0",
];
const MODEL =
  "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4&keyValueHeads=4&layers=3&shardMB=5";

const here = import.meta.dirname;
const venv = await ensurePythonVenv("loader-tests", PACKAGES);
const folder = await mkdtemp(join(tmpdir(), "pilotlight-python-"));
const source = join(folder, "model");
const dtypes = join(folder, "dtypes");
await mkdir(dtypes);
await addModel({ from: MODEL, to: openStore(`file://${source}`) });
const nats = await startNatsServer({ stateDir: join(folder, "nats"), port: await freePort() });
const streamer = await startServiceProcess(
  new URL("../services/weight-streamer/src/main.ts", import.meta.url),
  {
    NATS_URL: nats.url,
    NODE_ID: "python",
    GRPC_PORT: "0",
    STRANGERS_ALLOWED: "true",
    STATE_DIR: join(folder, "state"),
    SEGMENT_DIR: join(folder, "segments"),
  },
);
const { address } = await streamer.logged((line) => line.msg === "serving");
const tests = spawn(
  join(venv, "bin/python"),
  ["-m", "unittest", "-v", ...process.argv.slice(2), "test_loader"],
  {
    cwd: join(here, "tests"),
    stdio: "inherit",
    env: {
      ...process.env,
      PYTHONPATH: here,
      PILOTLIGHT_WEIGHT_STREAMER: String(address),
      TEST_SOURCE: `file://${source}`,
      TEST_FOLDER: source,
      TEST_DTYPES_SOURCE: `file://${dtypes}`,
      TEST_DTYPES_FOLDER: dtypes,
    },
  },
);
const code = await new Promise<number>((resolve) => tests.once("exit", (code) => resolve(code ?? 1)));
await streamer.stop();
await nats.stop();
await rm(folder, { recursive: true, force: true });
process.exit(code);
