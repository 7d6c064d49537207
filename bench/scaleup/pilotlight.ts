// Pilotlight's side: the whole platform, an application that was deployed and went to sleep, and a request that wakes it although
// there is no node. What is timed is the request: queued by the gateway, seen by the autoscaler, for which a node is ordered and
// boots, on which the agent mounts and starts the image while the streamer fetches the weights, answered with a token.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus, tail } from "@pilotlight/bus";
import { EVENTS, filterOf, fromBinary, ScaleDecidedSchema } from "@pilotlight/contracts";
import { type ControlClient, controlClient, type Waterfall } from "@pilotlight/control-api";
import { type Platform, runCli, startPlatform, untilApplication } from "@pilotlight/local";
import { type BenchBucket, modelUri } from "../weights/bucket.ts";
import { type BenchNode, startNode } from "./node.ts";
import { ranksOf } from "./profile.ts";
import { ENGINE, PROMPT } from "./request.ts";
import { chain, type Start } from "./start.ts";

/** After the last request. Longer than a node agent takes to learn from a start. */
const SLEEP_AFTER_MS = 6_000;
const DEPLOY_TIMEOUT_MS = 400_000;
const SLEEP_TIMEOUT_MS = 60_000;
const LEARN_TIMEOUT_MS = 60_000;
const KNOWN_TIMEOUT_MS = 30_000;
const KNOWN_POLL_MS = 100;

export type PilotlightOptions = {
  bucket: BenchBucket;
  /** The bucket's address behind the nodes' link. */
  linked: string;
  scratch: string;
  /** A folder in memory. */
  memory: string;
  /** `oci:///…` */
  image: string;
  bootMs: number;
  /** What has gone over the nodes' link so far. */
  wireBytes: () => Promise<number>;
};

export type OurStart = Start & {
  /** What came over the node's link until the first token. */
  wireBytes: number;
};

/** An application that sleeps. */
export type Sleeping = { name: string; weightBytes: number };

export class Pilotlight {
  readonly #options: PilotlightOptions;
  readonly #platform: Platform;
  readonly #control: ControlClient;
  #nodes = 0;

  private constructor(options: PilotlightOptions, platform: Platform) {
    this.#options = options;
    this.#platform = platform;
    this.#control = controlClient({ url: platform.endpoints.controlUrl, timeoutMs: 30_000 });
  }

  /** Starts the control plane; there is no node. */
  static async open(options: PilotlightOptions): Promise<Pilotlight> {
    Object.assign(process.env, options.bucket.env);
    const platform = await startPlatform({
      stateDir: join(options.scratch, "platform"),
      usualPorts: false,
      bucket: { kind: "uri", uri: modelUri(options.bucket.address, "platform") },
      from: "bundle",
      workerImage: options.image,
      accelerators: 1,
      logLevel: "info",
      withoutNode: true,
    });
    return new Pilotlight(options, platform);
  }

  async close(): Promise<void> {
    await this.#platform.stop();
  }

  /**
   * Deploys a model by `pilotlight deploy` on a node that goes away afterwards: the image is converted, what its start reads is
   * learnt, and the application sleeps.
   */
  async deploy(name: string, weightBytes: number): Promise<Sleeping> {
    const file = join(this.#options.scratch, `${name}.yaml`);
    await writeFile(file, JSON.stringify(this.#application(name)));
    const application = { name, weightBytes };
    const directory = await mkdtemp(join(this.#options.scratch, "first-node-"));
    const node = await this.#startNode(directory, application);
    node.joins();
    try {
      const learnt = node.logged(({ msg }) => msg === "learnt from a start");
      const { code, stdout, stderr } = await runCli(this.#platform.endpoints.controlUrl, ["deploy", file]);
      if (code !== 0) throw new Error(`pilotlight deploy ended with ${code}:\n${stderr}${stdout}`);
      // Keeps the replica until its start was learnt from: nobody would need it otherwise.
      await this.#askOnceKnown(name);
      await untilApplication(
        this.#control,
        name,
        DEPLOY_TIMEOUT_MS,
        (detail) => detail.servingVersion !== null && detail.rollout?.endedAt !== null,
      );
      await Promise.race([learnt, late(LEARN_TIMEOUT_MS, "no start was learnt from")]);
      await this.#asleep(name);
    } finally {
      await node.stop();
      await rm(directory, { recursive: true, force: true });
    }
    return application;
  }

  /** Wakes it on a node that is ordered now, with its state in this folder. */
  async scaleUp(application: Sleeping, directory: string): Promise<OurStart> {
    const bus = await connectBus({
      url: this.#platform.endpoints.natsUrl,
      service: "bench",
      connectTimeoutMs: 5_000,
      streamReplicas: 1,
    });
    const decisions = tail(bus, filterOf(EVENTS.scaleDecided, { application: application.name }));
    let node: BenchNode | undefined;
    try {
      const wireBefore = await this.#options.wireBytes();
      const began = Date.now();
      const answer = this.#ask(application.name);
      answer.catch(() => {});
      const ordered = await firstWanted(decisions);
      node = await this.#startNode(directory, application);
      await sleep(ordered + this.#options.bootMs - Date.now());
      const booted = Date.now();
      node.joins();
      const logprob = await answer;
      const ended = Date.now();
      const wireBytes = (await this.#options.wireBytes()) - wireBefore;
      const fetched = await node.logged(({ msg }) => msg === "weights loaded");
      const fetching = await node.logged(({ msg }) => msg === "loading weights");
      const memoryReadyAt = node.said(({ msg }) => msg === "memory ready for the next load")?.at;
      const [waterfall] = await this.#control.waterfalls(application.name, 1);
      await this.#asleep(application.name);
      const spans = [
        ...chain(began, [
          ["a node is ordered", ordered],
          ["node boots", booted],
          ...replicaSteps(waterfall),
          ["answer", ended],
        ]),
        { what: "weights on the wire", from: fetching.at - began, to: fetched.at - began },
        ...(memoryReadyAt === undefined
          ? []
          : [{ what: "memory for them made ready", from: ordered - began, to: memoryReadyAt - began }]),
      ];
      return { ms: ended - began, logprob, spans, wireBytes };
    } finally {
      await decisions.close();
      await bus.close();
      await node?.stop();
    }
  }

  async #startNode(directory: string, { name, weightBytes }: Sleeping): Promise<BenchNode> {
    const { linked, bucket, memory } = this.#options;
    const { natsUrl, imageConverterAddress } = this.#platform.endpoints;
    return startNode({
      nodeId: `${name}-${++this.#nodes}`,
      directory,
      memory,
      natsUrl,
      imageConverterAddress,
      bucketUri: modelUri(linked, "platform"),
      env: bucket.env,
      weightBytes,
    });
  }

  #application(name: string): object {
    const { image, linked } = this.#options;
    const model = name.replace(/^bench-/, "");
    return {
      application: name,
      deployments: [
        {
          name: "model",
          image,
          model: { source: modelUri(linked, model), name, task: "chat" },
          engine: { kind: "embedded", ...ENGINE, tensorParallel: ranksOf(model) },
          resources: { accelerators: 1, memoryMb: 64 },
          autoscaling: {
            replicasMin: 0,
            replicasMax: 1,
            scaleDownDelayMs: SLEEP_AFTER_MS,
            scaleToZeroDelayMs: SLEEP_AFTER_MS,
          },
          rollout: { stepIntervalMs: 0, gates: { samplesMin: 1, unknownPassesAfterMs: 0 } },
          admission: { queueWaitMsMax: DEPLOY_TIMEOUT_MS },
          drainTimeoutMs: 2_000,
        },
      ],
    };
  }

  /** The gateway knows a model a moment after it was deployed. */
  async #askOnceKnown(model: string): Promise<void> {
    const deadline = Date.now() + KNOWN_TIMEOUT_MS;
    while ((await this.#completion(model)).status === 404) {
      if (Date.now() > deadline) throw new Error(`the gateway does not know ${model}`);
      await sleep(KNOWN_POLL_MS);
    }
  }

  /** One token; gives its log probability. */
  async #ask(model: string): Promise<number> {
    const response = await this.#completion(model);
    const body = (await response.json()) as {
      choices?: { logprobs: { token_logprobs: number[] } | null }[];
    };
    const logprob = body.choices?.[0]?.logprobs?.token_logprobs[0];
    if (logprob === undefined) throw new Error(`no token: ${response.status} ${JSON.stringify(body)}`);
    return logprob;
  }

  #completion(model: string): Promise<Response> {
    return fetch(`${this.#platform.endpoints.gatewayUrl}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model,
        prompt: PROMPT,
        max_tokens: 1,
        temperature: 0,
        ignore_eos: true,
        logprobs: 1,
      }),
    });
  }

  /** Waits until no replica is left. */
  async #asleep(name: string): Promise<void> {
    await untilApplication(this.#control, name, SLEEP_TIMEOUT_MS, ({ replicas }) =>
      replicas.every(({ phase }) => phase === "gone"),
    );
  }
}

async function late(ms: number, why: string): Promise<never> {
  await sleep(ms, undefined, { ref: false });
  throw new Error(`${why} within ${ms / 1000} s`);
}

/** When the autoscaler wants a replica. */
async function firstWanted(decisions: ReturnType<typeof tail>): Promise<number> {
  for await (const { payload } of decisions)
    if (fromBinary(ScaleDecidedSchema, payload).replicasWanted > 0) return Date.now();
  throw new Error("the bus was closed");
}

const STEPS: Partial<Record<Waterfall["phase"], string>> = {
  placed: "node joins, replica placed",
  imageUsable: "image mounted",
  processUp: "process up",
  firstByte: "first weights in the engine",
  lastByte: "last weights in the engine",
  engineReady: "engine ready",
  ready: "warm",
};

const replicaSteps = (waterfall: Waterfall | undefined): [string, number][] =>
  (waterfall?.rows ?? []).flatMap(({ phase, at }) => {
    const what = STEPS[phase];
    return what === undefined ? [] : [[what, at] as [string, number]];
  });
