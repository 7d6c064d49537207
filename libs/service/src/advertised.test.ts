import { expect, test } from "vitest";
import { advertisedUrl } from "./advertised.ts";

const INTERFACES = {
  lo: [{ address: "127.0.0.1", family: "IPv4" as const, internal: true }],
  eth0: [
    { address: "fe80::1", family: "IPv6" as const, internal: false },
    { address: "fd00::7", family: "IPv6" as const, internal: false },
    { address: "10.1.2.3", family: "IPv4" as const, internal: false },
  ],
};

test.each([
  ["a door on one address is advertised as it listens", "http://127.0.0.1:8080", "", "http://127.0.0.1:8080"],
  ["a door on every address, with the machine's own", "http://0.0.0.0:8080", "", "http://10.1.2.3:8080"],
  ["likewise over IPv6", "http://[::]:8080", "", "http://10.1.2.3:8080"],
  ["a configured name goes first", "http://0.0.0.0:8080", "node-7.local", "http://node-7.local:8080"],
  [
    "a configured IPv6 address is put in brackets",
    "http://127.0.0.1:8080",
    "fd00::9",
    "http://[fd00::9]:8080",
  ],
])("%s", (_name, listening, host, expected) => {
  expect(advertisedUrl(listening, host, INTERFACES)).toBe(expected);
});

test("a machine with IPv6 only is advertised by it, one without a network by loopback", () => {
  const { eth0, lo } = INTERFACES;
  expect(advertisedUrl("http://[::]:8080", "", { lo, eth0: eth0.slice(0, 2) })).toBe("http://[fd00::7]:8080");
  expect(advertisedUrl("http://0.0.0.0:8080", "", { lo })).toBe("http://127.0.0.1:8080");
});
