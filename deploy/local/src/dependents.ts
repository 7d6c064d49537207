// Which services a changed file touches: its own service, or every service whose package stands on the changed one.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export type PackageGraph = {
  /** Folder (`libs/bus`) of each workspace package by its name. */
  folders: ReadonlyMap<string, string>;
  /** Names that a package names as dependencies, by its name. */
  dependencies: ReadonlyMap<string, readonly string[]>;
};

/** Reads the packages below libs, services and native. */
export function readPackageGraph(root: string): PackageGraph {
  const folders = new Map<string, string>();
  const dependencies = new Map<string, readonly string[]>();
  for (const kind of ["libs", "services", "native"]) {
    for (const name of readdirSync(join(root, kind))) {
      const file = join(root, kind, name, "package.json");
      if (!existsSync(file)) continue;
      const manifest = JSON.parse(readFileSync(file, "utf8")) as {
        name: string;
        dependencies?: Record<string, string>;
      };
      folders.set(manifest.name, `${kind}/${name}`);
      dependencies.set(manifest.name, Object.keys(manifest.dependencies ?? {}));
    }
  }
  return { folders, dependencies };
}

/** Names of the services (`gateway`) to restart when `file` (relative to the root) has changed. */
export function servicesTouchedBy(graph: PackageGraph, file: string): string[] {
  const changed = [...graph.folders].find(([, folder]) => file.startsWith(`${folder}/`))?.[0];
  if (changed === undefined) return [];
  const standsOn = (name: string, seen: Set<string>): boolean => {
    if (name === changed) return true;
    if (seen.has(name)) return false;
    seen.add(name);
    return (graph.dependencies.get(name) ?? []).some((dependency) => standsOn(dependency, seen));
  };
  return [...graph.folders]
    .filter(([name, folder]) => folder.startsWith("services/") && standsOn(name, new Set()))
    .map(([, folder]) => folder.slice("services/".length))
    .sort();
}
