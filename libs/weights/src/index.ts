// A load of a safetensors repository, from the store to tensors that can be mapped. The weight streamer keeps and shares
// what is loaded; the command line loads once.

export { knownSha256, segmentSha256 } from "./background-digest.ts";
export { ConvertedLayout } from "./converted.ts";
export { DEFAULT_CONNECT_TIMEOUT_MS, DEFAULT_FLIGHT_LIMITS } from "./default-limits.ts";
export type { WeightsEvent } from "./events.ts";
export { Flight, type FlightLimits, type FlightStats } from "./flight.ts";
export { parseTarget, type TargetDtype } from "./floats.ts";
export { type OpenedReader, openRangeReader } from "./open-range-reader.ts";
export { orderedNames, Sequence } from "./order.ts";
export { createPeerReader, NODE_HEADER, peerPath } from "./peer-reader.ts";
export type { PlaceUsage, RangeReader, Segment, SegmentMaker, SegmentSet } from "./ports.ts";
export { readRange } from "./range-reader.ts";
export { type Group, type RankView, rankView } from "./rank.ts";
export type { Relay } from "./relay.ts";
export { fingerprint, listObjects, type Repository, readRepository, type WeightFile } from "./repository.ts";
export { isAbandoned, openSegmentFiles, type SegmentFilesOptions } from "./segment-files.ts";
export type { SpareSource } from "./spare-memory.ts";
export { type VerifiedFile, verifyWeights } from "./verify.ts";
