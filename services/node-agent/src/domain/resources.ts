// What the node has and what its replicas occupy. Accelerators are counted in thousandths, so that thirds of a device add
// up without rounding error.
import type { ReplicaAssignment } from "@pilotlight/contracts";

export type NodeCapacity = {
  /** `cpu`, `nvidia`, `nvidia-h100`, … */
  acceleratorKind: string;
  accelerators: number;
  memoryMib: number;
};

const THOUSANDTHS = 1000;
const thousandths = (accelerators: number): number => Math.round(accelerators * THOUSANDTHS);

/** Says why an assignment does not fit beside those that are held; undefined when it does. */
export function misfit(
  capacity: NodeCapacity,
  held: readonly ReplicaAssignment[],
  wanted: ReplicaAssignment,
): string | undefined {
  const memory = (of: ReplicaAssignment) => of.deployment?.resources?.memoryMib ?? 0;
  const memoryHeld = held.reduce((sum, one) => sum + memory(one), 0);
  if (memoryHeld + memory(wanted) > capacity.memoryMib)
    return `${memory(wanted)} MiB of memory wanted, ${capacity.memoryMib - memoryHeld} of ${capacity.memoryMib} free`;

  const accelerators = (of: ReplicaAssignment) => thousandths(of.deployment?.resources?.accelerators ?? 0);
  const total = capacity.accelerators * THOUSANDTHS;
  const used = held.reduce((sum, one) => sum + accelerators(one), 0);
  if (used + accelerators(wanted) > total)
    return `${accelerators(wanted) / THOUSANDTHS} accelerators wanted, ${(total - used) / THOUSANDTHS} of ${capacity.accelerators} free`;

  for (const device of wanted.deviceIndexes) {
    if (device >= capacity.accelerators)
      return `device ${device} wanted, the node has ${capacity.accelerators}`;
    const usedOfDevice = held.reduce((sum, one) => sum + shareOfDevice(one, device), 0);
    if (usedOfDevice + shareOfDevice(wanted, device) > THOUSANDTHS)
      return `${shareOfDevice(wanted, device) / THOUSANDTHS} of device ${device} wanted, ${(THOUSANDTHS - usedOfDevice) / THOUSANDTHS} free`;
  }
  return undefined;
}

/** A fraction shares one device; whole accelerators own theirs. */
function shareOfDevice(assignment: ReplicaAssignment, device: number): number {
  if (!assignment.deviceIndexes.includes(device)) return 0;
  return Math.min(THOUSANDTHS, thousandths(assignment.deployment?.resources?.accelerators ?? 0));
}
