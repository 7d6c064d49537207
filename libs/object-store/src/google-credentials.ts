// Access tokens for Google Cloud Storage, by the application's default credentials: a service account's key or a user's log-in
// in a file (GOOGLE_APPLICATION_CREDENTIALS, else gcloud's own), a workload's identity at another provider (external_account with a
// token file), else the machine's service account. `GOOGLE_ANONYMOUS=true`, or an endpoint that is not Google's without any of
// these, asks without a token.
import { createSign } from "node:crypto";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { PlatformError } from "@pilotlight/errors";
import { type AccessToken, cachedToken, requestToken, type TokenSource } from "./access-token.ts";

type Env = Record<string, string | undefined>;
type CredentialFile = Record<string, unknown>;

const SCOPE = "https://www.googleapis.com/auth/devstorage.read_write";
const TOKEN_URL = "https://oauth2.googleapis.com/token";
const JWT_LIFE_S = 3600;
const METADATA_HOST_DEFAULT = "metadata.google.internal";
const METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token";

/** Undefined: requests go without a token. */
export function googleToken(env: Env, options: { anonymousAllowed: boolean }): TokenSource | undefined {
  const named = env.GOOGLE_APPLICATION_CREDENTIALS;
  if (env.GOOGLE_ANONYMOUS === "true") return undefined;
  if (options.anonymousAllowed && named === undefined) return undefined;
  return cachedToken(async () => {
    const file = await credentialFile(named ?? gcloudFile(env), named !== undefined);
    return file === undefined ? machineToken(env) : fileToken(file);
  });
}

const gcloudFile = (env: Env): string =>
  join(
    env.CLOUDSDK_CONFIG ?? join(env.HOME ?? homedir(), ".config/gcloud"),
    "application_default_credentials.json",
  );

/** Undefined when there is none and none was named. */
async function credentialFile(path: string, named: boolean): Promise<CredentialFile | undefined> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as CredentialFile;
  } catch (cause) {
    if (!named && (cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new PlatformError("unauthenticated", `the credentials file ${path} cannot be read`, {
      cause,
      remedy: "Set GOOGLE_APPLICATION_CREDENTIALS to a readable JSON file.",
    });
  }
}

function fileToken(file: CredentialFile): Promise<AccessToken> {
  switch (file.type) {
    case "service_account":
      return serviceAccountToken(file);
    case "authorized_user":
      return requestToken(new URL(TOKEN_URL), {
        form: {
          grant_type: "refresh_token",
          client_id: text(file, "client_id"),
          client_secret: text(file, "client_secret"),
          refresh_token: text(file, "refresh_token"),
        },
      });
    case "external_account":
      return externalToken(file);
    default:
      throw new PlatformError("unsupported", `credentials of type ${JSON.stringify(file.type)}`, {
        remedy: "Use a service account, a user's log-in or a workload identity with a token file.",
      });
  }
}

/** A signed assertion for a token (RFC 7523). */
function serviceAccountToken(file: CredentialFile): Promise<AccessToken> {
  const url = new URL(typeof file.token_uri === "string" ? file.token_uri : TOKEN_URL);
  const issuedAt = Math.floor(Date.now() / 1000);
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const header = { alg: "RS256", typ: "JWT", kid: file.private_key_id };
  const claims = {
    iss: text(file, "client_email"),
    scope: SCOPE,
    aud: url.href,
    iat: issuedAt,
    exp: issuedAt + JWT_LIFE_S,
  };
  const signed = `${part(header)}.${part(claims)}`;
  const signature = createSign("RSA-SHA256").update(signed).sign(text(file, "private_key"), "base64url");
  return requestToken(url, {
    form: { grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer", assertion: `${signed}.${signature}` },
  });
}

/** A token of another provider, read from a file, for one of Google's (RFC 8693). */
async function externalToken(file: CredentialFile): Promise<AccessToken> {
  const source = (file.credential_source ?? {}) as Record<string, unknown>;
  if (typeof source.file !== "string" || file.service_account_impersonation_url !== undefined) {
    throw new PlatformError("unsupported", "external credentials other than a token file used directly", {
      remedy: "Grant the bucket to the workload identity itself, and use a credential_source with a file.",
    });
  }
  const content = (await readFile(source.file, "utf8")).trim();
  const format = (source.format ?? {}) as Record<string, unknown>;
  const field = format.subject_token_field_name;
  const subject =
    format.type === "json" && typeof field === "string"
      ? text(JSON.parse(content) as CredentialFile, field)
      : content;
  return requestToken(new URL(text(file, "token_url")), {
    form: {
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
      requested_token_type: "urn:ietf:params:oauth:token-type:access_token",
      audience: text(file, "audience"),
      subject_token_type: text(file, "subject_token_type"),
      subject_token: subject,
      scope: SCOPE,
    },
  });
}

const machineToken = (env: Env): Promise<AccessToken> =>
  requestToken(new URL(`http://${env.GCE_METADATA_HOST ?? METADATA_HOST_DEFAULT}${METADATA_PATH}`), {
    headers: { "metadata-flavor": "Google" },
  });

function text(file: CredentialFile, field: string): string {
  const value = file[field];
  if (typeof value === "string" && value !== "") return value;
  throw new PlatformError("unauthenticated", `the credentials lack ${field}`, {
    remedy: "Download the credentials file again.",
  });
}
