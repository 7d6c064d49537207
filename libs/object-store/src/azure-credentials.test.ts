import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { accountSas, azureAccount } from "./azure-credentials.ts";

const URI = { account: undefined, endpoint: undefined };
const KEY = Buffer.from("secret").toString("base64");

let server: Server;
let origin: string;
let seen: { url: URL; body: string; headers: NodeJS.Dict<string | string[]> }[];

beforeEach(async () => {
  seen = [];
  server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    seen.push({ url: new URL(request.url ?? "/", origin), body, headers: request.headers });
    response.end(JSON.stringify({ access_token: "the-token", expires_in: "3600" }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => server.close());

describe("the account", () => {
  test("comes from the URI, the environment or the connection string, in this order", () => {
    const connection = { AZURE_STORAGE_CONNECTION_STRING: `AccountName=fromstring;AccountKey=${KEY}` };
    expect(azureAccount(URI, connection)).toMatchObject({
      name: "fromstring",
      endpoint: "https://fromstring.blob.core.windows.net",
    });
    expect(azureAccount(URI, { ...connection, AZURE_STORAGE_ACCOUNT: "fromenv" }).name).toBe("fromenv");
    expect(azureAccount({ ...URI, account: "fromuri" }, connection).name).toBe("fromuri");
    expect(() => azureAccount(URI, {})).toThrow(expect.objectContaining({ code: "invalidArgument" }));
  });
  test("a connection string's key is not used for another account", async () => {
    const env = {
      AZURE_STORAGE_CONNECTION_STRING: `AccountName=one;AccountKey=${KEY}`,
      AZURE_POD_IDENTITY_AUTHORITY_HOST: origin,
    };
    const { access } = azureAccount({ ...URI, account: "another" }, env);
    expect(await access()).toMatchObject({ query: "", token: "the-token" });
  });
});

describe("access", () => {
  test("a key becomes a signature for blobs, never sent itself", async () => {
    const { access } = azureAccount(URI, { AZURE_STORAGE_ACCOUNT: "account", AZURE_STORAGE_KEY: KEY });
    const { query, token } = await access();
    expect(token).toBeUndefined();
    expect(query).not.toContain(encodeURIComponent(KEY));
    expect(Object.fromEntries(new URLSearchParams(query))).toMatchObject({ ss: "b", spr: "https" });
    expect(await access()).toMatchObject({ query });
  });
  test("the signature covers every field", () => {
    const input = { account: "account", key: KEY, from: 0, to: 3_600_000, secureOnly: true };
    const signature = (change: Partial<typeof input>) =>
      new URLSearchParams(accountSas({ ...input, ...change })).get("sig");
    const all = [
      signature({}),
      signature({ account: "other" }),
      signature({ key: Buffer.from("x").toString("base64") }),
      signature({ from: 1000 }),
      signature({ to: 7_200_000 }),
      signature({ secureOnly: false }),
    ];
    expect(new Set(all).size).toBe(all.length);
  });
  test("a given signature is used until it ends", async () => {
    const env = {
      AZURE_STORAGE_ACCOUNT: "account",
      AZURE_STORAGE_SAS_TOKEN: "?sv=1&se=2030-01-01T00%3A00%3A00Z&sig=x",
    };
    expect(await azureAccount(URI, env).access()).toEqual({
      query: "sv=1&se=2030-01-01T00%3A00%3A00Z&sig=x",
      token: undefined,
      expiresAt: Date.UTC(2030),
    });
  });
  test("a workload's token file is exchanged, once for many requests", async () => {
    const folder = await mkdtemp(join(tmpdir(), "pilotlight-azure-token-"));
    await writeFile(join(folder, "token"), "assertion\n");
    const { access } = azureAccount(URI, {
      AZURE_STORAGE_ACCOUNT: "account",
      AZURE_TENANT_ID: "tenant",
      AZURE_CLIENT_ID: "client",
      AZURE_FEDERATED_TOKEN_FILE: join(folder, "token"),
      AZURE_AUTHORITY_HOST: origin,
    });
    const all = await Promise.all([access(), access(), access()]);
    expect(all.map(({ token }) => token)).toEqual(Array(3).fill("the-token"));
    expect(seen).toHaveLength(1);
    expect(seen[0]?.url.pathname).toBe("/tenant/oauth2/v2.0/token");
    expect(Object.fromEntries(new URLSearchParams(seen[0]?.body))).toMatchObject({
      client_id: "client",
      client_assertion: "assertion",
      scope: "https://storage.azure.com/.default",
    });
    await rm(folder, { recursive: true });
  });
  test("without anything else the machine's identity is asked", async () => {
    const env = { AZURE_STORAGE_ACCOUNT: "account", AZURE_POD_IDENTITY_AUTHORITY_HOST: origin };
    expect(await azureAccount(URI, env).access()).toMatchObject({ token: "the-token", query: "" });
    expect(seen[0]?.headers.metadata).toBe("true");
    expect(seen[0]?.url.searchParams.get("resource")).toBe("https://storage.azure.com/");
  });
});
