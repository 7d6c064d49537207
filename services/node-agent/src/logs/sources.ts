// Which files the node's log lines stand in: two of every replica, and those that the configuration names.
import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
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

/** Files that match a glob now. `*` and `?` stand for characters of the file's name; folders are taken literally. */
export function globSources(glob: string): LogSource[] {
  const folder = dirname(glob);
  const escaped = basename(glob).replace(/[.+^${}()|[\]\\]/g, "\\$&");
  const pattern = new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`);
  return namesIn(folder)
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => ({
      name: join(folder, name),
      path: join(folder, name),
      origin: { service: name.replace(/\..*$/, ""), stream: "file" },
      over: false,
      owned: false,
    }));
}

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
