// Which files of a repository are copied, and which never: files that run code when they are loaded (pickles and
// Python sources) are refused, other frameworks' duplicates of the weights are left out. Pure.
import { PlatformError } from "@pilotlight/errors";

/** Loading one of these executes what it holds. */
const PICKLED = /\.(bin|pt|pth|ckpt|pkl|pickle|joblib|npy)$/i;
/** Weights in formats that are not served, and files that only matter where they came from. */
const LEFT_OUT =
  /\.(h5|msgpack|onnx|onnx_data|tflite|ot|mlmodel|gguf|py|ipynb)$|(^|\/)\.|^(onnx|openvino|coreml)\//i;

export type MirrorPlan = { copied: string[]; leftOut: string[] };

/**
 * Sorts a repository's files. Throws invalidArgument when it has no safetensors weights; pickles beside safetensors
 * are left out, pickles alone are refused.
 */
export function planMirror(names: readonly string[]): MirrorPlan {
  const leftOut = names.filter((name) => PICKLED.test(name) || LEFT_OUT.test(name));
  const copied = names.filter((name) => !leftOut.includes(name) && name !== "pilotlight.json");
  if (copied.some((name) => name.endsWith(".safetensors"))) return { copied, leftOut };
  const pickle = names.find((name) => PICKLED.test(name));
  if (pickle !== undefined) {
    throw new PlatformError(
      "invalidArgument",
      `the repository's weights are pickled (${pickle}): loading them runs code`,
      {
        field: "from",
        remedy: "Take a revision with safetensors weights, or convert it in a place you trust.",
      },
    );
  }
  throw new PlatformError("notFound", "the repository has no safetensors weights", {
    field: "from",
    remedy: "Check the URI: it must name the folder that holds config.json and model.safetensors.",
  });
}

/** The licence that a model card's front matter states, in lower case; undefined without one. */
export function cardLicence(readme: string): string | undefined {
  return /^license:\s*["']?([\w.+-]+)["']?\s*$/m.exec(frontMatter(readme))?.[1];
}

/** Where the card says that its terms stand. */
export function cardLink(readme: string): string | undefined {
  return /^license_link:\s*["']?(\S+?)["']?\s*$/m.exec(frontMatter(readme))?.[1];
}

const frontMatter = (readme: string): string => /^---\r?\n([\s\S]*?)\r?\n---/.exec(readme)?.[1] ?? "";
