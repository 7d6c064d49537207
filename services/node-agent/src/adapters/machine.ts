// What this machine offers to replicas: as configured, else as found.
import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { detectCapacity } from "@pilotlight/compute";
import { PlatformError } from "@pilotlight/errors";
import type { NodeCapacity } from "../domain/resources.ts";

export type MachineSettings = {
  nodeId: string;
  acceleratorKind: string;
  accelerators: number;
  memoryMib: number;
  memoryReservedMib: number;
  segmentDirs: readonly string[];
};

/** Slots of a machine without accelerators. */
const CPU_SLOTS = 4;

/** The node's capacity. Throws `invalidArgument` when more devices are configured than there are. */
export function capacityOf(settings: MachineSettings): NodeCapacity {
  const machine = detectCapacity();
  const acceleratorKind = settings.acceleratorKind || (machine.nvidiaDevices > 0 ? "nvidia" : "cpu");
  const isNvidia = acceleratorKind.startsWith("nvidia");
  const accelerators = settings.accelerators || (isNvidia ? machine.nvidiaDevices : CPU_SLOTS);
  if (isNvidia && accelerators > machine.nvidiaDevices) {
    const found = `${machine.nvidiaDevices} found`;
    throw new PlatformError("invalidArgument", `${accelerators} of ${acceleratorKind} configured, ${found}`, {
      field: "accelerators",
      remedy: "Lower ACCELERATORS, or check the driver (nvidia-smi).",
    });
  }
  const memoryMib = settings.memoryMib || Math.max(0, machine.memoryMib - settings.memoryReservedMib);
  return { acceleratorKind, accelerators, memoryMib };
}

/** Where the weight streamer of this node keeps its segments; the default is the weight streamer's own. */
export const segmentDirsOf = ({ segmentDirs, nodeId }: MachineSettings): string[] =>
  segmentDirs.length > 0
    ? segmentDirs.map((directory) => resolve(directory))
    : [`/dev/shm/pilotlight-${process.getuid?.() ?? 0}-${nodeId}`];

/** Device nodes of accelerators. */
export const acceleratorDevices = (): string[] =>
  readdirSync("/dev")
    .filter((name) => name.startsWith("nvidia"))
    .map((name) => join("/dev", name));
