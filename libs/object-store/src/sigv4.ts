// AWS Signature Version 4 in the Authorization header, for S3. Pure: the time is an argument.
// After https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html; the tests use its examples.
// Own code because the clients on npm bring fetch's Headers (+25 MB RSS) for these sixty lines.
import { createHash, createHmac } from "node:crypto";

export type Credentials = { accessKeyId: string; secretAccessKey: string; sessionToken?: string };

export type SignInput = {
  method: string;
  url: URL;
  /** Headers to sign, names in lower case; `host` is added. Headers that are sent but not named here stay unsigned. */
  headers: Record<string, string>;
  /** Hex SHA-256 of the body. */
  payloadHash: string;
  credentials: Credentials;
  region: string;
  /** Epoch ms. The far side accepts it for 15 minutes around its own clock. */
  now: number;
};

export const EMPTY_SHA256 = sha256Hex("");

export function sha256Hex(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** The headers to send: those given, plus x-amz-date, x-amz-content-sha256, the session token and Authorization. */
export function signV4(input: SignInput): Record<string, string> {
  const { method, url, credentials, region, payloadHash } = input;
  const time = new Date(input.now).toISOString().replace(/[:-]|\.\d{3}/g, "");
  const headers: Record<string, string> = {
    ...input.headers,
    "x-amz-content-sha256": payloadHash,
    "x-amz-date": time,
    ...(credentials.sessionToken === undefined ? {} : { "x-amz-security-token": credentials.sessionToken }),
  };
  const signed: Record<string, string> = { ...headers, host: url.host };
  const names = Object.keys(signed).sort();
  const canonicalRequest = [
    method,
    url.pathname,
    canonicalQuery(url),
    ...names.map((name) => `${name}:${(signed[name] ?? "").trim().replace(/ +/g, " ")}`),
    "",
    names.join(";"),
    payloadHash,
  ].join("\n");
  const scope = `${time.slice(0, 8)}/${region}/s3/aws4_request`;
  const toSign = ["AWS4-HMAC-SHA256", time, scope, sha256Hex(canonicalRequest)].join("\n");
  const key = ["s3", "aws4_request"].reduce(
    hmac,
    hmac(hmac(`AWS4${credentials.secretAccessKey}`, time.slice(0, 8)), region),
  );
  const signature = hmac(key, toSign).toString("hex");
  headers.authorization = `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope},SignedHeaders=${names.join(";")},Signature=${signature}`;
  return headers;
}

/** Encodes every byte except unreserved characters, as the signature wants it; "/" is kept in paths. */
export function encodePath(path: string): string {
  return path.split("/").map(encodeStrict).join("/");
}

function encodeStrict(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function canonicalQuery(url: URL): string {
  return [...url.searchParams]
    .map(([name, value]) => `${encodeStrict(name)}=${encodeStrict(value)}`)
    .sort()
    .join("&");
}

function hmac(key: string | Buffer, data: string): Buffer {
  return createHmac("sha256", key).update(data).digest();
}
