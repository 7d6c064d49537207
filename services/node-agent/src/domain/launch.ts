// What a replica's process is given: variables, folders, devices.
import { PlatformError } from "@pilotlight/errors";
import type { Replica } from "./replica.ts";

export type LaunchSettings = {
  nodeAgentAddress: string;
  weightStreamerAddress: string;
  natsUrl: string;
  workerHttpHost: string;
  workerAdvertisedHost: string;
  logLevel: string;
};

/** The image reference that stands for the platform's own worker. */
const WORKER_REFERENCE = "pilotlight://worker";

/** The reference that the image converter is asked for. */
export function imageReferenceOf(replica: Replica, workerImage: string): string {
  const wanted = replica.assignment.deployment?.image ?? "";
  if (wanted !== WORKER_REFERENCE) return wanted;
  if (workerImage !== "") return workerImage;
  throw new PlatformError("preconditionFailed", `${WORKER_REFERENCE} stands for no image on this node`, {
    field: "workerImage",
    remedy: "Set WORKER_IMAGE of the node agent to the reference of the worker's image.",
  });
}

/** The environment beside the image's own. The deployment cannot override what the platform sets. */
export function environmentOf(
  replica: Replica,
  assignmentFile: string,
  acceleratorKind: string,
  compileCache: Readonly<Record<string, string>>,
  settings: LaunchSettings,
): Record<string, string> {
  const devices = replica.assignment.deviceIndexes;
  return {
    ...replica.assignment.deployment?.environment,
    ...compileCache,
    ...(isNvidia(acceleratorKind) ? { CUDA_VISIBLE_DEVICES: devices.join(",") } : {}),
    ASSIGNMENT_FILE: assignmentFile,
    REPLICA_TOKEN: replica.token,
    NODE_AGENT_ADDRESS: settings.nodeAgentAddress,
    WEIGHT_STREAMER_ADDRESS: settings.weightStreamerAddress,
    NATS_URL: settings.natsUrl,
    HTTP_HOST: settings.workerHttpHost,
    ADVERTISED_HOST: settings.workerAdvertisedHost,
    HTTP_PORT: "0",
    LOG_LEVEL: settings.logLevel,
  };
}

/** Device nodes that the replica may use, of those that the host has. */
export function devicesOf(
  replica: Replica,
  acceleratorKind: string,
  hostDevices: readonly string[],
): string[] {
  if (!isNvidia(acceleratorKind)) return [];
  const own = new Set(replica.assignment.deviceIndexes.map((index) => `/dev/nvidia${index}`));
  return hostDevices.filter((path) =>
    /^\/dev\/nvidia\d+$/.test(path) ? own.has(path) : path.startsWith("/dev/nvidia"),
  );
}

const isNvidia = (kind: string): boolean => kind.startsWith("nvidia");
