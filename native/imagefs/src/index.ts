// Converted images as root directories, and programs in them. README.md explains the processes behind it.
export { type CompareOptions, compareTrees, type TreeComparison } from "./compare.ts";
export {
  DEFAULT_CACHE_BYTES_MAX,
  type Imagefs,
  type ImagefsOptions,
  type Mount,
  type MountOptions,
  openImagefs,
} from "./imagefs.ts";
export {
  type BindMount,
  type Launched,
  type LaunchMode,
  type LaunchOptions,
  launch,
  launchMode,
} from "./launch.ts";
export { type LoadWatch, type NodeLoad, watchLoad } from "./load.ts";
export type { MountMethod, Probe } from "./probe.ts";
export { entryName, profilesOf, type RecordedStart, type StoredProfile } from "./profiles.ts";
export type { SharingOptions } from "./sharing.ts";
export type { ImagefsStats, ImageStats, TouchedRun } from "./stats.ts";
export { DEFAULT_IMAGEFS_TIMES, type ImagefsTimes } from "./times.ts";
