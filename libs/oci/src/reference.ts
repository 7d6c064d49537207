// Image references: `[registry/]repository[:tag][@digest]` with docker's defaults, and `oci:///dir[:tag]` for layout
// directories. Grammar: github.com/distribution/reference (normalise.go, regexp.go).
import { isAbsolute, normalize } from "node:path";
import { PlatformError } from "@pilotlight/errors";

export type RegistryReference = {
  kind: "registry";
  /** Host with optional port, e.g. `docker.io` or `localhost:5000`. */
  registry: string;
  repository: string;
  /** `latest` when neither tag nor digest was given. */
  tag: string | undefined;
  digest: string | undefined;
};

export type LayoutReference = {
  kind: "layout";
  directory: string;
  tag: string | undefined;
  digest: string | undefined;
};

export type ImageReference = RegistryReference | LayoutReference;

export const DIGEST_PATTERN = /^sha256:[0-9a-f]{64}$/;
const TAG = /^\w[\w.-]{0,127}$/;
const HOST =
  /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?$/;
const REPOSITORY = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/;

/** Reads a reference. Throws `invalidArgument` with the part that is wrong. */
export function parseReference(text: string): ImageReference {
  if (text.startsWith("oci://")) return parseLayout(text.slice("oci://".length), text);
  const { rest, digest } = splitDigest(text);
  const slash = rest.indexOf("/");
  const head = slash === -1 ? "" : rest.slice(0, slash);
  // docker's rule: the first part is a host if it looks like one.
  const hasHost =
    head.includes(".") || head.includes(":") || head === "localhost" || head !== head.toLowerCase();
  const registry = hasHost ? head : "docker.io";
  const { name, tag } = splitTag(hasHost ? rest.slice(slash + 1) : rest);
  const repository = registry === "docker.io" && !name.includes("/") ? `library/${name}` : name;
  if (!HOST.test(registry)) throw invalid(text, `${JSON.stringify(registry)} is not a host`);
  if (repository.length > 255 || !REPOSITORY.test(repository))
    throw invalid(text, `${JSON.stringify(name)} is not a repository name`);
  return {
    kind: "registry",
    registry: registry === "index.docker.io" ? "docker.io" : registry,
    repository,
    tag: tag ?? (digest === undefined ? "latest" : undefined),
    digest,
  };
}

/** The reference in full, e.g. `docker.io/library/nginx:latest`. */
export function formatReference(reference: ImageReference): string {
  const base =
    reference.kind === "layout"
      ? `oci://${reference.directory}`
      : `${reference.registry}/${reference.repository}`;
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  const digest = reference.digest === undefined ? "" : `@${reference.digest}`;
  return `${base}${tag}${digest}`;
}

/** The same reference, pinned to a digest. */
export const withDigest = (reference: string, digest: string): string =>
  formatReference({ ...parseReference(reference), digest });

function parseLayout(path: string, text: string): LayoutReference {
  const { rest, digest } = splitDigest(path);
  const { name, tag } = splitTag(rest);
  if (!isAbsolute(name) || name.includes("\0"))
    throw invalid(text, "a layout directory needs an absolute path: oci:///dir[:tag]");
  return { kind: "layout", directory: normalize(name).replace(/(.)\/+$/, "$1"), tag, digest };
}

function splitDigest(text: string): { rest: string; digest: string | undefined } {
  const at = text.indexOf("@");
  if (at === -1) return { rest: text, digest: undefined };
  const digest = text.slice(at + 1);
  if (!DIGEST_PATTERN.test(digest)) throw invalid(text, `${JSON.stringify(digest)} is not a sha256 digest`);
  return { rest: text.slice(0, at), digest };
}

function splitTag(text: string): { name: string; tag: string | undefined } {
  const colon = text.lastIndexOf(":");
  if (colon === -1 || text.indexOf("/", colon) !== -1) return { name: text, tag: undefined };
  const tag = text.slice(colon + 1);
  if (!TAG.test(tag)) throw invalid(text, `${JSON.stringify(tag)} is not a tag`);
  return { name: text.slice(0, colon), tag };
}

function invalid(text: string, why: string): PlatformError {
  return new PlatformError(
    "invalidArgument",
    `image reference ${JSON.stringify(text.slice(0, 300))}: ${why}`,
    {
      field: "image",
      remedy: "Write registry/repository:tag, repository@sha256:…, or oci:///directory[:tag].",
    },
  );
}
