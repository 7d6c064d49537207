// What becomes of one chunk: its identity, and the form in which it is stored if it has to be.
import { CODEC_ZEROS, CODEC_ZSTD, type Codec, openCodec } from "@pilotlight/codec";
import type { ChunkEncoding } from "@pilotlight/image-format";
import { sha256, zstdFrame } from "./codec.ts";

export type EncodedChunk = { sha256: Buffer; rawLength: number; encoding: ChunkEncoding; wire: Buffer };

/** `level` 0: not compressed. */
export type EncodeOptions = { level: number; gainMin: number };

const ZEROS = Buffer.alloc(4 << 20);
const NOTHING = Buffer.alloc(0);

let native: { codec: Codec | undefined } | undefined;

/**
 * Hashes the first `rawLength` bytes of `buffer`, and compresses them unless `isKnown` says that they need not be stored; undefined
 * where nothing is known. Until the chunk was stored the buffer must not be touched: what is stored may lie in it.
 */
export async function encodeChunk(
  buffer: Buffer,
  rawLength: number,
  options: EncodeOptions,
  isKnown?: (sha256: Buffer) => boolean,
): Promise<EncodedChunk> {
  native ??= { codec: openCodec() };
  return native.codec === undefined
    ? encodePlainly(buffer.subarray(0, rawLength), options, isKnown)
    : encodeNatively(native.codec, buffer, rawLength, options, isKnown);
}

/** By Node's own means, where the addon is not built. */
export async function encodePlainly(
  raw: Buffer,
  options: EncodeOptions,
  isKnown: (sha256: Buffer) => boolean = () => false,
): Promise<EncodedChunk> {
  const rawLength = raw.length;
  const hash = await sha256(raw);
  if (raw.equals(ZEROS.subarray(0, rawLength)))
    return { sha256: hash, rawLength, encoding: "zeros", wire: NOTHING };
  if (isKnown(hash)) return { sha256: hash, rawLength, encoding: "raw", wire: NOTHING };
  if (options.level === 0) return { sha256: hash, rawLength, encoding: "raw", wire: raw };
  const wire = await zstdFrame(raw, options.level);
  if (wire.length > rawLength * (1 - options.gainMin))
    return { sha256: hash, rawLength, encoding: "raw", wire: raw };
  return { sha256: hash, rawLength, encoding: "zstd", wire };
}

async function encodeNatively(
  codec: Codec,
  buffer: Buffer,
  rawLength: number,
  { level, gainMin }: EncodeOptions,
  isKnown: ((sha256: Buffer) => boolean) | undefined,
): Promise<EncodedChunk> {
  const wanted = level === 0 ? null : level;
  let encoded = await codec.encode(buffer, rawLength, isKnown === undefined ? wanted : null, gainMin);
  if (isKnown !== undefined && encoded.encoding !== CODEC_ZEROS) {
    if (isKnown(encoded.sha256)) return { sha256: encoded.sha256, rawLength, encoding: "raw", wire: NOTHING };
    if (wanted !== null) encoded = await codec.encode(buffer, rawLength, wanted, gainMin);
  }
  const encoding =
    encoded.encoding === CODEC_ZSTD ? "zstd" : encoded.encoding === CODEC_ZEROS ? "zeros" : "raw";
  return { sha256: encoded.sha256, rawLength, encoding, wire: buffer.subarray(0, encoded.wireLength) };
}
