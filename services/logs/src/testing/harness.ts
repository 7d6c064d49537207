// The log service as a process that can be killed, with its bus, bucket and door.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bus, connectBus, publish } from "@pilotlight/bus";
import {
  EVENTS,
  type LogLine,
  type LogLineSchema,
  LogsService,
  type MessageInitShape,
  type SearchLogsRequestSchema,
  timestampFromMs,
} from "@pilotlight/contracts";
import { cacheDir, freePort } from "@pilotlight/servers";
import { type GrpcClient, grpcClient } from "@pilotlight/service";

const MAIN = join(import.meta.dirname, "..", "main.ts");

export type Line = MessageInitShape<typeof LogLineSchema>;

export class TestLogs {
  readonly home: string;
  readonly bus: Bus;
  readonly door: GrpcClient<typeof LogsService>;
  readonly #natsUrl: string;
  readonly #port: number;
  #process: ChildProcess | undefined;
  #offset = 0n;

  private constructor(home: string, bus: Bus, natsUrl: string, port: number) {
    this.home = home;
    this.bus = bus;
    this.#natsUrl = natsUrl;
    this.#port = port;
    this.door = grpcClient(LogsService, `127.0.0.1:${port}`, { timeoutMs: 20_000 });
  }

  static async open(natsUrl: string): Promise<TestLogs> {
    const home = await mkdtemp(join(tmpdir(), "pilotlight-logs-"));
    await mkdir(join(home, "bucket"));
    const bus = await connectBus({
      url: natsUrl,
      service: "test",
      connectTimeoutMs: 10_000,
      streamReplicas: 1,
    });
    return new TestLogs(home, bus, natsUrl, await freePort());
  }

  get bucket(): string {
    return join(this.home, "bucket");
  }
  get stateDir(): string {
    return join(this.home, "state");
  }
  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** Starts the service and waits until it serves. */
  async start(settings: Record<string, string> = {}): Promise<void> {
    const child = spawn(process.execPath, [MAIN], {
      env: {
        PATH: process.env.PATH,
        NODE_COMPILE_CACHE: cacheDir("node-compile"),
        NATS_URL: this.#natsUrl,
        STATE_DIR: this.stateDir,
        BUCKET_URI: `file://${this.bucket}`,
        GRPC_PORT: String(this.#port),
        BATCH_ACK_TIMEOUT_MS: "1000",
        ...settings,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    const said: string[] = [];
    child.stderr.on("data", (data: Buffer) => said.push(data.toString()));
    await new Promise<void>((resolve, reject) => {
      child.stdout.on("data", (data: Buffer) => {
        said.push(data.toString());
        if (process.env.TEST_SERVICE_LOGS !== undefined) process.stderr.write(data);
        if (said.join("").includes('"msg":"ready"')) resolve();
      });
      child.once("exit", (code) => reject(new Error(`the service ended with ${code}:\n${said.join("")}`)));
    });
  }

  async kill(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<number | null> {
    const child = this.#process;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return null;
    const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
    child.kill(signal);
    return ended;
  }

  /** Publishes lines as the node agent would, each batch behind the one before. */
  async say(
    lines: Line[],
    place: { offset?: bigint; id?: string } = {},
  ): Promise<{ offset: bigint; id: string }> {
    const offset = place.offset ?? this.#offset;
    const offsetEnd = offset + BigInt(Math.max(1, lines.length));
    if (offsetEnd > this.#offset) this.#offset = offsetEnd;
    const source = `${this.home}/file#1`;
    const id = place.id ?? `node-1:${source}:${offset}-${offsetEnd}`;
    await publish(this.bus, EVENTS.logBatch, { nodeId: "node-1", source, offset, offsetEnd, lines }, { id });
    return { offset, id };
  }

  async search(request: MessageInitShape<typeof SearchLogsRequestSchema>): Promise<LogLine[]> {
    const lines: LogLine[] = [];
    for await (const page of this.door.searchLogs(request)) lines.push(...page.lines);
    return lines;
  }

  async messages(request: MessageInitShape<typeof SearchLogsRequestSchema>): Promise<string[]> {
    return (await this.search(request)).map(({ message }) => message);
  }

  async close(): Promise<void> {
    await this.kill();
    this.door.close();
    await this.bus.close();
    await rm(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** A line with defaults. */
export const line = (message: string, more: Line = {}): Line => ({
  at: timestampFromMs(Date.now()),
  level: 2,
  service: "worker",
  message,
  ...more,
});
