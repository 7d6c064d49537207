// `npm run dev`: the platform from its sources; a service restarts a moment after its sources, or those of a library it stands
// on, have changed, and the rest keeps running. The worker is in an image: a change of it shows after `npm start`.
import { watch } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./checkout.ts";
import { readPackageGraph, servicesTouchedBy } from "./dependents.ts";
import { readOptions } from "./options.ts";
import { startPlatform } from "./platform.ts";
import { say } from "./terminal.ts";
import { ensureWorkerImage } from "./worker-image.ts";

/** Editors write a file several times: changes within this time are one. */
const SETTLE_MS = 150;

const HELP = `npm run dev [-- OPTIONS]     Runs the platform from its sources and restarts what changes.

  --state DIR       keep everything here (default: .pilotlight in the checkout)

Examples
  npm run dev
  npm run dev -- --state /var/tmp/pilotlight`;

const values = readOptions(HELP, { state: { type: "string", default: join(ROOT, ".pilotlight") } });
const { reference } = await ensureWorkerImage(join(values.state, "images"));
const platform = await startPlatform({
  stateDir: values.state,
  usualPorts: true,
  bucket: { kind: "directory" },
  from: "sources",
  workerImage: reference,
  accelerators: 4,
  logLevel: "debug",
  onMovedPort: (door, from, to) => say(`port ${from} (${door}) is taken; using ${to}`),
  onEvent: ({ kind, name, detail }) => {
    if (kind === "restarting") say(`${name} ended: ${detail}`);
  },
});
say(
  `ready: ${platform.endpoints.gatewayUrl}/v1, ${platform.endpoints.controlUrl}/v1/status; logs in ${platform.logDir}`,
);

const graph = readPackageGraph(ROOT);
const touched = new Set<string>();
let timer: NodeJS.Timeout | undefined;

for (const folder of ["libs", "services"]) {
  watch(join(ROOT, folder), { recursive: true }, (_event, file) => {
    if (file === null || /node_modules|\/dist\/|\.test\.ts$|(^|\/)\.[^/]*$|~$/.test(file)) return;
    for (const service of servicesTouchedBy(graph, join(folder, file))) touched.add(service);
    clearTimeout(timer);
    timer = setTimeout(() => void restartTouched(), SETTLE_MS);
  });
}

async function restartTouched(): Promise<void> {
  const running = new Set(platform.supervisor.names());
  const names = [...touched].filter((name) => running.has(name));
  touched.clear();
  if (names.length === 0) return;
  const from = Date.now();
  say(`changed: ${names.join(", ")}`);
  await Promise.all(names.map((name) => platform.supervisor.restart(name)));
  await platform.supervisor.ready().then(
    () => say(`ready again after ${((Date.now() - from) / 1000).toFixed(1)} s`),
    (error: Error) => say(error.message),
  );
}

let stopping = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    if (stopping) process.exit(130);
    stopping = true;
    say("stopping");
    void platform.stop().then(() => process.exit(0));
  });
}
