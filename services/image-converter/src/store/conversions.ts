// The conversion rows: asking, claiming, renewing, finishing. `now` is a parameter, so a test owns time.
import type { Queryable } from "@pilotlight/store";
import type { ImageUse } from "../domain/images-in-use.ts";

export type ConversionKey = { image: string; platform: string };

export type Failure = { code: string; message: string; remedy: string };

export type ReadyImage = {
  manifestDigest: string;
  imageId: string;
  unpackedBytes: bigint;
  storedBytes: bigint;
  uploadedBytes: bigint;
  durationMs: number;
};

/** A row as readers see it. */
export type Conversion = ConversionKey &
  (
    | { state: "wanted" | "converting" }
    | ({ state: "ready" } & ReadyImage)
    | { state: "failed"; failure: Failure }
  );

type Row = ConversionKey & {
  state: Conversion["state"];
  manifest_digest: string;
  image_id: string;
  unpacked_bytes: bigint;
  stored_bytes: bigint;
  uploaded_bytes: bigint;
  duration_ms: number;
  failure: Failure;
};

const readyOf = (row: Row): ReadyImage => ({
  manifestDigest: row.manifest_digest,
  imageId: row.image_id,
  unpackedBytes: row.unpacked_bytes,
  storedBytes: row.stored_bytes,
  uploadedBytes: row.uploaded_bytes,
  durationMs: row.duration_ms,
});

function fromRow(row: Row): Conversion {
  const key = { image: row.image, platform: row.platform };
  switch (row.state) {
    case "ready":
      return { ...key, state: "ready", ...readyOf(row) };
    case "failed":
      return { ...key, state: "failed", failure: row.failure };
    default:
      return { ...key, state: row.state };
  }
}

/** Asks for a conversion. One that is wanted or under way already is joined. */
export const wantConversion = (sql: Queryable, key: ConversionKey, now: Date) => sql`
  insert into conversion (image, platform, state, wanted_at, updated_at)
  values (${key.image}, ${key.platform}, 'wanted', ${now}, ${now})
  on conflict (image, platform) do update set state = 'wanted', wanted_at = ${now}, updated_at = ${now}
  where conversion.state in ('ready', 'failed')`;

/** Claims up to `limit` conversions, oldest first; concurrent converters skip each other's rows. */
export const claimConversions = (
  sql: Queryable,
  claim: { by: string; now: Date; until: Date; limit: number },
) => sql<ConversionKey[]>`
  update conversion set state = 'converting', claimed_by = ${claim.by}, claimed_until = ${claim.until}, updated_at = ${claim.now}
  where (image, platform) in (
    select image, platform from conversion
    where state = 'wanted' or (state = 'converting' and claimed_until < ${claim.now})
    order by wanted_at limit ${claim.limit} for update skip locked)
  returning image, platform`;

/** Keeps a claim alive. */
export const renewClaim = (sql: Queryable, key: ConversionKey, claim: { by: string; until: Date }) => sql`
  update conversion set claimed_until = ${claim.until}
  where image = ${key.image} and platform = ${key.platform} and claimed_by = ${claim.by} and state = 'converting'`;

/** Writes the result; false when the claim was lost meanwhile (somebody else finishes). */
export async function finishConversion(
  sql: Queryable,
  key: ConversionKey,
  by: string,
  outcome: { ready: ReadyImage } | { failure: Failure },
  now: Date,
): Promise<boolean> {
  const ready = "ready" in outcome ? outcome.ready : undefined;
  const failure = "failure" in outcome ? outcome.failure : undefined;
  const rows = await sql`
    update conversion set
      state = ${ready === undefined ? "failed" : "ready"}, claimed_by = null, claimed_until = null, updated_at = ${now},
      manifest_digest = ${ready?.manifestDigest ?? null}, image_id = ${ready?.imageId ?? null},
      unpacked_bytes = ${ready?.unpackedBytes ?? null}, stored_bytes = ${ready?.storedBytes ?? null},
      uploaded_bytes = ${ready?.uploadedBytes ?? null}, duration_ms = ${ready?.durationMs ?? null},
      failure = ${failure === undefined ? null : sql.json(failure)}
    where image = ${key.image} and platform = ${key.platform} and claimed_by = ${by} and state = 'converting'
    returning 1`;
  return rows.length > 0;
}

export async function readConversion(sql: Queryable, key: ConversionKey): Promise<Conversion | undefined> {
  const [row] = await sql<
    Row[]
  >`select * from conversion where image = ${key.image} and platform = ${key.platform}`;
  return row === undefined ? undefined : fromRow(row);
}

/** Every reference that led to an image, with the time it was asked for last. */
export const listUses = async (sql: Queryable): Promise<ImageUse[]> => {
  const rows = await sql<{ image: string; manifest_digest: string; wanted_at: Date }[]>`
    select image, manifest_digest, wanted_at from conversion where manifest_digest is not null`;
  return rows.map((row) => ({
    image: row.image,
    manifestDigest: row.manifest_digest,
    askedAt: row.wanted_at.getTime(),
  }));
};

/** Ready images, newest first. */
export async function listReady(sql: Queryable, limit: number): Promise<(ConversionKey & ReadyImage)[]> {
  const rows = await sql<
    Row[]
  >`select * from conversion where state = 'ready' order by updated_at desc limit ${limit}`;
  return rows.map((row) => ({ image: row.image, platform: row.platform, ...readyOf(row) }));
}
