// The weight streamer's domain: a node's weights, each byte fetched once, handed out tensor by tensor.
export { type DigestOptions, WeightCache, type WeightCacheOptions } from "./weight-cache.ts";
