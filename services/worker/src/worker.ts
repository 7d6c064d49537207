// One replica from its start to its end: attach, load, become ready, serve, drain.
//
//   W1. Ready means that a token was produced.
//   W2. Once ready, requests need nothing but this process: agent, streamer and bus may come and go (I8).
//   W3. A replica that was told to drain takes nothing new, and ends when its streams have ended or the deadline has passed;
//       streams that are cut then are told so, and go on elsewhere (I2).
import { type Bus, connectBusInBackground } from "@pilotlight/bus";
import { ReplicaPhase } from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { toOpenAiError } from "@pilotlight/openai";
import { advertisedUrl, createHttpDoor, listen, type ServiceContext } from "@pilotlight/service";
import { startLoadSampler } from "./adapters/load-sampler.ts";
import { Reports, wireMarks } from "./adapters/reports.ts";
import { type Assignment, modelNameOf } from "./assignment.ts";
import type { WorkerConfig } from "./config.ts";
import { createReplicaEngine } from "./create-engine.ts";
import { Life } from "./domain/life.ts";
import { OpenRequests } from "./domain/open-requests.ts";
import type { ReplicaEngine } from "./engine.ts";
import { addInferenceRoutes } from "./handlers/inference.ts";
import { addStateRoutes } from "./handlers/state.ts";

type Context = ServiceContext<WorkerConfig & { stopTimeoutMs: number }>;

/** Left of a stop's time when open requests are cut. */
const STOP_MARGIN_MS = 2_000;
const LAST_REPORT_TIMEOUT_MS = 2_000;
/** For cut requests to be told so. */
const CUT_GRACE_MS = 1_000;

export type WorkerPorts = {
  /** For an engine that is a child process. */
  childEnvironment: Readonly<NodeJS.ProcessEnv>;
  /** Ends the process gracefully. */
  end: () => void;
};

type Replica = { life: Life; open: OpenRequests; engine: ReplicaEngine | null; endpoint: string };

/** Starts the replica; resolves with the URL of its door once it is ready. A failure is told to the node agent first. */
export async function startWorker(
  context: Context,
  assignment: Assignment,
  ports: WorkerPorts,
): Promise<string> {
  const { config, log } = context;
  const replica: Replica = {
    life: new Life(Date.now()),
    open: new OpenRequests(),
    engine: null,
    endpoint: "",
  };
  const { life } = replica;
  const reports = startReports(context, assignment, replica, ports.end);
  try {
    const engine = await createReplicaEngine(assignment, {
      ...config,
      childEnvironment: ports.childEnvironment,
    });
    replica.engine = engine;
    context.onStop("engine", () => engine.close());
    // The engine does not wait for the door, nor the door for the weights.
    const started = engine.start((phase) => life.enter(phase, Date.now()));
    started.catch(() => {});
    replica.endpoint = await openDoor(context, assignment, replica, engine);
    reports.changed();
    await started;
    engine.onFailure((error) => void reportFailure(reports, life, error).then(context.fail));
    followBus(context, assignment, engine);
  } catch (thrown) {
    throw await reportFailure(reports, life, toPlatformError(thrown));
  }
  life.enter(ReplicaPhase.READY, Date.now());
  if (life.takesRequests)
    log.info("replica ready", { endpoint: replica.endpoint, startMs: Date.now() - (life.marks[0]?.at ?? 0) });
  return replica.endpoint;
}

/** Opens the replica's door; until it is ready it says that it is starting. */
async function openDoor(
  context: Context,
  assignment: Assignment,
  { life, open }: Replica,
  engine: ReplicaEngine,
): Promise<string> {
  const { config } = context;
  const app = createHttpDoor({ ...config, errorBody: (error) => toOpenAiError(error).body });
  addInferenceRoutes(app, { engine, life, open, clientStallTimeoutMs: config.clientStallTimeoutMs });
  addStateRoutes(app, {
    life,
    open,
    modelName: modelNameOf(assignment),
    application: assignment.application,
  });
  const listening = await listen(app, { name: "worker", host: config.httpHost, port: config.httpPort });
  context.addReadiness("engine", () =>
    life.takesRequests ? undefined : ReplicaPhase[life.phase].toLowerCase(),
  );
  context.onStop("door", async () => {
    await drain(life, open, Date.now() + config.stopTimeoutMs - STOP_MARGIN_MS);
    app.server.closeAllConnections();
    await app.close();
  });
  return advertisedUrl(listening, config.advertisedHost);
}

function startReports(
  context: Context,
  { replicaId }: Assignment,
  replica: Replica,
  end: () => void,
): Reports {
  const { config } = context;
  const { life, open } = replica;
  const reports = new Reports(
    { ...config, replicaId, token: config.replicaToken },
    () => ({
      phase: life.phase,
      marks: wireMarks(life.marks),
      endpoint: replica.endpoint,
      inFlightMax: replica.engine?.inFlightMax ?? 0,
      inFlight: open.size,
      ...(life.failure === null ? {} : { failure: failureOf(life.failure) }),
    }),
    (deadlineAt) => {
      if (life.isDraining) return;
      context.log.info("draining", { inFlight: open.size, deadline: new Date(deadlineAt).toISOString() });
      void drain(life, open, deadlineAt).then(end);
    },
  );
  life.onChange(() => reports.changed());
  context.onStop("reports", () => reports.finish(LAST_REPORT_TIMEOUT_MS));
  reports.start();
  return reports;
}

const failureOf = (error: PlatformError) => ({
  code: error.code,
  message: error.message,
  remedy: error.remedy ?? "",
});

/** Tells the node agent why the replica ends; gives the error back. */
async function reportFailure(reports: Reports, life: Life, error: PlatformError): Promise<PlatformError> {
  life.fail(error);
  await reports.finish(LAST_REPORT_TIMEOUT_MS);
  return error;
}

/** Takes nothing new, waits for open requests until the deadline, then cuts them. Asked again, it joins the first. */
async function drain(life: Life, open: OpenRequests, deadlineAt: number): Promise<void> {
  life.enter(ReplicaPhase.DRAINING, Date.now());
  await within(open.empty(), deadlineAt - Date.now());
  open.cut(
    new PlatformError("unavailable", "the replica's time to drain is over", {
      remedy: "Send the request again.",
      retryAfterMs: 1,
    }),
  );
  await within(open.empty(), CUT_GRACE_MS);
}

/** Waits for something, but not longer. */
async function within(something: Promise<void>, limitMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.max(0, limitMs));
  });
  await Promise.race([something, late]);
  clearTimeout(timer);
}

function followBus(context: Context, assignment: Assignment, engine: ReplicaEngine): void {
  let bus: Bus | undefined;
  connectBusInBackground(context, "worker", async (connected) => {
    bus = connected;
  });
  const stop = startLoadSampler(
    assignment,
    () => engine.load(),
    () => bus,
    context.config,
  );
  context.onStop("load", stop);
}
