// How loads go where nobody says otherwise: the weight streamer's defaults, and what the command line's own loads use.
import type { FlightLimits } from "./flight.ts";

const MIB = 1024 ** 2;

export const DEFAULT_FLIGHT_LIMITS: FlightLimits = {
  chunkBytes: 8 * MIB,
  requestsInitial: 16,
  requestsMax: 64,
  chunkDeadlineMs: 30_000,
  chunkAttemptsMax: 5,
  retryDelayMs: 200,
  progressIntervalMs: 250,
  hedgeShareMax: 0.05,
  hedgeAfterMsMin: 250,
};
export const DEFAULT_CONNECT_TIMEOUT_MS = 10_000;
