// Comparisons over TCP run in a network of their own (bench/links/src/bin/own-network.rs says why): what a machine filters, paces
// or shapes is the same for no two machines, and has nothing to do with either side.
import { buildTool } from "../links/build.mjs";

/** The network that this process is in, as the program that made it says; undefined: none was made. */
export const ownNetwork = (): string | undefined => process.env.PILOTLIGHT_BENCH_NETWORK;

/** Becomes this same program in a network of its own, from which nothing can be fetched. Returns where it is in one already. */
export async function enterOwnNetwork(): Promise<void> {
  if (ownNetwork() !== undefined) return;
  const tool = await buildTool("own-network");
  process.execve?.(
    tool,
    [tool, process.execPath, ...process.execArgv, ...process.argv.slice(1)],
    process.env,
  );
}
