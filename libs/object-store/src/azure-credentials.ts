// How requests to Azure storage are allowed: by a signature in the URL (a shared access signature, given or made from the
// account's key) or by a token of Entra ID. Signing with the key itself is not used: it covers the Range header, so a native
// reader could not ask for ranges by itself.
//   AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY (or AZURE_STORAGE_ACCOUNT_KEY), AZURE_STORAGE_SAS_TOKEN,
//   AZURE_FEDERATED_TOKEN_FILE or AZURE_CLIENT_SECRET with AZURE_TENANT_ID and AZURE_CLIENT_ID, else the machine's identity
import { createHmac } from "node:crypto";
import { readFile } from "node:fs/promises";
import { PlatformError } from "@pilotlight/errors";
import { type AccessToken, cachedToken, requestToken, type TokenSource } from "./access-token.ts";

export type AzureAccess = {
  /** Query parameters to add, and the token to send. */
  query: string;
  token: string | undefined;
  /** Epoch ms. */
  expiresAt: number;
};

export type AzureAccount = {
  name: string;
  /** Of the account's blob service, without a trailing slash. */
  endpoint: string;
  access: () => Promise<AzureAccess>;
};

type Env = Record<string, string | undefined>;

const SAS_VERSION = "2022-11-02";
const SAS_LIFE_MS = 60 * 60_000;
/** Clocks differ. */
const SAS_EARLIER_MS = 5 * 60_000;
const RESOURCE = "https://storage.azure.com/";
const AUTHORITY_DEFAULT = "https://login.microsoftonline.com/";
const METADATA_DEFAULT = "http://169.254.169.254";
const ACCOUNT = /^[a-z0-9]{3,24}$/;

/** The account and its access, from the URI's parts and the environment. Throws invalidArgument when no account is named. */
export function azureAccount(
  uri: { account: string | undefined; endpoint: string | undefined },
  env: Env,
): AzureAccount {
  const connection = parseConnectionString(env.AZURE_STORAGE_CONNECTION_STRING);
  const name =
    uri.account ??
    env.AZURE_STORAGE_ACCOUNT ??
    env.AZURE_STORAGE_ACCOUNT_NAME ??
    connection.get("accountname");
  if (name === undefined || !ACCOUNT.test(name)) {
    throw new PlatformError("invalidArgument", "the store URI names no storage account", {
      field: "uri",
      remedy: "Write az://container/prefix?account=NAME, or set AZURE_STORAGE_ACCOUNT.",
    });
  }
  const endpoint =
    uri.endpoint ??
    connection.get("blobendpoint")?.replace(/\/+$/, "") ??
    `https://${name}.blob.core.windows.net`;
  // A connection string speaks for its own account only.
  const own = connection.get("accountname") === name ? connection : new Map<string, string>();
  const key = own.get("accountkey") ?? env.AZURE_STORAGE_KEY ?? env.AZURE_STORAGE_ACCOUNT_KEY;
  const sas = own.get("sharedaccesssignature") ?? env.AZURE_STORAGE_SAS_TOKEN;
  if (key !== undefined) return { name, endpoint, access: signedAccess(name, endpoint, key) };
  if (sas !== undefined) return { name, endpoint, access: async () => givenAccess(sas) };
  const source = cachedToken(identityToken(env));
  const access = async (): Promise<AzureAccess> => {
    const { token, expiresAt } = await source();
    return { query: "", token, expiresAt };
  };
  return { name, endpoint, access };
}

/** "Name=value;…", names in lower case. */
function parseConnectionString(text = ""): Map<string, string> {
  const pairs = text.split(";").map((pair): [string, string] => {
    const at = pair.indexOf("=");
    return [pair.slice(0, at).trim().toLowerCase(), pair.slice(at + 1).trim()];
  });
  return new Map(pairs.filter(([name]) => name !== ""));
}

function givenAccess(sas: string): AzureAccess {
  const query = sas.replace(/^\?/, "");
  const end = Date.parse(new URLSearchParams(query).get("se") ?? "");
  return { query, token: undefined, expiresAt: Number.isNaN(end) ? Number.POSITIVE_INFINITY : end };
}

function signedAccess(account: string, endpoint: string, key: string): () => Promise<AzureAccess> {
  let current: AzureAccess | undefined;
  return async () => {
    const now = Date.now();
    if (current === undefined || now > current.expiresAt - SAS_LIFE_MS / 2) {
      const expiresAt = now + SAS_LIFE_MS;
      const secureOnly = endpoint.startsWith("https:");
      current = {
        query: accountSas({ account, key, from: now - SAS_EARLIER_MS, to: expiresAt, secureOnly }),
        token: undefined,
        expiresAt,
      };
    }
    return current;
  };
}

/**
 * A signature for the blobs of an account, as query parameters. After
 * https://learn.microsoft.com/rest/api/storageservices/create-account-sas. Pure.
 */
export function accountSas(input: {
  account: string;
  /** Base64. */
  key: string;
  /** Epoch ms. */
  from: number;
  to: number;
  secureOnly: boolean;
}): string {
  const time = (at: number): string => new Date(at).toISOString().replace(/\.\d{3}/, "");
  const fields = {
    sv: SAS_VERSION,
    ss: "b",
    srt: "co",
    sp: "rwdlc",
    st: time(input.from),
    se: time(input.to),
    spr: input.secureOnly ? "https" : "https,http",
  };
  const { sv, ss, srt, sp, st, se, spr } = fields;
  const text = [input.account, sp, ss, srt, st, se, "", spr, sv, "", ""].join("\n");
  const sig = createHmac("sha256", Buffer.from(input.key, "base64")).update(text).digest("base64");
  return new URLSearchParams({ ...fields, sig }).toString();
}

/** Tokens of a workload's, an application's or the machine's own identity. */
function identityToken(env: Env): TokenSource {
  const { AZURE_TENANT_ID: tenant, AZURE_CLIENT_ID: client, AZURE_CLIENT_SECRET: secret } = env;
  const assertionFile = env.AZURE_FEDERATED_TOKEN_FILE;
  const authority = env.AZURE_AUTHORITY_HOST ?? AUTHORITY_DEFAULT;
  if (tenant !== undefined && client !== undefined && (assertionFile ?? secret) !== undefined) {
    const url = new URL(`${encodeURIComponent(tenant)}/oauth2/v2.0/token`, authority.replace(/\/*$/, "/"));
    const common = { grant_type: "client_credentials", client_id: client, scope: `${RESOURCE}.default` };
    return async () => {
      if (assertionFile === undefined) {
        return requestToken(url, { form: { ...common, client_secret: secret ?? "" } });
      }
      const assertion = (await readFile(assertionFile, "utf8")).trim();
      const type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
      return requestToken(url, {
        form: { ...common, client_assertion_type: type, client_assertion: assertion },
      });
    };
  }
  return () => machineToken(env);
}

/** From the machine's metadata service, or that of an application host (IDENTITY_ENDPOINT). */
function machineToken(env: Env): Promise<AccessToken> {
  const { IDENTITY_ENDPOINT: host, IDENTITY_HEADER: secret, AZURE_CLIENT_ID: client } = env;
  const inHost = host !== undefined && secret !== undefined;
  const metadata = env.AZURE_POD_IDENTITY_AUTHORITY_HOST ?? METADATA_DEFAULT;
  const url = new URL(inHost ? host : `${metadata.replace(/\/+$/, "")}/metadata/identity/oauth2/token`);
  url.searchParams.set("api-version", inHost ? "2019-08-01" : "2018-02-01");
  url.searchParams.set("resource", RESOURCE);
  if (client !== undefined) url.searchParams.set("client_id", client);
  return requestToken(url, { headers: inHost ? { "x-identity-header": secret } : { metadata: "true" } });
}
