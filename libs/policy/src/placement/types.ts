// What placement sees: what a replica needs, and what each node has left.

export type PlacementRequest = {
  /** Part of one device (0.01–0.99), whole devices (1, 2, …), or 0 for the CPU only. */
  accelerators: number;
  memoryMb: number;
  /** Device kind that is needed; null takes any. */
  acceleratorKind: string | null;
  /** Nodes that were tried and failed lately, to be avoided if another one fits. */
  avoidNodeIds: readonly string[];
};

export type PlacementDevice = {
  /** Index on its node, as the node numbers them. */
  index: number;
  kind: string;
  /** What is not yet given away, 0–1. */
  free: number;
};

export type PlacementNode = {
  nodeId: string;
  /** Only ready nodes take replicas; cordoned and draining ones keep what they have, lost ones have nothing. */
  phase: "ready" | "cordoned" | "draining" | "lost";
  devices: readonly PlacementDevice[];
  memoryFreeMb: number;
  /** Replicas of the same deployment that are here already, for `spread`. */
  siblings: number;
};

/** `pack` fills nodes to leave others whole; `spread` keeps replicas of one deployment apart. */
export type PlacementStrategy = "pack" | "spread";

export type Placement =
  | { kind: "placed"; nodeId: string; devices: { index: number; share: number }[] }
  | { kind: "unplaceable"; why: string };
