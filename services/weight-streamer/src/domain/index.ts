// The weight streamer's domain: a node's weights, each byte fetched once, handed out tensor by tensor.
export type { TensorReady, WeightsEvent } from "./events.ts";
export type { FlightLimits } from "./flight.ts";
export type { RangeReader, RangeRequest, Segment, SegmentSet } from "./ports.ts";
export { readRange } from "./range-reader.ts";
export {
  type HeldWeights,
  type Lease,
  type SegmentMaker,
  WeightCache,
  type WeightCacheOptions,
} from "./weight-cache.ts";
