// What others are told to connect to, where a door listens on every address of its machine.
import { isIPv6 } from "node:net";
import { type NetworkInterfaceInfo, networkInterfaces } from "node:os";

const EVERY_ADDRESS = new Set(["0.0.0.0", "[::]"]);

/**
 * The URL under which other machines reach a door that listens at `listening`: with `host`, where one is configured; with
 * this machine's first address that is not loopback or link-local, IPv4 before IPv6, where the door listens on all of them;
 * else unchanged.
 */
export function advertisedUrl(
  listening: string,
  host = "",
  interfaces: NodeJS.Dict<
    Pick<NetworkInterfaceInfo, "address" | "family" | "internal">[]
  > = networkInterfaces(),
): string {
  const url = new URL(listening);
  if (host === "" && !EVERY_ADDRESS.has(url.hostname)) return listening;
  const own = Object.values(interfaces)
    .flatMap((addresses) => addresses ?? [])
    .filter(({ address, internal }) => !internal && !/^(169\.254\.|fe80:)/i.test(address))
    .sort((a, b) => Number(a.family === "IPv6") - Number(b.family === "IPv6"))[0]?.address;
  const chosen = host === "" ? (own ?? "127.0.0.1") : host;
  url.hostname = isIPv6(chosen) ? `[${chosen}]` : chosen;
  return url.origin;
}
