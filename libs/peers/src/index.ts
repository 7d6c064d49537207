// Which other nodes of a zone have what: weights, images. Knows neither the bus nor what is held.
export { type Held, joinPeers, type Peers, type PeersPorts } from "./join-peers.ts";
export { ownerOf } from "./owner.ts";
export type { Peer } from "./peer-table.ts";
