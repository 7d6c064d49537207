// Many nodes that start an image which nobody has converted yet: one of them pulls it from the registry, the others leave it to
// that one and the converter, so that the registry is read about once. What is not there in time they pull themselves.
import { setTimeout as sleep } from "node:timers/promises";
import type { Pull } from "./image-converter.ts";

/** Whether it is this node's turn among those that start the image now; `end` is called when the start needs it no more. */
export type TakeTurn = (
  manifestDigest: string,
  signal: AbortSignal,
) => Promise<{ mine: boolean; end(): void }>;

export const pullInTurn =
  (takeTurn: TakeTurn, pull: Pull, patienceMs: number): Pull =>
  async (reference, manifestDigest, signal) => {
    const turn = await takeTurn(manifestDigest, signal);
    try {
      if (!turn.mine) await sleep(patienceMs, undefined, { signal });
      return await pull(reference, manifestDigest, signal);
    } finally {
      turn.end();
    }
  };
