// Where a replica goes: the best fitting node, deterministically.
//
//   P1. Only ready nodes are taken.
//   P2. A fraction never spans devices, and a whole device is given away only when nothing is on it.
//   P3. Work without accelerators stays off nodes with accelerators while another node fits.
//
// Shares are counted in hundredths, as integers, so that ten times 0.1 is one device.
import type { Placement, PlacementNode, PlacementRequest, PlacementStrategy } from "./types.ts";

const DEVICE = 100;
const hundredths = (share: number) => Math.round(share * DEVICE);

type Fit = { node: PlacementNode; devices: { index: number; share: number }[]; scores: number[] };
type Misfit = "not ready" | "out of memory" | "without the kind of accelerator" | "out of accelerators";

/** Chooses a node and its devices for one replica. `unplaceable` says what is missing, in words. */
export function place(
  request: PlacementRequest,
  nodes: readonly PlacementNode[],
  strategy: PlacementStrategy,
): Placement {
  let best: Fit | null = null;
  const misfits = new Map<Misfit, number>();
  for (const node of nodes) {
    const fit = tryNode(request, node, strategy);
    if (typeof fit === "string") misfits.set(fit, (misfits.get(fit) ?? 0) + 1);
    else if (best === null || isBetter(fit, best)) best = fit;
  }
  if (best !== null) return { kind: "placed", nodeId: best.node.nodeId, devices: best.devices };
  return { kind: "unplaceable", why: explain(request, nodes.length, misfits) };
}

function tryNode(request: PlacementRequest, node: PlacementNode, strategy: PlacementStrategy): Fit | Misfit {
  if (node.phase !== "ready") return "not ready";
  if (node.memoryFreeMb < request.memoryMb) return "out of memory";
  const devices = chooseDevices(request, node);
  if (typeof devices === "string") return devices;
  const freeAfter =
    node.devices.reduce((sum, device) => sum + hundredths(device.free), 0) - hundredths(request.accelerators);
  const scores = [
    request.avoidNodeIds.includes(node.nodeId) ? 1 : 0,
    request.accelerators === 0 && node.devices.length > 0 ? 1 : 0,
    strategy === "spread" ? node.siblings : 0,
    devices.some(({ index, share }) => share < 1 && wholeDevice(node, index)) ? 1 : 0,
    strategy === "spread" ? -freeAfter : freeAfter,
    strategy === "spread" ? -node.memoryFreeMb : node.memoryFreeMb,
  ];
  return { node, devices, scores };
}

function chooseDevices(
  request: PlacementRequest,
  node: PlacementNode,
): { index: number; share: number }[] | Misfit {
  const need = hundredths(request.accelerators);
  if (need === 0) return [];
  const kind = request.acceleratorKind;
  const able = node.devices.filter((device) => kind === null || device.kind === kind);
  if (able.length === 0) return "without the kind of accelerator";
  if (need < DEVICE) {
    // Best fit: the fullest device that still has room, so that whole devices stay whole.
    const fitting = able.filter((device) => hundredths(device.free) >= need);
    const chosen = fitting.toSorted((a, b) => a.free - b.free || a.index - b.index)[0];
    return chosen === undefined
      ? "out of accelerators"
      : [{ index: chosen.index, share: request.accelerators }];
  }
  const count = Math.ceil(need / DEVICE);
  const whole = able.filter((device) => hundredths(device.free) === DEVICE).sort((a, b) => a.index - b.index);
  if (whole.length < count) return "out of accelerators";
  return whole.slice(0, count).map((device) => ({ index: device.index, share: 1 }));
}

const wholeDevice = (node: PlacementNode, index: number) =>
  node.devices.some((device) => device.index === index && hundredths(device.free) === DEVICE);

/** Lower scores win, earlier ones count first; the node's name breaks ties, so the answer never depends on order. */
function isBetter(a: Fit, b: Fit): boolean {
  for (let i = 0; i < a.scores.length; i++) {
    const difference = (a.scores[i] ?? 0) - (b.scores[i] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return a.node.nodeId < b.node.nodeId;
}

function explain(request: PlacementRequest, nodes: number, misfits: ReadonlyMap<Misfit, number>): string {
  const kind = request.acceleratorKind === null ? "" : ` ${request.acceleratorKind}`;
  const need = `${request.accelerators}${kind} accelerators and ${request.memoryMb} MiB of memory`;
  if (nodes === 0) return `${need} needed, but there is no node`;
  const parts = [...misfits].sort(([a], [b]) => (a < b ? -1 : 1)).map(([what, count]) => `${count} ${what}`);
  return `${need} needed; of ${nodes} nodes: ${parts.join(", ")}`;
}
