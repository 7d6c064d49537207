// What held a start up: link, disk or processor. Counted for the whole node from the mount until the program was ready, shown as
// metrics and as a line in the log that carries the place.
import { type Imagefs, watchLoad } from "@pilotlight/imagefs";
import { counter, gauge, logger } from "@pilotlight/telemetry";

const bytes = counter({
  name: "pilotlight_image_start_bytes_total",
  help: "Bytes moved on this node while images were starting: from the bucket, from other nodes, read from and written to the disk.",
  labelNames: ["way"],
});
const rate = gauge({
  name: "pilotlight_image_start_bytes_per_second",
  help: "The same for the last start, as a rate.",
  labelNames: ["way"],
});
const cpu = gauge({
  name: "pilotlight_image_start_cpu_share",
  help: "Share of the node's processor time that was used during the last start.",
});
const disk = gauge({
  name: "pilotlight_image_start_disk_busy_share",
  help: "Share of the last start in which the disk under the image cache had anything to do.",
});

export type StartLoad = {
  /** The program is ready. */
  report(place: string): Promise<void>;
};

/** Begins to count. */
export async function watchStart(imagefs: Imagefs): Promise<StartLoad> {
  await imagefs.probe(); // makes the cache directory
  const load = await watchLoad(imagefs.cacheDir);
  const before = await fetchedBy(imagefs);
  return {
    async report(place) {
      const after = await fetchedBy(imagefs);
      const { durationMs, diskReadBytes, diskWrittenBytes, diskBusyMs, cpuMs, cores } = await load.soFar();
      const moved = {
        bucket: after.bucket - before.bucket,
        peers: after.peers - before.peers,
        diskRead: diskReadBytes ?? 0,
        diskWritten: diskWrittenBytes ?? 0,
      };
      for (const [way, count] of Object.entries(moved)) {
        // An image that was evicted meanwhile takes its count along.
        const whole = Math.max(0, count);
        bytes.inc({ way }, whole);
        rate.set({ way }, (whole / durationMs) * 1000);
      }
      const cpuShare = cpuMs / (durationMs * cores);
      const diskBusyShare = (diskBusyMs ?? 0) / durationMs;
      cpu.set(cpuShare);
      disk.set(diskBusyShare);
      logger("images").info("load of a start", { place, durationMs, ...moved, cpuShare, diskBusyShare });
    },
  };
}

async function fetchedBy(imagefs: Imagefs): Promise<{ bucket: number; peers: number }> {
  const images = (await imagefs.stats())?.images ?? [];
  return {
    bucket: images.reduce((sum, { fetchedBytes }) => sum + fetchedBytes, 0),
    peers: images.reduce((sum, { peerBytes }) => sum + peerBytes, 0),
  };
}
