import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { controlClient } from "./client.ts";

let server: Server;
let asked: string[];
let cuts: number;
beforeEach(async () => {
  asked = [];
  server = createServer((request, response) => {
    asked.push(request.method ?? "");
    if (asked.length <= cuts) request.socket.destroy();
    else response.end("[]");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
});

const client = () =>
  controlClient({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, timeoutMs: 5_000 });

test("what only reads is asked again when control restarts meanwhile", async () => {
  cuts = 2;
  expect(await client().applications()).toEqual([]);
  expect(asked).toEqual(["GET", "GET", "GET"]);
});

test("what changes something is asked once: nobody knows whether it was done", async () => {
  cuts = 1;
  await expect(client().rollback("a", undefined)).rejects.toMatchObject({ code: "unavailable" });
  expect(asked).toEqual(["POST"]);
});
