// Store URIs: what each scheme allows, and that nothing secret hides in them. Pure.
//   file:///abs/dir                                     a plain directory
//   s3://bucket/prefix?endpoint=URL&region=R&pathStyle=true&profile=P
//   gs://bucket/prefix?endpoint=URL
//   az://container/prefix?account=NAME&endpoint=URL
//   https://host/path (also http://)                    read only
//   hf://owner/repo[@revision]?endpoint=URL             a model hub's repository, read only
//   hf://datasets/owner/repo[@revision]
import { isAbsolute, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { PlatformError } from "@pilotlight/errors";
import { keyProblem } from "./keys.ts";

export type StoreUri =
  | { scheme: "file"; directory: string }
  | {
      scheme: "s3";
      bucket: string;
      /** Empty, or ends with "/". */
      prefix: string;
      /** Undefined: the region's own endpoint. */
      endpoint: string | undefined;
      region: string | undefined;
      /** Bucket in the path instead of the host name. Default: true with an endpoint, false without. */
      pathStyle: boolean;
      /** Which profile of the credentials file to use. */
      profile: string | undefined;
    }
  | { scheme: "gs"; bucket: string; prefix: string; endpoint: string | undefined }
  | {
      scheme: "az";
      container: string;
      prefix: string;
      account: string | undefined;
      /** Of the account's blob service. Undefined: the public cloud's. */
      endpoint: string | undefined;
    }
  | { scheme: "http"; base: string }
  | {
      scheme: "hf";
      kind: "models" | "datasets";
      repository: string;
      revision: string;
      endpoint: string | undefined;
    };

/** Appends to the path of a store's URI, before its settings. */
export function joinUri(uri: string, path: string): string {
  const [base = "", settings] = uri.split("?", 2);
  return `${base.replace(/\/+$/, "")}/${path}${settings === undefined ? "" : `?${settings}`}`;
}

const BUCKET = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;
const GOOGLE_BUCKET = /^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$/;
const CONTAINER = /^(\$root|[a-z0-9](?:-?[a-z0-9]){2,62})$/;
const ACCOUNT = /^[a-z0-9]{3,24}$/;
const REGION = /^[a-z0-9-]{1,64}$/;
const REPOSITORY = /^[\w.-]{1,96}\/[\w.-]{1,96}$/;
const REVISION = /^[\w./-]{1,128}$/;

/** Reads a store URI. Throws invalidArgument or unsupported with the remedy; never repeats a secret it found. */
export function parseStoreUri(uri: string): StoreUri {
  const url = URL.parse(uri);
  if (url === null)
    throw invalid(
      "is not a URI",
      "Write file:///directory, s3://bucket/prefix, gs://…, az://…, https://… or hf://owner/repo.",
    );
  if (url.username !== "" || url.password !== "") {
    throw invalid(
      "carries a user name or password",
      "Give credentials through the environment or a profile file.",
    );
  }
  if (url.hash !== "") throw invalid("has a fragment (#…)", "Remove it; encode a literal # as %23.");
  switch (url.protocol) {
    case "file:":
      return parseFile(url);
    case "s3:":
      return parseS3(url);
    case "https:":
    case "http:":
      return parseHttp(url);
    case "hf:":
      return parseHub(url);
    case "gs:":
      return parseGoogle(url);
    case "az:":
      return parseAzure(url);
    default:
      throw new PlatformError("unsupported", `unknown kind of store ${url.protocol}//`, {
        field: "uri",
        remedy: "Use file://, s3://, gs://, az://, https:// or hf://.",
      });
  }
}

function parseFile(url: URL): StoreUri {
  onlyParameters(url, []);
  if (url.host !== "" && url.host !== "localhost") {
    throw invalid(
      `names a host (${url.host})`,
      "Write three slashes and an absolute path: file:///srv/bucket.",
    );
  }
  const path = fileURLToPath(new URL(`file://${url.pathname}`));
  if (!isAbsolute(path) || path.includes("\0"))
    throw invalid("needs an absolute path", "Write file:///srv/bucket.");
  return { scheme: "file", directory: resolve(path) };
}

function parseS3(url: URL): StoreUri {
  const query = onlyParameters(url, ["endpoint", "region", "pathStyle", "profile"]);
  if (!BUCKET.test(url.host)) {
    throw invalid(
      `has no valid bucket name (${url.host})`,
      "Write s3://bucket/prefix, the bucket in lower case.",
    );
  }
  const { region, profile } = query;
  if (region !== undefined && !REGION.test(region))
    throw invalid(`has a malformed region`, "Write e.g. region=eu-west-1.");
  const endpoint = query.endpoint === undefined ? undefined : checkEndpoint(query.endpoint);
  return {
    scheme: "s3",
    bucket: url.host,
    prefix: folder(decodePath(url.pathname)),
    endpoint,
    region,
    pathStyle: boolean(query.pathStyle, "pathStyle") ?? endpoint !== undefined,
    profile,
  };
}

function parseGoogle(url: URL): StoreUri {
  const query = onlyParameters(url, ["endpoint"]);
  if (!GOOGLE_BUCKET.test(url.host)) {
    throw invalid(`has no valid bucket name (${url.host})`, "Write gs://bucket/prefix.");
  }
  const endpoint = query.endpoint === undefined ? undefined : checkEndpoint(query.endpoint);
  return { scheme: "gs", bucket: url.host, prefix: folder(decodePath(url.pathname)), endpoint };
}

function parseAzure(url: URL): StoreUri {
  const query = onlyParameters(url, ["account", "endpoint"]);
  if (!CONTAINER.test(url.host)) {
    throw invalid(
      `has no valid container name (${url.host})`,
      "Write az://container/prefix?account=NAME, the container in lower case.",
    );
  }
  const { account } = query;
  if (account !== undefined && !ACCOUNT.test(account)) {
    throw invalid("has a malformed account", "Write e.g. account=mystorage.");
  }
  const endpoint = query.endpoint === undefined ? undefined : checkEndpoint(query.endpoint);
  return { scheme: "az", container: url.host, prefix: folder(decodePath(url.pathname)), account, endpoint };
}

function parseHttp(url: URL): StoreUri {
  // A query on a plain URL is nearly always a signature or token.
  if (url.search !== "") throw invalid("has a query", "Give the folder's URL; tokens go into StoreOptions.");
  return { scheme: "http", base: `${url.protocol}//${url.host}/${folder(url.pathname.replace(/^\/+/, ""))}` };
}

function parseHub(url: URL): StoreUri {
  const query = onlyParameters(url, ["endpoint"]);
  const path = decodePath(`${url.host}${url.pathname}`);
  const kind = path.startsWith("datasets/") ? "datasets" : "models";
  const [repository = "", revision = "main", ...rest] = path.replace(/^datasets\//, "").split("@");
  const clean = repository.replace(/\/+$/, "");
  if (
    rest.length > 0 ||
    !REPOSITORY.test(clean) ||
    !REVISION.test(revision) ||
    `/${revision}/`.includes("/../")
  ) {
    throw invalid("does not name a repository", "Write hf://owner/repo or hf://owner/repo@revision.");
  }
  const endpoint = query.endpoint === undefined ? undefined : checkEndpoint(query.endpoint);
  return { scheme: "hf", kind, repository: clean, revision: revision.replace(/\/+$/, ""), endpoint };
}

/** An http(s) origin with optional path, no trailing slash, nothing secret. */
function checkEndpoint(text: string): string {
  const endpoint = URL.parse(text);
  if (endpoint === null || (endpoint.protocol !== "http:" && endpoint.protocol !== "https:")) {
    throw invalid("has an endpoint that is not http(s)", "Write e.g. endpoint=http://127.0.0.1:7070.");
  }
  if (
    endpoint.username !== "" ||
    endpoint.password !== "" ||
    endpoint.search !== "" ||
    endpoint.hash !== ""
  ) {
    throw invalid(
      "has an endpoint with credentials, query or fragment",
      "Give only scheme, host, port and path.",
    );
  }
  return `${endpoint.origin}${endpoint.pathname}`.replace(/\/+$/, "");
}

function onlyParameters<Name extends string>(url: URL, names: Name[]): Partial<Record<Name, string>> {
  const found: Partial<Record<Name, string>> = {};
  for (const [name, value] of url.searchParams) {
    if (!(names as string[]).includes(name)) {
      const allowed =
        names.length === 0
          ? "This scheme takes none."
          : `It takes ${names.join(", ")}; credentials never go here.`;
      throw invalid(`has an unknown parameter ${JSON.stringify(name)}`, allowed);
    }
    found[name as Name] = value;
  }
  return found;
}

function boolean(text: string | undefined, name: string): boolean | undefined {
  if (text === undefined) return undefined;
  if (text !== "true" && text !== "false") throw invalid(`has ${name}=${text}`, "Write true or false.");
  return text === "true";
}

function folder(path: string): string {
  const trimmed = path.replace(/^\/+|\/+$/g, "");
  if (trimmed === "") return "";
  const problem = keyProblem(trimmed);
  if (problem !== undefined) throw invalid(`has a prefix that ${problem}`, "Use a plain path.");
  return `${trimmed}/`;
}

function decodePath(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    throw invalid("has a malformed % escape", "Encode each special byte as %XX.");
  }
}

function invalid(what: string, remedy: string): PlatformError {
  return new PlatformError("invalidArgument", `the store URI ${what}`, { field: "uri", remedy });
}
