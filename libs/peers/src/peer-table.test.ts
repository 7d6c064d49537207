import { expect, test } from "vitest";
import { PeerTable } from "./peer-table.ts";

const a = { key: "f", nodeId: "a", url: "http://a", complete: false };
const table = () => new PeerTable({ lifeMs: 1_000, peersMax: 2 });

test("a list changes only when something does", () => {
  const peers = table();
  expect(peers.announced(a, 0)).toBe(true);
  const first = peers.peers("f");
  expect(peers.announced(a, 500)).toBe(false);
  expect(peers.peers("f")).toBe(first);
  peers.announced({ ...a, complete: true }, 600);
  expect(peers.peers("f")).toEqual([{ nodeId: "a", url: "http://a", complete: true }]);
});
test("a node that is silent or says that it is gone is forgotten", () => {
  const peers = table();
  peers.announced(a, 0);
  peers.announced({ ...a, nodeId: "b" }, 900);
  peers.sweep(1_500);
  expect(peers.peers("f").map(({ nodeId }) => nodeId)).toEqual(["b"]);
  peers.gone("f", "b");
  expect(peers.peers("f")).toEqual([]);
});
test("there is a limit of nodes", () => {
  const peers = table();
  for (const nodeId of ["a", "b", "c"]) peers.announced({ ...a, nodeId }, 0);
  expect(peers.peers("f").map(({ nodeId }) => nodeId)).toEqual(["a", "b"]);
});
