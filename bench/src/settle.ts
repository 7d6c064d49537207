// Rest between the sides of a comparison. What one side used is free when it ends, and a virtual machine hands free memory back to
// its host a few seconds later, some GB of it for as many seconds. Whoever begins meanwhile waits for pages, whichever side it is.
import { setTimeout as sleep } from "node:timers/promises";

const SETTLE_MS = 20_000;

/** Resolves when the machine has forgotten what ran before. */
export const untilSettled = (): Promise<void> => sleep(SETTLE_MS);
