// The bus of a service that does its work without it (I8: gateway, worker): connected in the background, for ever.
import { setTimeout as sleep } from "node:timers/promises";
import { toPlatformError } from "@pilotlight/errors";
import type { ServiceContext } from "@pilotlight/service";
import { logger } from "@pilotlight/telemetry";
import { type Bus, connectBus } from "./connection.ts";

type BusConfig = {
  natsUrl: string;
  natsCredentialsFile: string;
  natsConnectTimeoutMs: number;
  natsStreamReplicas: number;
};

const PAUSE_MS = 1_000;

/**
 * Tries until the bus is there and `attach` has succeeded on it, which is called once per connection made. Returns at once;
 * reconnects of an attached bus are the connection's own matter.
 */
export function connectBusInBackground(
  context: ServiceContext<BusConfig>,
  service: string,
  attach: (bus: Bus) => Promise<void>,
): void {
  const { config } = context;
  let current: Bus | undefined;
  const tryOnce = async () => {
    const bus = await connectBus({
      url: config.natsUrl,
      service,
      connectTimeoutMs: config.natsConnectTimeoutMs,
      streamReplicas: config.natsStreamReplicas,
      credentialsFile: config.natsCredentialsFile,
    });
    try {
      if (!context.stopping.aborted) await attach(bus);
      current = bus;
    } catch (error) {
      await bus.connection.close();
      throw error;
    }
  };
  const keepTrying = async () => {
    while (!context.stopping.aborted) {
      try {
        return await tryOnce();
      } catch (error) {
        logger("bus").warn("no bus yet; the service works without", { error: toPlatformError(error) });
        await sleep(PAUSE_MS, undefined, { signal: context.stopping }).catch(() => {});
      }
    }
  };
  void keepTrying();
  context.onStop("bus", () => current?.close());
}
