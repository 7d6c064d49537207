// The platform's bucket on one machine: a plain directory, an S3 server over a plain directory, or somebody else's.
import { randomBytes } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

export type Bucket = {
  uri: string;
  /** Credentials, for the environment of the services. */
  environment: Record<string, string>;
  stop(): Promise<void>;
};

export type BucketKind = { kind: "directory" } | { kind: "s3" } | { kind: "uri"; uri: string };

/** Opens or starts the bucket. */
export async function startBucket(
  kind: BucketKind,
  options: { stateDir: string; port: number; logDir: string },
): Promise<Bucket> {
  switch (kind.kind) {
    case "uri":
      return { uri: kind.uri, environment: cloudEnvironment(), stop: async () => {} };
    case "directory":
      await mkdir(options.stateDir, { recursive: true });
      return { uri: `file://${options.stateDir}`, environment: {}, stop: async () => {} };
    case "s3":
      return startS3(options);
  }
}

/** What the usual credential chains of object stores look at. */
function cloudEnvironment(): Record<string, string> {
  const names = Object.keys(process.env).filter((name) => /^(AWS|GOOGLE|AZURE|HF)_/.test(name));
  return Object.fromEntries(names.map((name) => [name, process.env[name] ?? ""]));
}

async function startS3(options: { stateDir: string; port: number; logDir: string }): Promise<Bucket> {
  const { startVersitygw } = await import("@pilotlight/servers");
  const keys = await accessKeys(`${options.stateDir}-keys.json`);
  const data = `${options.stateDir}-s3`;
  await mkdir(join(data, "pilotlight"), { recursive: true });
  const server = await startVersitygw({
    dataDir: data,
    port: options.port,
    logFile: join(options.logDir, "versitygw.out"),
    ...keys,
  });
  return {
    uri: `s3://pilotlight?endpoint=${encodeURIComponent(server.url)}&region=us-east-1&pathStyle=true`,
    environment: {
      AWS_ACCESS_KEY_ID: keys.accessKey,
      AWS_SECRET_ACCESS_KEY: keys.secretKey,
      AWS_REGION: "us-east-1",
    },
    stop: () => server.stop(),
  };
}

async function accessKeys(file: string): Promise<{ accessKey: string; secretKey: string }> {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch {
    const keys = { accessKey: "pilotlight", secretKey: randomBytes(24).toString("base64url") };
    await writeFile(file, JSON.stringify(keys), { mode: 0o600 });
    return keys;
  }
}
