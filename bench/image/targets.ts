// What the benchmark promises, by figure.
import type { Target } from "../src/report.ts";

const target = (op: Target["op"], value: number, unit: string, what: string): Target => ({
  op,
  value,
  unit,
  what,
});

export const TARGETS: Record<string, Target> = {
  "image.speedup_containerd_6gb_eks": target(">=", 40, "x", "containerd pull and run over Pilotlight"),
  "image.speedup_containerd_13gb_eks": target(">=", 40, "x", "likewise"),
  "image.speedup_estargz_6gb_eks": target(">=", 3, "x", "stargz-snapshotter, optimised eStargz"),
  "image.speedup_containerd_6gb_1g": target(">=", 30, "x", "containerd, 1 Gbit/s"),
  "image.speedup_containerd_13gb_1g": target(">=", 30, "x", "likewise"),
  "image.speedup_containerd_6gb_8g": target(">=", 30, "x", "containerd, 8 Gbit/s"),
  "image.speedup_estargz_6gb_1g": target(">=", 3, "x", "stargz-snapshotter, 1 Gbit/s"),
  "image.over_floor_6gb_1g": target("<=", 1.3, "x", "over bytes fetched / link + the same work, all local"),
  "image.local_seq_read_ratio": target(">=", 0.8, "of ext4", "sequential reads of local data"),
  "image.local_rand_read_ratio": target(">=", 0.8, "of ext4", "random reads of 4 KiB, likewise"),
  "image.convert_mb_s": target(">=", 150, "MB/s", "conversion, unpacked bytes"),
  "image.convert_peak_rss_mb": target("<=", 512, "MB", "the converter's peak memory"),
  "image.second_version_upload_percent": target("<=", 3, "%", "uploaded for a version with 1 % changed"),
  "image.mass_start_bucket_ratio": target(
    "<=",
    1.25,
    "x",
    "bucket bytes of 100 starts on 5 nodes over one start's",
  ),
  "image.bytes_fetched_20_mounts_ratio": target("<=", 1.01, "x", "20 mounts of one image over one"),
};
