// OCI images: reading them from registries and layout directories, and writing a layout without a container engine.
export { decompressed } from "./decompress.ts";
export {
  formatPlatform,
  hostPlatform,
  type ImageConfigDocument,
  type Platform,
  parseImageConfig,
  parsePlatform,
  platformMatches,
  type RunConfig,
  runConfigOf,
} from "./documents.ts";
export type { LayerSource } from "./file-tree.ts";
export { type ImagePolicy, parseSigningKeys } from "./image-policy.ts";
export { type WriteLayoutOptions, type WrittenLayout, writeOciLayout } from "./layout-writer.ts";
export { formatReference, type ImageReference, parseReference, withDigest } from "./reference.ts";
export type { RegistryOptions } from "./registry.ts";
export {
  type CredentialProvider,
  dockerConfigCredentials,
  type RegistryCredentials,
} from "./registry-auth.ts";
export { MERGED_USR_LINKS, sharedLibrarySources } from "./shared-libraries.ts";
export { type ImageLayer, type OpenedImage, type OpenImageOptions, openImage } from "./source.ts";
export { type TarItem, writeTar } from "./tar-writer.ts";
