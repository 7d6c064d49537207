export { buildRoutingTable, type RouteOptions, type RoutingTable, route } from "./table.ts";
export type { RoutableReplica, Route, VersionWeight } from "./types.ts";
