// What the benchmark promises, by figure.
import type { Target } from "../src/report.ts";

const target = (op: Target["op"], value: number, unit: string, what: string): Target => ({
  op,
  value,
  unit,
  what,
});

export const TARGETS: Record<string, Target> = {
  "weights.link_share_1g": target(">=", 0.95, "of link", "object store to engine tensors, 1 Gbit/s"),
  "weights.link_share_10g": target(">=", 0.95, "of link", "likewise, 10 Gbit/s"),
  "weights.limit_share_unlimited": target(">=", 0.85, "of limit", "loopback, over a plain range reader"),
  "weights.speedup_download_then_load_7b": target(">=", 2, "x", "AWS CLI, then safetensors.torch; 10 Gbit/s"),
  "weights.speedup_download_then_load_70b": target(">=", 4.8, "x", "likewise, 70B-like shards, four ranks"),
  "weights.speedup_runai_10g": target(">=", 1.2, "x", "Run:ai model streamer, 10 Gbit/s"),
  "weights.speedup_runai_unlimited": target(">=", 3, "x", "likewise, unlimited"),
  "weights.speedup_s5cmd_unlimited": target(">=", 1.5, "x", "s5cmd into memory, unlimited"),
  "weights.peak_rss_over_ring_mb": target("<=", 250, "MB", "streamer's peak memory less the weights'"),
  "weights.cores_per_gb_s": target("<=", 0.4, "core·s/GB", "CPU cost without TLS, over 10 Gbit/s"),
  "weights.tp4_wire_ratio": target("<=", 1.02, "x", "bytes on the wire for four ranks over the model's"),
  "weights.relay8_time_ratio": target("<=", 1.5, "x", "eight nodes on rate-limited links over one"),
  "weights.relay8_bucket_ratio": target("<=", 1.25, "x", "bytes from the bucket for eight over the model's"),
};
