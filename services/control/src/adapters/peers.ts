// The other services' doors, and whether they answer. Control works without them, except for what only they know.
import { connect } from "node:net";
import { AutoscalerService, LogsService } from "@pilotlight/contracts";
import type { PeerView } from "@pilotlight/control-api";
import { grpcClient } from "@pilotlight/service";
import type { Config } from "../config.ts";

export type Peers = ReturnType<typeof connectPeers>;

/** Clients for the peers of `config`. They connect when they are first used. */
export function connectPeers(config: Config) {
  const timeout = { timeoutMs: config.peerTimeoutMs };
  const autoscaler = grpcClient(AutoscalerService, config.autoscalerAddress, timeout);
  const logs = grpcClient(LogsService, config.logsAddress, timeout);
  const addresses = {
    "image-converter": config.imageConverterAddress,
    autoscaler: config.autoscalerAddress,
    rollout: config.rolloutAddress,
    logs: config.logsAddress,
  };
  return {
    autoscaler,
    logs,
    /** Asks every peer's door for a connection. */
    probe: (): Promise<PeerView[]> =>
      Promise.all(
        Object.entries(addresses).map(async ([name, address]) => {
          const why = await unreachable(address, config.peerTimeoutMs);
          return { name, address, state: why === null ? ("reachable" as const) : ("unknown" as const), why };
        }),
      ),
    close() {
      autoscaler.close();
      logs.close();
    },
  };
}

function unreachable(address: string, timeoutMs: number): Promise<string | null> {
  const at = address.lastIndexOf(":");
  return new Promise((resolve) => {
    const socket = connect({ host: address.slice(0, at), port: Number(address.slice(at + 1)) });
    const settle = (why: string | null) => {
      socket.destroy();
      resolve(why);
    };
    socket.setTimeout(timeoutMs, () => settle(`no connection within ${timeoutMs} ms`));
    socket.once("connect", () => settle(null));
    socket.once("error", (error) => settle(error.message));
  });
}
