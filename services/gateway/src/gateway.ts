// The gateway as a whole: routes from the bus and from disk on one side, the OpenAI door on the other.
//
// Nothing on the way of a request needs the bus, a database or another service (I8): the bus only brings news.
import { randomInt } from "node:crypto";
import { hostname } from "node:os";
import { type Bus, connectBusInBackground, watchDocuments } from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { createRandom } from "@pilotlight/policy";
import { createHttpDoor, listen, type ServiceContext } from "@pilotlight/service";
import { gauge, logger } from "@pilotlight/telemetry";
import type { FastifyInstance } from "fastify";
import { ApiKeys, checkExposure } from "./adapters/api-keys.ts";
import { SnapshotFile } from "./adapters/snapshot-file.ts";
import { Upstreams } from "./adapters/upstream.ts";
import type { GatewayConfig } from "./config.ts";
import { Fleet } from "./domain/fleet.ts";
import { LoadBook } from "./domain/load.ts";
import type { Exchange } from "./forward/exchange.ts";
import { type ForwardPorts, forward } from "./forward/forwarder.ts";
import { addInferenceRoutes } from "./handlers/inference.ts";
import { addModelRoutes } from "./handlers/models.ts";
import { answerErrorsAsOpenAi } from "./handlers/openai-errors.ts";
import { addRootRoutes } from "./handlers/root.ts";
import { LoadSampler } from "./publish/load-sampler.ts";
import { createRecorder } from "./publish/request-record.ts";

/** Left of the stop's time when open requests are told that they cannot end. */
const STOP_MARGIN_MS = 1_000;
const IDLE_SWEEP_MS = 100;

/** Starts the gateway; gives the URL of its door. */
export async function startGateway(
  context: ServiceContext<GatewayConfig & { stopTimeoutMs: number }>,
): Promise<string> {
  const { config } = context;
  checkExposure(config.httpHost, config.apiKeysFile !== "", config.allowOpenAccess);
  const keys = config.apiKeysFile === "" ? null : new ApiKeys(config.apiKeysFile);
  context.onStop("keys", () => keys?.close());
  const fleet = createFleet(config);
  const upstreams = new Upstreams(config.connectTimeoutMs);
  fleet.onGone((replica) => upstreams.forget(replica));
  context.onStop("upstreams", () => upstreams.close());
  const routes = await followRoutes(context, fleet);
  const book = new LoadBook();
  const sampler = new LoadSampler(fleet, book, routes.bus, { ...config, gatewayId: gatewayIdOf(config) });
  const record = createRecorder({ ...config, book, bus: routes.bus });
  const active = new Set<Exchange>();
  observe(fleet, active);
  const ports: ForwardPorts = {
    upstreams,
    limits: config,
    onAttempt(exchange) {
      if (exchange.attempts === 1) book.assigned(exchange.endpoint, exchange.replica?.versionNumber ?? 0);
    },
    onFailedAttempt(exchange, error) {
      const { attempts, replica } = exchange;
      logger("forward").warn("attempt failed", { replicaId: replica?.replicaId, attempts, error });
    },
  };
  const app = createHttpDoor(config);
  await app.register(async (api) => {
    answerErrorsAsOpenAi(api);
    addModelRoutes(api, { fleet, keys });
    addInferenceRoutes(api, {
      fleet,
      keys,
      clientStallTimeoutMs: config.clientStallTimeoutMs,
      knowsRoutes: routes.known,
      async serve(exchange) {
        active.add(exchange);
        sampler.nudge();
        await forward(exchange, ports);
        active.delete(exchange);
        record(exchange);
      },
    });
  });
  addRootRoutes(app, fleet);
  const url = await listen(app, { name: "gateway", host: config.httpHost, port: config.httpPort });
  sampler.start();
  context.onStop("load", () => sampler.stop());
  context.onStop("door", () => closeDoor(app, active, config.stopTimeoutMs - STOP_MARGIN_MS));
  context.log.info("serving", { url, gatewayId: gatewayIdOf(config), models: fleet.models().length });
  return url;
}

const gatewayIdOf = ({ gatewayId, httpPort }: GatewayConfig): string =>
  gatewayId || `${hostname().replace(/[^A-Za-z0-9_-]/g, "-")}-${httpPort}`;

function createFleet(config: GatewayConfig): Fleet {
  return new Fleet({
    random: createRandom(randomInt(2 ** 32)),
    ejectMsMin: config.ejectMsMin,
    ejectMsMax: config.ejectMsMax,
    inFlightPerReplicaMax: config.inFlightPerReplicaMax,
    limits: {
      queueLengthMax: config.queueLengthMax,
      queueWaitMsMax: config.queueTimeoutMs,
      continuationsMax: config.continuationsMax,
      continuationWaitMsMax: config.continuationTimeoutMs,
    },
  });
}

/** Fills the fleet: at once from disk, then from the bus, and keeps what it learns on disk. */
async function followRoutes(
  context: ServiceContext<GatewayConfig>,
  fleet: Fleet,
): Promise<{ bus: () => Bus | undefined; known: () => boolean }> {
  const file = new SnapshotFile(context.config.stateDir, () => fleet.documents());
  const left = await file.load();
  for (const traffic of left?.traffic ?? []) fleet.applyTraffic(traffic);
  for (const status of left?.replicas ?? []) fleet.applyReplica(status);
  let bus: Bus | undefined;
  let isCurrent = false;
  connectBusInBackground(context, "gateway", async (connected) => {
    const seen = new Set<string>();
    const traffic = await watchDocuments(connected, EVENTS.trafficSet, {}, (message) =>
      fleet.applyTraffic(message),
    );
    const replicas = await watchDocuments(connected, EVENTS.replicaReported, {}, ({ status }) => {
      if (status === undefined) return;
      if (!isCurrent) seen.add(status.replicaId);
      fleet.applyReplica(status);
    });
    await Promise.all([traffic.current, replicas.current]);
    // An empty bus has lost its memory, which says nothing about replicas that serve.
    if (seen.size > 0) fleet.keepOnly(seen);
    isCurrent = true;
    bus = connected;
    context.log.info("routes are current", { models: fleet.models().length });
  });
  fleet.onChange(() => file.changed());
  context.onStop("routes", () => file.flush());
  const known = () => isCurrent || !fleet.isEmpty;
  context.addReadiness("routes", () =>
    known() ? undefined : "no routes yet: neither from the bus nor from the last run",
  );
  return { bus: () => bus, known };
}

/** Takes no new connections and lets open requests end; those that do not in time are told. */
async function closeDoor(app: FastifyInstance, active: Set<Exchange>, patienceMs: number): Promise<void> {
  // Connections whose last request ends now would otherwise stay open for the client's next one.
  const sweep = setInterval(() => app.server.closeIdleConnections(), IDLE_SWEEP_MS);
  const error = new PlatformError("unavailable", "the gateway stops before this answer could end", {
    retryAfterMs: 1_000,
    remedy: "Send the request again.",
  });
  const giveUp = setTimeout(() => {
    for (const exchange of active) exchange.stop(error);
  }, patienceMs);
  await app.close();
  clearTimeout(giveUp);
  clearInterval(sweep);
}

function observe(fleet: Fleet, active: ReadonlySet<Exchange>): void {
  gauge({
    name: "pilotlight_gateway_open_requests",
    help: "Requests that are not over.",
    collect() {
      this.set(active.size);
    },
  });
  gauge({
    name: "pilotlight_gateway_queued_requests",
    help: "Requests that wait for a replica.",
    labelNames: ["application", "deployment"],
    collect() {
      this.reset();
      for (const { application, deployment, queued } of fleet.endpoints())
        this.inc({ application, deployment }, queued);
    },
  });
}
