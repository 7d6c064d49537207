// Ports of the platform on one machine: the usual ones where they are free, others (and a word about it) where not.
import { createServer } from "node:net";
import { freePort } from "@pilotlight/servers";

/** The doors and their usual ports. */
export const USUAL_PORTS = {
  gateway: 7400,
  control: 7401,
  nats: 7422,
  postgres: 7432,
  s3: 7470,
  imageConverter: 7462,
  weightStreamer: 7463,
  autoscaler: 7464,
  rollout: 7465,
  logs: 7466,
  nodeAgent: 7467,
} as const;

export type Door = keyof typeof USUAL_PORTS;
export type Ports = Record<Door, number>;

/** Picks the ports. `usual: false` takes free ones throughout (tests, benchmarks). */
export async function pickPorts(
  usual: boolean,
): Promise<{ ports: Ports; moved: { door: Door; from: number; to: number }[] }> {
  const moved: { door: Door; from: number; to: number }[] = [];
  const ports: Partial<Ports> = {};
  for (const [door, from] of Object.entries(USUAL_PORTS) as [Door, number][]) {
    const to = usual && (await isFree(from)) ? from : await freePort();
    if (usual && to !== from) moved.push({ door, from, to });
    ports[door] = to;
  }
  return { ports: ports as Ports, moved };
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
