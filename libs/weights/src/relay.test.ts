import { describe, expect, test } from "vitest";
import { cutIntoChunks } from "./chunks.ts";
import { type Peer, RelayQueue, relayRoute, rendezvous } from "./relay.ts";

const chunks = [...cutIntoChunks([8_000, 8_000], 10)];
const peer = (nodeId: string, complete = false): Peer => ({ nodeId, url: `http://${nodeId}`, complete });
const NODES = ["a", "b", "c", "d", "e", "f", "g", "h"];

describe("the relay", () => {
  test("gives every range one owner, the same seen from everywhere, and all nodes about as many", () => {
    const owned = new Map<string, number>();
    for (const chunk of chunks) {
      const owner = rendezvous(NODES, chunk);
      expect(rendezvous(NODES.toReversed(), chunk)).toBe(owner);
      owned.set(owner, (owned.get(owner) ?? 0) + 1);
    }
    for (const nodeId of NODES) {
      expect(owned.get(nodeId)).toBeGreaterThan(130);
      expect(owned.get(nodeId)).toBeLessThan(270);
    }
  });
  test("a node that comes takes ranges only to itself", () => {
    for (const chunk of chunks) {
      const before = rendezvous(NODES.slice(1), chunk);
      expect([before, "a"]).toContain(rendezvous(NODES, chunk));
    }
  });
  test("routes: the owner, then a node that has everything, then (nothing left) the bucket", () => {
    expect(relayRoute("a", [], chunks[0]!)).toEqual([]);
    for (const chunk of chunks) {
      const loading = relayRoute("a", [peer("b"), peer("c")], chunk);
      const owner = rendezvous(["a", "b", "c"], chunk);
      expect(loading.map(({ nodeId }) => nodeId)).toEqual(owner === "a" ? [] : [owner]);
      const holding = relayRoute("a", [peer("b"), peer("full", true)], chunk);
      expect(holding.at(-1)?.nodeId).toBe("full");
    }
  });
  test("every range is given out once, own ones early to every other reader", () => {
    const queue = new RelayQueue("a", chunks);
    const peers = [peer("b"), peer("c")];
    const given = [];
    for (let i = 0; ; i++) {
      const next = queue.next(i, peers);
      if (next === undefined) break;
      given.push({ ...next, reader: i });
    }
    expect(new Set(given.map(({ chunk }) => chunk)).size).toBe(chunks.length);
    expect(
      given.slice(0, 500).every(({ route, reader }) => (route.length === 0) === (reader % 2 === 0)),
    ).toBe(true);
  });
  test("without peers ranges come in file order", () => {
    const queue = new RelayQueue("a", chunks);
    const order = chunks.map((_, i) => queue.next(i, [])?.chunk);
    expect(order).toEqual(chunks);
  });
  test("peers that appear during a flight change what is left", () => {
    const queue = new RelayQueue("a", chunks);
    for (let i = 0; i < 10; i++) expect(queue.next(i, [])?.route).toEqual([]);
    expect(queue.next(1, [peer("b")])?.route).toEqual([peer("b")]);
  });
});
