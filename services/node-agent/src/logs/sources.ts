// Which files the node's log lines stand in: two of every replica, and those that the configuration names.
import { globSync } from "node:fs";
import { basename, join } from "node:path";
import type { Replica } from "../domain/replica.ts";
import type { LogSource } from "./tailer.ts";

/** Names of a replica's log files in its folder. */
export const STDOUT_FILE = "stdout.log";
export const STDERR_FILE = "stderr.log";

/** The log files of a replica. */
export function replicaSources(replica: Replica, folder: string): LogSource[] {
  const { replicaId, application, version, deployment } = replica.assignment;
  const identity = { application, version, deployment: deployment?.name ?? "", replicaId };
  const source = (name: string, stream: "stdout" | "stderr"): LogSource => ({
    name: `${replicaId}/${stream}`,
    path: join(folder, name),
    origin: { service: "worker", stream, replica: identity },
    over: replica.state.kind === "gone",
    owned: true,
  });
  return [source(STDOUT_FILE, "stdout"), source(STDERR_FILE, "stderr")];
}

/** What the json-file driver calls its files: the container's ID, then this. */
const DOCKER_FILE_END = "-json.log";

/** Files that match a glob (`*`, `?`, `**`) now. Of Docker's among them only containers with this tag are taken. */
export function globSources(glob: string, containerTag: string): LogSource[] {
  return globSync(glob)
    .sort()
    .map((path) => ({
      name: path,
      path,
      origin: {
        service: basename(path).replace(/\..*$/, ""),
        stream: "file",
        ...(path.endsWith(DOCKER_FILE_END) ? { containerTag } : {}),
      },
      over: false,
      owned: false,
    }));
}
