// What may stand behind `model.source:`: a URI by scheme. Only its form is checked here; `libs/object-store` opens it.

const MODEL_SCHEMES = ["bucket", "s3", "gs", "az", "https", "http", "hf", "file"] as const;
export type ModelScheme = (typeof MODEL_SCHEMES)[number];

export type ModelSource = { kind: "source"; scheme: ModelScheme; uri: string };
export type ModelSourceParsed = ModelSource | { kind: "invalid"; why: string };

const invalid = (why: string): ModelSourceParsed => ({ kind: "invalid", why });

/** Parses a model source; a wrong one comes back as `invalid` with a sentence that says why. */
export function parseModelSource(text: string): ModelSourceParsed {
  const match = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/.exec(text);
  if (match === null)
    return invalid(`"${text}" is not a URI; write e.g. bucket://models/NAME or file:///path`);
  const [, scheme = "", rest = ""] = match;
  if (!isScheme(scheme)) {
    return invalid(
      `"${scheme}://" is not supported; use one of ${MODEL_SCHEMES.map((one) => `${one}://`).join(", ")}`,
    );
  }
  if (/\s/.test(rest)) return invalid("contains white space");
  if (/^[^/]*@/.test(rest) && scheme !== "hf") {
    return invalid(
      "must not contain a user name or password; credentials come from the platform's configuration",
    );
  }
  if (rest.split(/[/\\]/).includes("..")) return invalid("must not contain ..");
  if (scheme === "file" && !/^\/./.test(rest))
    return invalid("a file:// path must be absolute: file:///path");
  if (scheme === "hf" && !/^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/.test(rest)) {
    return invalid("must be hf://owner/name or hf://owner/name@revision");
  }
  if (scheme !== "file" && !/^[^/]+/.test(rest)) return invalid("names no bucket or host");
  return { kind: "source", scheme, uri: text };
}

const isScheme = (text: string): text is ModelScheme => (MODEL_SCHEMES as readonly string[]).includes(text);
