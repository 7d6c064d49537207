// Eight nodes that start together, each behind a network card of its own (one rate in, one out), against one node that starts
// alone. What the bucket gave is counted at the link.
import { type BenchBucket, type BenchModel, modelUri } from "./bucket.ts";
import { SPARE_ROOM_BYTES, type Streamer, type StreamerSetting, startStreamer } from "./pilotlight.ts";
import { type Link, startLink, type Tools } from "./tools.ts";

/** Eight loads share this machine's cores, so the cards are slow enough to be what limits. */
const CARD_BITS_PER_S = 300e6;
const FIRST_BYTE_MS = 10;
/** Below the ports that the system gives to others. */
const PORT_FIRST = 20_000;
const PORTS_EACH = 8;

export type RelayResult = { timeRatio: number; bucketRatio: number; note: string };

type Setting = {
  streamer: StreamerSetting;
  tools: Tools;
  bucket: BenchBucket;
  model: BenchModel;
};

/** `nodes` at once over one. */
export async function relay(nodes: number, setting: Setting): Promise<RelayResult> {
  const alone = await startTogether(setting, 1);
  const together = await startTogether(setting, nodes);
  return {
    timeRatio: together.seconds / alone.seconds,
    bucketRatio: together.bucketBytes / setting.model.bytes,
    note: `${nodes} nodes ${together.seconds.toFixed(2)} s, one ${alone.seconds.toFixed(2)} s, cards of ${CARD_BITS_PER_S / 1e6} Mbit/s`,
  };
}

async function startTogether(
  { streamer, tools, bucket, model }: Setting,
  count: number,
): Promise<{ seconds: number; bucketBytes: number }> {
  const names = Array.from({ length: count }, (_, i) => `relay-${count}-${i}`);
  const ports = names.map((_, i) => PORT_FIRST + (process.pid % 1_000) * PORTS_EACH + i);
  const rates = Object.fromEntries(
    names.flatMap((name) => [
      [name, CARD_BITS_PER_S],
      [`${name}-out`, CARD_BITS_PER_S],
    ]),
  );
  // First everybody's way to the bucket, then the way to everybody.
  const link = await startLink(
    tools,
    FIRST_BYTE_MS,
    rates,
    [
      ...names.map((name) => ({ to: bucket.address, rates: [name] })),
      ...names.map((name, i) => ({ to: `127.0.0.1:${ports[i]}`, rates: [`${name}-out`] })),
    ],
    "x-pilotlight-node",
  );
  const nodes: Streamer[] = [];
  try {
    for (const [i, nodeId] of names.entries()) {
      const settings = {
        ZONE: "bench",
        PEER_HOST: "127.0.0.1",
        PEER_PORT: String(ports[i]),
        PEER_URL: `http://${link.addresses[count + i]}`,
        CHUNK_BYTES: String(4 * 2 ** 20),
      };
      nodes.push(
        await startStreamer({ ...streamer, nodeId, spareBytes: model.bytes + SPARE_ROOM_BYTES, settings }),
      );
    }
    const before = await bucketBytes(link, count);
    const loads = nodes.map((node, i) => node.load(modelUri(link.addresses[i] ?? "", model.name)));
    const seconds = Math.max(...(await Promise.all(loads)).map((load) => load.seconds));
    return { seconds, bucketBytes: (await bucketBytes(link, count)) - before };
  } finally {
    await Promise.all(nodes.map((node) => node.stop()));
    await link.stop();
  }
}

const bucketBytes = async (link: Link, count: number): Promise<number> =>
  (await link.bytes()).slice(0, count).reduce((a, b) => a + b, 0);
