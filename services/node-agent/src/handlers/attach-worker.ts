// A worker reports, the agent commands. The stream says nothing about life or death (an agent may restart, a worker may
// reconnect): that is the process's own.
import {
  type AttachWorkerRequest,
  type AttachWorkerResponseSchema,
  type MessageInitShape,
  timestampFromMs,
  timestampMs,
} from "@pilotlight/contracts";
import { ERROR_CODES, type ErrorCode } from "@pilotlight/errors";
import type { CallContext } from "@pilotlight/service";
import type { WorkerReport } from "../domain/replica.ts";
import type { ReplicaRunner } from "../replica-runner.ts";
import type { Replicas } from "../replicas.ts";

/** Serves one worker until either side ends the stream. Throws `unauthenticated` for a stranger. */
export async function* attachWorker(
  requests: AsyncIterable<AttachWorkerRequest>,
  call: CallContext,
  replicas: Replicas,
): AsyncGenerator<MessageInitShape<typeof AttachWorkerResponseSchema>> {
  const reports = requests[Symbol.asyncIterator]();
  const first = await reports.next();
  if (first.done) return;
  const runner = replicas.authenticate(first.value.replicaId, first.value.token);
  const commands = runner.attach();
  call.signal.addEventListener("abort", () => commands.end(), { once: true });
  const reading = readReports(runner, first.value, reports).finally(() => commands.end());
  try {
    for await (const command of commands)
      yield { command: { case: command.kind, value: { deadline: timestampFromMs(command.deadlineAt) } } };
    await reading;
  } finally {
    reading.catch(() => {}); // a broken stream: the worker comes back
  }
}

async function readReports(
  runner: ReplicaRunner,
  first: AttachWorkerRequest,
  rest: AsyncIterator<AttachWorkerRequest>,
): Promise<void> {
  for (let request = first; ; ) {
    await runner.send({ kind: "reported", report: reportOf(request) });
    const next = await rest.next();
    if (next.done) return;
    request = next.value;
  }
}

function reportOf(request: AttachWorkerRequest): WorkerReport {
  const { failure } = request;
  return {
    phase: request.phase,
    marks: request.marks.map(({ phase, at }) => ({
      phase,
      at: at === undefined ? Date.now() : timestampMs(at),
    })),
    endpoint: request.endpoint,
    inFlightMax: request.inFlightMax,
    ...(failure === undefined
      ? {}
      : { failure: { code: codeOf(failure.code), message: failure.message, remedy: failure.remedy } }),
  };
}

/** A worker of another version may know codes that this agent does not. */
const codeOf = (code: string): ErrorCode => (code in ERROR_CODES ? (code as ErrorCode) : "internal");
