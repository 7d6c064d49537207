import type { Peer } from "@pilotlight/peers";
import { describe, expect, test } from "vitest";
import { cutIntoChunks } from "./chunks.ts";
import { owners, RelayQueue, relayRoute } from "./relay.ts";

const chunks = [...cutIntoChunks([8_000, 8_000], 10)];
const peer = (nodeId: string, complete = false): Peer => ({ nodeId, url: `http://${nodeId}`, complete });
const NODES = ["a", "b", "c", "d", "e", "f", "g", "h"];

describe("the relay", () => {
  test("gives every range one owner, the same seen from everywhere, and all nodes as many", () => {
    const found = owners(NODES, chunks);
    expect([...owners(NODES.toReversed(), chunks)]).toEqual([...found]);
    const owned = new Map<string, number>();
    for (const chunk of chunks) {
      const owner = found.get(chunk)!;
      owned.set(owner, (owned.get(owner) ?? 0) + 1);
    }
    expect([...owned.values()]).toEqual(NODES.map(() => chunks.length / NODES.length));
  });
  test("files of many gigabytes have different owners for ranges 4 GiB apart", () => {
    const far = [...cutIntoChunks([2 ** 36], 2 ** 32)];
    expect(new Set(owners(NODES, far).values()).size).toBe(NODES.length);
  });
  test("a node that comes moves few ranges beside those that become its own", () => {
    const [before, after] = [owners(NODES.slice(1), chunks), owners(NODES, chunks)];
    const moved = chunks.filter((chunk) => before.get(chunk) !== after.get(chunk));
    expect(moved.length).toBeLessThan(chunks.length / 4);
  });
  test("nobody to own a range is an error", () => {
    expect(() => owners([], chunks)).toThrow(RangeError);
  });
  test("routes: the owner, then a node that has everything, then (nothing left) the bucket", () => {
    expect(relayRoute("a", [], 0)).toEqual([]);
    expect(relayRoute("a", [peer("b"), peer("c")], 0)).toEqual([]);
    expect(relayRoute("b", [peer("b"), peer("c")], 0)).toEqual([peer("b")]);
    const [full, other] = [peer("full", true), peer("other", true)];
    expect(relayRoute("b", [peer("b"), full], 0)).toEqual([peer("b"), full]);
    expect(relayRoute("full", [peer("b"), full], 0)).toEqual([full]);
    expect([0, 1, 2].map((turn) => relayRoute("a", [full, other], turn))).toEqual([[full], [other], [full]]);
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
  test("what is preferred comes first, in its order, earlier wishes before later ones", () => {
    const queue = new RelayQueue("a", chunks);
    const [gone, ...rest] = chunks;
    expect(queue.next(0, [])?.chunk).toBe(gone);
    const [first, second] = [rest.slice(100, 103).reverse(), [...rest.slice(99, 101), gone!]];
    queue.prefer(first);
    queue.prefer(second);
    const order = rest.map((_, i) => queue.next(i, [])?.chunk);
    expect(order.slice(0, 4)).toEqual([...first, rest[99]]);
    expect(order.slice(4)).toEqual(rest.filter((chunk) => !order.slice(0, 4).includes(chunk)));
    expect(queue.next(0, [])).toBeUndefined();
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
