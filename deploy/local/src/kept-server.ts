// A server (NATS, PostgreSQL, the bucket) that is kept running: when it ends by itself, or says that only a restart helps, it
// is started again on the same address with the same data. For tests it can be taken away for a while.
import { setTimeout as sleep } from "node:timers/promises";
import type { ServerProcess } from "@pilotlight/servers";

export type KeptServer = {
  readonly url: string;
  /** Kills the server and brings it back after `downMs`. */
  interrupt(downMs: number): Promise<void>;
  stop(): Promise<void>;
};

type Keepable = ServerProcess & { url: string; needsRestart?: () => Promise<boolean> };

export type KeepOptions = {
  start: () => Promise<Keepable>;
  restartDelayMs: number;
  checkIntervalMs: number;
  onRestart: () => void;
};

/** Starts the server and keeps it running until stopped. */
export async function keepServer(options: KeepOptions): Promise<KeptServer> {
  const { start, restartDelayMs, checkIntervalMs, onRestart } = options;
  let server = await start();
  let wanted = true;
  let delayMs = restartDelayMs;
  let restarting: Promise<void> = Promise.resolve();
  const watch = (running: ServerProcess) => {
    void running.exited.then(() => {
      if (wanted) restarting = restart();
    });
  };
  const restart = async (): Promise<void> => {
    onRestart();
    while (wanted) {
      await sleep(delayMs);
      try {
        server = await start();
        watch(server);
        return;
      } catch {
        // Its log says why; the next attempt may find the port free again.
      }
    }
  };
  watch(server);
  const check = setInterval(() => {
    void server.needsRestart?.().then(
      (needed) => needed && server.kill("SIGTERM"),
      () => {},
    );
  }, checkIntervalMs);
  return {
    url: server.url,
    async interrupt(downMs) {
      delayMs = downMs;
      server.kill("SIGKILL");
      await server.exited;
      await Promise.resolve();
      await restarting;
      delayMs = restartDelayMs;
    },
    async stop() {
      wanted = false;
      clearInterval(check);
      await restarting;
      await server.stop();
    },
  };
}
