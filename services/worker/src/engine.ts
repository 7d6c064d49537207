// What answers requests inside a replica, as the worker sees it: the embedded engine, or any HTTP server as a child process.
import type { ReplicaPhase } from "@pilotlight/contracts";
import type { PlatformError } from "@pilotlight/errors";

/** One request on its way through the engine. */
export type EngineCall = {
  requestId: string;
  /** Names the answer over all replicas that take part in it. */
  answerId: string;
  /** Whether the gateway asks for the tokens behind each part, to continue the answer elsewhere if it must. */
  wantsTokens: boolean;
  body: Readonly<Record<string, unknown>>;
  signal: AbortSignal;
};

export type Answer =
  | { kind: "whole"; status: number; contentType: string; body: Buffer | string }
  /** The first part may throw a PlatformError, which becomes the answer's status. */
  | { kind: "stream"; contentType: string; parts: AsyncIterator<Buffer | string> };

export type EngineLoad = {
  running: number;
  waiting: number;
  kvTokensUsed: number;
  kvTokensMax: number;
  promptTokensTotal: number;
  outputTokensTotal: number;
};

export interface ReplicaEngine {
  /** Requests that it takes at the same time; the gateway queues beyond. */
  readonly inFlightMax: number;
  /** Ready when it resolves: a token was produced. `mark` notes the phases on the way. */
  start(mark: (phase: ReplicaPhase) => void): Promise<void>;
  chat(call: EngineCall): Promise<Answer>;
  complete(call: EngineCall): Promise<Answer>;
  embed(call: EngineCall): Promise<Answer>;
  load(): EngineLoad;
  /** Called once if the engine ends although nobody stopped it. */
  onFailure(listener: (error: PlatformError) => void): void;
  /** Stops computing at a point from which `resume` goes on: what a snapshot of the process needs. */
  quiesce(): Promise<void>;
  resume(): Promise<void>;
  close(): Promise<void>;
}
