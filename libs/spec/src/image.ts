// What may stand behind `image:`. The grammar of registry references is the distribution project's
// (https://github.com/distribution/reference/blob/main/reference.go): domain, path components, tag, digest.

export type ImageReference =
  /** The platform's own image of that name, brought along by the set-up. */
  | { kind: "platform"; name: string }
  /** An OCI image layout directory on the machine that converts it. */
  | { kind: "layout"; path: string; tag: string | null; digest: string | null }
  | { kind: "registry"; registry: string; repository: string; tag: string | null; digest: string | null };

export type ImageParsed = ImageReference | { kind: "invalid"; why: string };

const PLATFORM_IMAGES = ["worker"] as const;
const DIGEST = /^sha256:[0-9a-f]{64}$/;
const TAG = /^[\w][\w.-]{0,127}$/;
const PATH_COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const DOMAIN =
  /^(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]{1,5})?$|^\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?$/;

const invalid = (why: string): ImageParsed => ({ kind: "invalid", why });

/** Parses an image reference; a wrong one comes back as `invalid` with a sentence that says why. */
export function parseImage(text: string): ImageParsed {
  if (text === "") return invalid("is empty");
  if (/\s/.test(text)) return invalid(`"${text}" contains white space`);
  if (text.startsWith("pilotlight://")) return parsePlatform(text.slice("pilotlight://".length));
  if (text.startsWith("oci://")) return parseLayout(text.slice("oci://".length));
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//.exec(text);
  if (scheme !== null) {
    return invalid(
      `"${scheme[1]}://" is not an image scheme; use a registry reference, oci:// or pilotlight://`,
    );
  }
  return parseRegistry(text);
}

/** The reference as a person would write it; parses back to the same value. */
export function formatImage(reference: ImageReference): string {
  if (reference.kind === "platform") return `pilotlight://${reference.name}`;
  const suffix =
    (reference.tag === null ? "" : `:${reference.tag}`) +
    (reference.digest === null ? "" : `@${reference.digest}`);
  if (reference.kind === "layout") return `oci://${reference.path}${suffix}`;
  return `${reference.registry}/${reference.repository}${suffix}`;
}

function parsePlatform(name: string): ImageParsed {
  if ((PLATFORM_IMAGES as readonly string[]).includes(name)) return { kind: "platform", name };
  return invalid(
    `"pilotlight://${name}" is unknown; the platform's images are: ${PLATFORM_IMAGES.join(", ")}`,
  );
}

function parseLayout(rest: string): ImageParsed {
  const split = splitSuffix(rest);
  if (split.kind === "invalid") return split;
  if (!split.name.startsWith("/")) return invalid("an oci:// path must be absolute: oci:///path/layout:tag");
  if (split.name.split("/").includes("..")) return invalid("an oci:// path must not contain ..");
  return { kind: "layout", path: split.name, tag: split.tag, digest: split.digest };
}

function parseRegistry(text: string): ImageParsed {
  const split = splitSuffix(text);
  if (split.kind === "invalid") return split;
  const parts = split.name.split("/");
  const head = parts[0] ?? "";
  // The same rule as docker's: the first part is a host if it looks like one.
  const named = parts.length > 1 && (head.includes(".") || head.includes(":") || head === "localhost");
  if (!named) {
    return invalid(`"${text}" names no registry; write it out, e.g. docker.io/library/${split.name}`);
  }
  if (!DOMAIN.test(head)) return invalid(`"${head}" is not a registry host`);
  const wrong = parts.slice(1).find((part) => !PATH_COMPONENT.test(part));
  if (wrong !== undefined) {
    return invalid(`"${wrong}" is not a repository path component (lower-case letters, digits, . _ -)`);
  }
  return {
    kind: "registry",
    registry: head,
    repository: parts.slice(1).join("/"),
    tag: split.tag ?? (split.digest === null ? "latest" : null),
    digest: split.digest,
  };
}

type Split = { kind: "split"; name: string; tag: string | null; digest: string | null };

/** Cuts `name[:tag][@digest]`; a colon counts as a tag's only behind the last slash. */
function splitSuffix(text: string): Split | { kind: "invalid"; why: string } {
  const at = text.indexOf("@");
  const digest = at === -1 ? null : text.slice(at + 1);
  if (digest !== null && !DIGEST.test(digest)) {
    return { kind: "invalid", why: `"${digest}" is not a digest (sha256: and 64 hex digits)` };
  }
  const named = at === -1 ? text : text.slice(0, at);
  const colon = named.indexOf(":", named.lastIndexOf("/") + 1);
  const tag = colon === -1 ? null : named.slice(colon + 1);
  if (tag !== null && !TAG.test(tag)) return { kind: "invalid", why: `"${tag}" is not a tag` };
  return { kind: "split", name: colon === -1 ? named : named.slice(0, colon), tag, digest };
}
