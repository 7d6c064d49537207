// Which other nodes of a zone have what: weights, images. Knows neither the bus nor what is held.
export {
  DEFAULT_PEER_REPEAT_INTERVAL_MS,
  type Held,
  joinPeers,
  type Peers,
  type PeersPorts,
} from "./join-peers.ts";
export { ownerOf } from "./owner.ts";
export type { Peer } from "./peer-table.ts";
