// `npm start` as a user types it, the second time: until the demo's chat model has given its first token; then what the idle
// platform costs. Set-up (first start, models, one deployment) is not measured.
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { CHAT_MODEL, createDemo, type Endpoints, ROOT } from "@pilotlight/local";
import OpenAI from "openai";
import { inFolders } from "../src/folders.ts";
import { type Figures, median, versionOf } from "../src/report.ts";
import { type Usage, usageOfTree } from "./process-tree.ts";

export async function run({ smoke }: { smoke: boolean }): Promise<Figures> {
  const nothingElse = async () => {};
  return inFolders("bench-start-", nothingElse, async ({ scratch: stateDir }) => {
    await firstStart(stateDir);
    const times: number[] = [];
    for (let i = 0; i < (smoke ? 1 : 3); i++) times.push(await timeToFirstToken(stateDir));
    const idle = await measureIdle(stateDir, smoke ? 3_000 : 60_000);
    return {
      bench: "start",
      targets: {
        "start.warm_first_token_s": {
          op: "<=",
          value: 20,
          unit: "s",
          what: "npm start, second time, to the first token",
        },
        "start.idle_rss_mb": {
          op: "<=",
          value: 1_200,
          unit: "MB",
          what: "all processes of the idle platform",
        },
        "start.idle_cpu_percent": {
          op: "<=",
          value: 5,
          unit: "% of one core",
          what: "idle platform over 60 s",
        },
      },
      figures: {
        "start.warm_first_token_s": median(times),
        "start.idle_rss_mb": idle.rssMb,
        "start.idle_cpu_percent": idle.cpuPercent,
      },
      notes: {
        "start.warm_first_token_s": `runs: ${times.map((time) => time.toFixed(1)).join(", ")} s`,
        "start.idle_rss_mb": `no application deployed; ${idle.text}`,
      },
      versions: { npm: versionOf("npm", ["--version"]), python: versionOf("python3", ["--version"]) },
    };
  });
}

type Started = { child: ChildProcess; endpoints: Endpoints };

/** `npm start -- --no-demo`; resolves when it says that it runs. */
async function npmStart(stateDir: string): Promise<Started> {
  const child = spawn("npm", ["start", "--", "--no-demo", "--state", stateDir], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "inherit"],
    detached: true,
  });
  let output = "";
  await new Promise<void>((resolve, reject) => {
    child.stdout?.on("data", (data: Buffer) => {
      output += data;
      if (output.includes("Pilotlight runs.")) resolve();
    });
    child.once("exit", (code) => reject(new Error(`npm start ended with ${code}:\n${output}`)));
  });
  child.removeAllListeners("exit");
  return {
    child,
    endpoints: JSON.parse(readFileSync(join(stateDir, "endpoints.json"), "utf8")) as Endpoints,
  };
}

async function stop({ child }: Started): Promise<void> {
  const gone = new Promise((resolve) => child.once("exit", resolve));
  process.kill(-(child.pid ?? 0), "SIGINT"); // Ctrl-C reaches the whole foreground group
  await gone;
}

async function firstStart(stateDir: string): Promise<void> {
  const started = await npmStart(stateDir);
  const demo = createDemo(started.endpoints, {}, () => {});
  await demo.addModels();
  await demo.deploy();
  await stop(started);
}

async function timeToFirstToken(stateDir: string): Promise<number> {
  const from = performance.now();
  const started = await npmStart(stateDir);
  const client = new OpenAI({
    baseURL: `${started.endpoints.gatewayUrl}/v1`,
    apiKey: "unused",
    maxRetries: 20,
    timeout: 120_000,
  });
  const stream = await client.chat.completions.create({
    model: CHAT_MODEL,
    messages: [{ role: "user", content: "Say hello." }],
    max_tokens: 4,
    stream: true,
  });
  let seconds = Number.NaN;
  for await (const chunk of stream) {
    if (Number.isNaN(seconds) && (chunk.choices[0]?.delta.content ?? "") !== "")
      seconds = (performance.now() - from) / 1000;
  }
  await stop(started);
  return seconds;
}

async function measureIdle(
  stateDir: string,
  forMs: number,
): Promise<{ rssMb: number; cpuPercent: number; text: string }> {
  const started = await npmStart(stateDir);
  const demo = createDemo(started.endpoints, {}, () => {});
  const usage = () => usageOfTree(started.child.pid ?? 0, detachedPids(stateDir));
  const sum = (usages: Usage[], key: "rssMb" | "cpuS") => usages.reduce((total, one) => total + one[key], 0);
  await pause(forMs / 6);
  const withReplica = sum(usage(), "rssMb");
  await demo.control.deleteApplication("chat");
  await pause(Math.max(10_000, forMs / 3));
  const before = usage();
  await pause(forMs);
  const after = usage();
  await stop(started);
  const cpuPercent = ((sum(after, "cpuS") - sum(before, "cpuS")) / (forMs / 1000)) * 100;
  const largest = [...after]
    .sort((a, b) => b.rssMb - a.rssMb)
    .slice(0, 4)
    .map(({ name, rssMb }) => `${name} ${rssMb.toFixed(0)}`);
  return {
    rssMb: sum(after, "rssMb"),
    cpuPercent,
    text: `${after.length} processes, largest ${largest.join(", ")} MB; with one chat replica ${withReplica.toFixed(0)} MB`,
  };
}

/** Services are noted by the supervisor; they are its children, but stay ours should it die. */
function detachedPids(stateDir: string): number[] {
  const noted = JSON.parse(readFileSync(join(stateDir, "processes.json"), "utf8")) as { pid: number }[];
  return noted.map(({ pid }) => pid);
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
