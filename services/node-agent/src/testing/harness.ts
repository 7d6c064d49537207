// One node for a test: NATS, an image converter that knows directories, the agent as a process that can be killed, and what
// the platform hears of it.
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bus, connectBus, publish, tail, watchDocuments } from "@pilotlight/bus";
import {
  EVENTS,
  fromBinary,
  ImageConverterService,
  type LogBatch,
  type MessageInitShape,
  type NodeReported,
  type ReplicaAssignmentSchema,
  ReplicaPhase,
  type ReplicaStatus,
} from "@pilotlight/contracts";
import type { PlatformError } from "@pilotlight/errors";
import { cacheDir, freePort } from "@pilotlight/servers";
import { type GrpcDoor, grpcService, serveGrpc } from "@pilotlight/service";
import { expect } from "vitest";

const here = import.meta.dirname;
const NODE = "node-1";
const STOP_TIMEOUT_MS = 10_000;

export type Converter = {
  asked: string[];
  fail: PlatformError | undefined;
  /** What it does with the image before it names it; told how often it was asked. */
  convert: ((times: number) => Promise<void>) | undefined;
  start(): Promise<void>;
  stop(): Promise<void>;
};
type Deployment = NonNullable<MessageInitShape<typeof ReplicaAssignmentSchema>["deployment"]>;

export class TestNode {
  readonly home: string;
  readonly bus: Bus;
  readonly statuses = new Map<string, ReplicaStatus[]>();
  readonly samples: NodeReported[] = [];
  readonly batches: { id: string; batch: LogBatch }[] = [];
  readonly converter: Converter;
  readonly #natsUrl: string;
  readonly #ports: { agent: number; converter: number };
  #agent: ChildProcess | undefined;
  #closers: (() => Promise<unknown>)[] = [];
  #events = 0;

  private constructor(
    home: string,
    bus: Bus,
    natsUrl: string,
    ports: { agent: number; converter: number },
    image: string,
  ) {
    this.home = home;
    this.bus = bus;
    this.#natsUrl = natsUrl;
    this.#ports = ports;
    this.converter = makeConverter(ports.converter, () => image);
  }

  static async start(natsUrl: string): Promise<TestNode> {
    const home = await mkdtemp(join(tmpdir(), "pilotlight-node-"));
    const image = join(home, "image");
    await mkdir(image);
    await writeFile(
      join(image, "image.json"),
      JSON.stringify({ entrypoint: [process.execPath, join(here, "worker-main.ts")] }),
    );
    const bus = await connectBus({
      url: natsUrl,
      service: "test",
      connectTimeoutMs: 10_000,
      streamReplicas: 1,
    });
    const node = new TestNode(
      home,
      bus,
      natsUrl,
      { agent: await freePort(), converter: await freePort() },
      image,
    );
    await node.converter.start();
    await node.#listen();
    return node;
  }

  get stateDir(): string {
    return join(this.home, "state");
  }
  get agentAddress(): string {
    return `127.0.0.1:${this.#ports.agent}`;
  }

  async #listen(): Promise<void> {
    const documents = await watchDocuments(this.bus, EVENTS.replicaReported, {}, ({ status }) => {
      if (status === undefined) return;
      const known = this.statuses.get(status.replicaId) ?? [];
      known.push(status);
      this.statuses.set(status.replicaId, known);
    });
    const everything = tail(this.bus, "pl.>");
    void (async () => {
      for await (const { type, payload, headers } of everything) {
        if (type === EVENTS.nodeReported) this.samples.push(fromBinary(EVENTS.nodeReported.schema, payload));
        if (type === EVENTS.logBatch)
          this.batches.push({
            id: headers["ce-id"] ?? "",
            batch: fromBinary(EVENTS.logBatch.schema, payload),
          });
      }
    })();
    this.#closers.push(documents.close, everything.close);
  }

  /** Starts the agent and waits until it serves. */
  async startAgent(settings: Record<string, string> = {}): Promise<void> {
    const agent = spawn(process.execPath, [join(here, "agent-main.ts")], {
      env: {
        PATH: process.env.PATH,
        NODE_COMPILE_CACHE: cacheDir("node-compile"),
        NATS_URL: this.#natsUrl,
        NODE_ID: NODE,
        STATE_DIR: this.stateDir,
        BUCKET_URI: `file://${this.home}/bucket`,
        SEGMENT_DIRS: join(this.home, "segments"),
        GRPC_PORT: String(this.#ports.agent),
        IMAGE_CONVERTER_ADDRESS: `127.0.0.1:${this.#ports.converter}`,
        REPORT_INTERVAL_MS: "100",
        KILL_TIMEOUT_MS: "300",
        DRAIN_GRACE_MS: "100",
        LOG_POLL_INTERVAL_MS: "20",
        RETRY_DELAY_MS_MAX: "200",
        ACCELERATORS: "4",
        MEMORY_MIB: "4096",
        ...settings,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#agent = agent;
    const said: string[] = [];
    agent.stderr.on("data", (data: Buffer) => said.push(data.toString()));
    await new Promise<void>((resolve, reject) => {
      agent.stdout.on("data", (data: Buffer) => {
        said.push(data.toString());
        if (said.join("").includes('"msg":"ready"')) resolve();
        if (process.env.TEST_AGENT_LOGS !== undefined) process.stderr.write(data);
      });
      agent.once("exit", (code) => reject(new Error(`the agent ended with ${code}:\n${said.join("")}`)));
    });
  }

  /** kill -9. */
  async killAgent(): Promise<void> {
    const agent = this.#agent;
    if (agent === undefined || agent.exitCode !== null || agent.signalCode !== null) return;
    const ended = new Promise((resolve) => agent.once("exit", resolve));
    agent.kill("SIGKILL");
    await ended;
  }

  /** SIGTERM; gives the exit code. */
  async stopAgent(): Promise<number | null> {
    const agent = this.#agent;
    if (agent === undefined) return null;
    const ended = new Promise<number | null>((resolve) => agent.once("exit", resolve));
    agent.kill("SIGTERM");
    return ended;
  }

  async want(
    replicaId: string,
    mode: string,
    deployment: Partial<Deployment> = {},
    more: object = {},
  ): Promise<void> {
    const { environment, ...rest } = deployment;
    await publish(
      this.bus,
      EVENTS.replicaWanted,
      {
        assignment: {
          replicaId,
          application: "chat",
          version: 2,
          nodeId: NODE,
          deployment: {
            name: "main",
            image: "registry/worker:1",
            resources: { accelerators: 1, memoryMib: 256 },
            startTimeoutMs: 20_000,
            drainTimeoutMs: 5_000,
            environment: { MODE: mode, NODE_COMPILE_CACHE: cacheDir("node-compile"), ...environment },
            ...rest,
          },
          ...more,
        },
      } as never,
      { id: `wanted-${replicaId}-${++this.#events}` },
    );
  }

  async unwant(replicaId: string, drainTimeoutMs = 0): Promise<void> {
    await publish(
      this.bus,
      EVENTS.replicaUnwanted,
      { replicaId, nodeId: NODE, drainTimeoutMs, reason: "test" },
      { id: `unwanted-${replicaId}-${++this.#events}` },
    );
  }

  latest(replicaId: string): ReplicaStatus | undefined {
    return this.statuses.get(replicaId)?.at(-1);
  }

  async reaches(replicaId: string, phase: ReplicaPhase): Promise<ReplicaStatus> {
    await expect
      .poll(() => ReplicaPhase[this.latest(replicaId)?.phase ?? 0], { timeout: 30_000, interval: 20 })
      .toBe(ReplicaPhase[phase]);
    return this.latest(replicaId) as ReplicaStatus;
  }

  /** The worker's own pid, as it reported it in its endpoint. */
  pidOf(replicaId: string): number {
    return Number(new URL(this.latest(replicaId)?.endpoint ?? "").port);
  }

  /** Ends every worker that reported an endpoint. */
  killWorkers(): void {
    for (const [replicaId, statuses] of this.statuses) {
      const last = statuses.at(-1);
      if (last === undefined || last.endpoint === "" || last.phase === ReplicaPhase.GONE) continue;
      if (isAlive(this.pidOf(replicaId))) process.kill(this.pidOf(replicaId), "SIGKILL");
    }
  }

  lines(replicaId: string) {
    return this.batches.flatMap(({ batch }) => batch.lines).filter((line) => line.replicaId === replicaId);
  }

  async stateOf(replicaId: string): Promise<string> {
    const file = join(this.stateDir, "replicas", `${replicaId}.json`);
    return (JSON.parse(await readFile(file, "utf8")) as { state: { kind: string } }).state.kind;
  }

  async close(): Promise<void> {
    await this.killAgent();
    for (const close of this.#closers) await close();
    await this.converter.stop();
    await this.bus.close();
    await rm(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** Whether a process runs; a zombie does not. */
export function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

function makeConverter(port: number, imageId: () => string): Converter {
  let door: GrpcDoor | undefined;
  const converter: Converter = {
    asked: [],
    fail: undefined,
    convert: undefined,
    async start() {
      door = await serveGrpc(`127.0.0.1:${port}`, [
        grpcService(ImageConverterService, {
          async *ensureImage({ image, platform }) {
            converter.asked.push(image);
            if (converter.fail !== undefined) throw converter.fail;
            await converter.convert?.(converter.asked.length);
            yield { event: { case: "progressed", value: { image, bytesDone: 1n, bytesTotal: 2n } } };
            const manifestDigest = `sha256:${"0".repeat(64)}`;
            yield {
              event: { case: "ready", value: { image, platform, manifestDigest, imageId: imageId() } },
            };
          },
          listImages: async () => ({}),
        }),
      ]);
    },
    async stop() {
      await door?.close(STOP_TIMEOUT_MS / 100);
      door = undefined;
    },
  };
  return converter;
}
