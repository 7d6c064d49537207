// The quantisation schemes, and how they are written down: weight-only, symmetric, in the layouts of compressed-tensors
// (https://github.com/neuralmagic/compressed-tensors), which vLLM, SGLang and transformers read from config.json.
import { PlatformError } from "@pilotlight/errors";

export const SCHEMES = ["fp8", "int8", "int4"] as const;
export type SchemeName = (typeof SCHEMES)[number];

export type Scheme = {
  name: SchemeName;
  /** Inputs that share a scale; null: a whole row (an output channel) does. */
  groupSize: number | null;
};

const GROUP_SIZE_DEFAULT = 128;
const GROUP_SIZES = [32, 64, 128, 256];

/** Throws invalidArgument for a scheme or group that no engine reads. */
export function parseScheme(name: string, groupSize: number | undefined): Scheme {
  const known = SCHEMES.find((one) => one === name);
  if (known === undefined) {
    throw new PlatformError("invalidArgument", `'${name}' is no quantisation`, {
      field: "quantize",
      remedy: `Choose one of ${SCHEMES.join(", ")}.`,
    });
  }
  if (known !== "int4") {
    if (groupSize === undefined) return { name: known, groupSize: null };
    throw new PlatformError("invalidArgument", `${known} has one scale per output channel, no groups`, {
      field: "groupSize",
      remedy: "Leave the group size out, or choose int4.",
    });
  }
  const size = groupSize ?? GROUP_SIZE_DEFAULT;
  if (GROUP_SIZES.includes(size)) return { name: known, groupSize: size };
  throw new PlatformError("invalidArgument", `no engine reads groups of ${size}`, {
    field: "groupSize",
    remedy: `Choose one of ${GROUP_SIZES.join(", ")}.`,
  });
}

/** Bits of a weight. */
export const schemeBits = ({ name }: Scheme): number => (name === "int4" ? 4 : 8);

/** `quantization_config` of config.json. `ignore`: modules with a matrix that stay as they were. */
export function quantizationConfig(scheme: Scheme, ignore: readonly string[]): object {
  const { name, groupSize } = scheme;
  return {
    quant_method: "compressed-tensors",
    format: name === "fp8" ? "float-quantized" : "pack-quantized",
    quantization_status: "compressed",
    config_groups: {
      group_0: {
        targets: ["Linear"],
        weights: {
          num_bits: schemeBits(scheme),
          type: name === "fp8" ? "float" : "int",
          symmetric: true,
          strategy: groupSize === null ? "channel" : "group",
          ...(groupSize === null ? {} : { group_size: groupSize }),
          dynamic: false,
        },
        input_activations: null,
        output_activations: null,
      },
    },
    ignore,
    kv_cache_scheme: null,
  };
}
