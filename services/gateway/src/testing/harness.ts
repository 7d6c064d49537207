// A gateway inside the test's process, on a real bus, with documents as rollout and node agents say them.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bus, connectBus, publish } from "@pilotlight/bus";
import type { MessageInitShape } from "@pilotlight/contracts";
import {
  type DeploymentSpecSchema,
  EVENTS,
  type GoneReason,
  ModelTask,
  ReplicaPhase,
} from "@pilotlight/contracts";
import { loadConfig, type ServiceContext } from "@pilotlight/service";
import { logger, registry, startTracing } from "@pilotlight/telemetry";
import { type GatewayConfig, config as schema } from "../config.ts";
import { startGateway } from "../gateway.ts";

export type GatewayHandle = {
  readonly url: string;
  readonly stateDir: string;
  stop(): Promise<void>;
};

type Settings = Partial<GatewayConfig> & { stopTimeoutMs?: number };

/** Starts a gateway; `natsUrl` and whatever the test wants otherwise than the default. */
export async function startTestGateway(settings: Settings & { natsUrl: string }): Promise<GatewayHandle> {
  registry.clear();
  const ownDir =
    settings.stateDir === undefined ? await mkdtemp(join(tmpdir(), "pilotlight-gateway-")) : null;
  const stateDir = settings.stateDir ?? ownDir ?? "";
  const stopper = new AbortController();
  const stops: (() => Promise<unknown> | unknown)[] = [];
  const defaults = loadConfig(schema, { STATE_DIR: stateDir, HTTP_PORT: "0" });
  const context: ServiceContext<typeof defaults> = {
    config: { ...defaults, ...settings, stateDir },
    log: logger("main"),
    stopping: stopper.signal,
    onStop: (_, stop) => void stops.push(stop),
    addReadiness: () => {},
    fail: (error) => {
      throw error;
    },
  };
  stops.push(await startTracing({ service: "gateway", otlpUrl: "" }));
  const url = await startGateway(context).catch(async (error: unknown) => {
    for (const stop of stops.splice(0).reverse()) await stop();
    throw error;
  });
  return {
    url,
    stateDir,
    async stop() {
      stopper.abort();
      for (const stop of stops.splice(0).reverse()) await stop();
      if (ownDir !== null) await rm(ownDir, { recursive: true, force: true });
    },
  };
}

type DeploymentInit = Extract<MessageInitShape<typeof DeploymentSpecSchema>, { $typeName?: undefined }>;

/** A deployment of the embedded engine, with whatever the test wants otherwise. */
export const deployment = (init: DeploymentInit = {}): DeploymentInit => ({
  name: "chat",
  model: { source: "bucket://models/test", name: "test-model", task: ModelTask.CHAT },
  engine: { kind: { case: "embedded", value: { dtype: "bf16" } } },
  ...init,
});

/** Says documents as the other services do. */
export class World {
  readonly bus: Bus;
  readonly application: string;
  #generation = 0n;

  constructor(bus: Bus, application: string) {
    this.bus = bus;
    this.application = application;
  }

  static async connect(natsUrl: string, application: string): Promise<World> {
    const bus = await connectBus({
      url: natsUrl,
      service: "world",
      connectTimeoutMs: 10_000,
      streamReplicas: 1,
    });
    return new World(bus, application);
  }

  /** Sets the traffic: version → weight, all with the same deployment. */
  traffic(weights: Record<number, number>, one: DeploymentInit = deployment()): Promise<void> {
    return this.trafficOf(
      Object.entries(weights).map(([version, weight]) => ({ version: Number(version), weight, one })),
    );
  }

  /** Sets the traffic of versions with deployments of their own. */
  async trafficOf(versions: { version: number; weight: number; one: DeploymentInit }[]): Promise<void> {
    await publish(this.bus, EVENTS.trafficSet, {
      application: this.application,
      generation: ++this.#generation,
      weights: versions.map(({ version, weight, one }) => ({
        version,
        weight,
        spec: { application: this.application, deployments: [one] },
      })),
    });
  }

  async replica(
    replicaId: string,
    endpoint: string,
    state: {
      version?: number;
      deployment?: string;
      phase?: ReplicaPhase;
      inFlightMax?: number;
      goneReason?: GoneReason;
      failure?: string;
    } = {},
  ): Promise<void> {
    await publish(this.bus, EVENTS.replicaReported, {
      status: {
        replicaId,
        endpoint,
        application: this.application,
        version: state.version ?? 1,
        deployment: state.deployment ?? "chat",
        nodeId: "node",
        phase: state.phase ?? ReplicaPhase.READY,
        inFlightMax: state.inFlightMax ?? 0,
        ...(state.goneReason === undefined ? {} : { goneReason: state.goneReason }),
        ...(state.failure === undefined
          ? {}
          : { failure: { code: "internal", message: state.failure, remedy: "" } }),
      },
    });
  }

  close(): Promise<void> {
    return this.bus.close();
  }
}

/** Waits until something is so. */
export async function until(
  what: string,
  holds: () => Promise<boolean> | boolean,
  limitMs = 10_000,
): Promise<void> {
  const end = Date.now() + limitMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`waited ${limitMs} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
