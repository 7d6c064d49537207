// `npm run test:vllm`: the real vLLM on this machine's CPU with our loader plug-in, installed as a package. A real model comes from
// an S3 server through a weight streamer, into a vLLM that has only its config; the answers must equal, token by token, those of
// vLLM's own loader from files. Then the quantised artefacts: transformers must read what their quality records say, and vLLM
// must run the 4-bit one alike by either loader. Takes 6 GB in the user's cache, some 10 minutes, and the network once.
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import { startS3Server } from "@pilotlight/object-store/testing";
import { addTransformed, parseScheme } from "@pilotlight/onboarding";
import { freePort, runCommand, startNatsServer } from "@pilotlight/servers";
import { startServiceProcess } from "@pilotlight/testing";
import { ensureVllm } from "./vllm-environment.ts";

const MODEL = "smollm2-135m-instruct";
/** Rows of this model are 576 and 1536 wide: made of 64s, not of 128s. */
const ARTEFACTS = [
  ["int4", 64],
  ["int8", undefined],
  ["fp8", undefined],
] as const;
const SHARD_BYTES = 50e6;
const RUN_TIMEOUT_MS = 1_200_000;

const here = import.meta.dirname;
const say = (text: string): boolean => process.stdout.write(`${text}\n`);
const ending: (() => Promise<unknown>)[] = [];
let failures = 0;

async function main(): Promise<void> {
  const venv = await ensureVllm();
  const folder = await mkdtemp(join(tmpdir(), "pilotlight-vllm-"));
  ending.push(() => rm(folder, { recursive: true, force: true }));
  const python = join(venv, "bin/python");
  // As a user would: the package with its entry point, beside vLLM.
  const site = join(folder, "site");
  await cp(here, join(folder, "package"), { recursive: true });
  const install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site];
  await runCommand(python, [...install, join(folder, "package")]);

  const plain = join(folder, "plain");
  await addModel({ from: MODEL, to: openStore(`file://${plain}`) });
  for (const [scheme, groupSize] of ARTEFACTS) {
    await addTransformed({
      from: plain,
      to: openStore(`file://${join(folder, scheme)}`),
      transformation: {
        scheme: parseScheme(scheme, groupSize),
        shardBytesMax: SHARD_BYTES,
        ranks: 1,
        judge: false,
      },
    });
  }
  say("made the model and its quantised artefacts");
  const environment = { ...process.env, HF_HUB_OFFLINE: "1" };
  const artefacts = ARTEFACTS.map(([scheme]) => join(folder, scheme));
  const checked = await runCommand(python, [join(here, "tests/check_quantised.py"), plain, ...artefacts], {
    env: { ...environment, TQDM_DISABLE: "1" },
    timeoutMs: RUN_TIMEOUT_MS,
  });
  say(checked.trim());

  const streamer = await startStreamer(folder);
  const ask = async (model: string, ...options: string[]): Promise<Answers> => {
    const output = await runCommand(python, [join(here, "tests/run_vllm.py"), model, ...options], {
      cwd: folder,
      timeoutMs: RUN_TIMEOUT_MS,
      env: {
        ...environment,
        PYTHONPATH: site,
        PILOTLIGHT_WEIGHT_STREAMER: streamer.address,
        VLLM_CPU_KVCACHE_SPACE: "1",
        VLLM_CPU_OMP_THREADS_BIND: "nobind",
        VLLM_LOGGING_LEVEL: "WARNING",
        VLLM_NO_USAGE_STATS: "1",
        // One process instead of three, each of which would import everything.
        VLLM_ENABLE_V1_MULTIPROCESSING: "0",
      },
    });
    return JSON.parse(output.trim().split("\n").at(-1) ?? "") as Answers;
  };
  for (const name of ["plain", "int4"]) {
    const source = await streamer.upload(join(folder, name), name);
    // Without weights: what answers can only come through the streamer.
    const bare = join(folder, `${name}-bare`);
    await cp(join(folder, name), bare, { recursive: true, filter: (path) => !path.includes(".safetensors") });
    const own = await ask(join(folder, name));
    const ours = await ask(bare, "--load-format", "pilotlight", "--uri", source);
    compare(name, own, ours);
  }
}

type Answers = { tokens: number[][]; text: string[] };

function compare(name: string, own: Answers, ours: Answers): void {
  const same = JSON.stringify(own.tokens) === JSON.stringify(ours.tokens);
  const count = own.tokens.flat().length;
  say(`${same ? "ok" : "FAILED"}  ${name}: ${count} tokens by vLLM's loader and through the streamer`);
  say(`    ${JSON.stringify(ours.text[0])}`);
  if (same && count > 0) return;
  failures++;
  say(`    vLLM's own: ${JSON.stringify(own.text)}\n    ours: ${JSON.stringify(ours.text)}`);
}

async function startStreamer(folder: string) {
  const s3 = await startS3Server();
  const { accessKeyId, secretAccessKey } = s3.credentials;
  const credentials = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
  ending.unshift(() => s3.stop());
  const nats = await startNatsServer({ stateDir: join(folder, "nats"), port: await freePort() });
  ending.unshift(() => nats.stop());
  const service = await startServiceProcess(
    new URL("../services/weight-streamer/src/main.ts", import.meta.url),
    {
      ...credentials,
      NATS_URL: nats.url,
      NODE_ID: "vllm",
      GRPC_PORT: "0",
      STRANGERS_ALLOWED: "true",
      STATE_DIR: join(folder, "state"),
      SEGMENT_DIR: join(folder, "segments"),
    },
  );
  ending.unshift(() => service.stop());
  const { address } = await service.logged((line) => line.msg === "serving");
  return {
    address: String(address),
    async upload(from: string, name: string): Promise<string> {
      const uri = s3.uri(name);
      await addModel({ from, to: openStore(uri, { env: credentials }) });
      return uri;
    },
  };
}

try {
  await main();
} catch (error) {
  failures++;
  process.stderr.write(`${error}\n`);
} finally {
  for (const end of ending) await end();
}
process.exit(failures === 0 ? 0 : 1);
