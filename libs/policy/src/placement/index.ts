export { place } from "./place.ts";
export type {
  Placement,
  PlacementDevice,
  PlacementNode,
  PlacementRequest,
  PlacementStrategy,
} from "./types.ts";
