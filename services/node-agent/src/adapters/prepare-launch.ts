// What a replica's process finds when it starts: its assignment as a file in its folder, its variables, folders, devices.
import { existsSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Backend, Launch } from "@pilotlight/compute";
import { ReplicaAssignmentSchema, toJson } from "@pilotlight/contracts";
import { devicesOf, environmentOf, type LaunchSettings } from "../domain/launch.ts";
import type { Replica } from "../domain/replica.ts";
import { STDERR_FILE, STDOUT_FILE } from "../logs/sources.ts";
import { acceleratorDevices } from "./machine.ts";

const ASSIGNMENT_FILE = "assignment.json";

/** How names are found is the node's matter, not the image's: every container runtime hands these in. */
const NAME_SERVICE_FILES = ["/etc/resolv.conf", "/etc/hosts"].filter((path) => existsSync(path));

/** Where the replica's engine keeps what it compiles, and the variables that tell it. */
export type CacheFolders = { folder: string; environment: Readonly<Record<string, string>> };

/** Writes the assignment and says how the process is started. */
export async function prepareLaunch(
  replica: Replica,
  backend: Backend,
  acceleratorKind: string,
  segmentDirs: readonly string[],
  compileCache: CacheFolders | undefined,
  settings: LaunchSettings,
): Promise<Launch> {
  const folder = backend.folder(replica.assignment.replicaId);
  const assignmentFile = join(folder, ASSIGNMENT_FILE);
  await writeFile(
    `${assignmentFile}.new`,
    JSON.stringify(toJson(ReplicaAssignmentSchema, replica.assignment)),
  );
  await rename(`${assignmentFile}.new`, assignmentFile);
  return {
    environment: environmentOf(
      replica,
      assignmentFile,
      acceleratorKind,
      compileCache?.environment ?? {},
      settings,
    ),
    binds: [
      ...[folder, ...segmentDirs, ...NAME_SERVICE_FILES].map((path) => ({ path, writable: false })),
      ...(compileCache === undefined ? [] : [{ path: compileCache.folder, writable: true }]),
    ],
    devices: devicesOf(replica, acceleratorKind, acceleratorDevices()),
    stdoutFile: join(folder, STDOUT_FILE),
    stderrFile: join(folder, STDERR_FILE),
  };
}
