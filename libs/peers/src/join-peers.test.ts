import { afterEach, expect, test } from "vitest";
import { type Heard, joinPeers, type Peers } from "./join-peers.ts";

const joined: Peers[] = [];
afterEach(async () => {
  for (const peers of joined.splice(0)) await peers.close();
});

/** A way to all others that loses nothing. */
function air() {
  const listeners = new Set<(what: Heard) => void>();
  return {
    say: (what: Heard) => {
      for (const listener of listeners) listener(what);
    },
    listen: (listener: (what: Heard) => void) => {
      listeners.add(listener);
      return {
        close: async () => {
          listeners.delete(listener);
        },
      };
    },
  };
}

function join(way: ReturnType<typeof air>, nodeId: string, options: { zone?: string; url?: string } = {}) {
  const changed: string[] = [];
  const url = options.url ?? `http://${nodeId}:1`;
  const peers = joinPeers(way, {
    nodeId,
    zone: options.zone ?? "z",
    url,
    onChange: (key) => changed.push(key),
  });
  joined.push(peers);
  return { peers, changed };
}

test("nodes that start together know each other at once", () => {
  const way = air();
  const [a, b] = [join(way, "a"), join(way, "b")];
  a.peers.hold("image", "loading");
  b.peers.hold("image", "loading");
  expect(a.peers.peers("image").map(({ nodeId }) => nodeId)).toEqual(["b"]);
  expect(b.peers.peers("image").map(({ nodeId }) => nodeId)).toEqual(["a"]);
  b.peers.hold("image", "complete");
  expect(a.peers.peers("image")[0]?.complete).toBe(true);
  expect(a.changed).toEqual(["image", "image"]);
});

test("other zones, and addresses that are none, are not believed", () => {
  const way = air();
  const a = join(way, "a");
  a.peers.hold("image", "loading");
  join(way, "far", { zone: "y" }).peers.hold("image", "complete");
  for (const url of ["file:///etc", "http://user@host:1", "http://host/?q", "nonsense"])
    join(way, `bad ${url}`, { url }).peers.hold("image", "complete");
  expect(a.peers.peers("image")).toEqual([]);
});

test("a node that leaves says so", async () => {
  const way = air();
  const [a, b] = [join(way, "a"), join(way, "b")];
  a.peers.hold("image", "loading");
  b.peers.hold("image", "complete");
  await b.peers.close();
  expect(a.peers.peers("image")).toEqual([]);
});
