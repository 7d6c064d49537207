// The read model of images and weights: the last thing that was said about each.
import type { ImageView, WeightsView } from "@pilotlight/control-api";
import type { Sql, Transaction } from "@pilotlight/store";

export const saveImage = (tx: Transaction, view: ImageView) => tx`
  insert into image (image, platform, view, updated_at)
  values (${view.image}, ${view.platform}, ${tx.json(view)}, ${new Date(view.updatedAt)})
  on conflict (image, platform) do update set view = excluded.view, updated_at = excluded.updated_at
  where image.updated_at <= excluded.updated_at`;

/** Notes that an image is to be converted (again), whatever is known of it. */
export const noteImageAsked = (tx: Transaction, view: ImageView) => tx`
  insert into image (image, platform, view, updated_at)
  values (${view.image}, ${view.platform}, ${tx.json(view)}, ${new Date(view.updatedAt)})
  on conflict (image, platform) do update set view = excluded.view, updated_at = excluded.updated_at`;

/** Notes that an image is wanted, unless it is usable already. */
export const noteImageWanted = (tx: Transaction, view: ImageView) => tx`
  insert into image (image, platform, view, updated_at)
  values (${view.image}, ${view.platform}, ${tx.json(view)}, ${new Date(view.updatedAt)})
  on conflict (image, platform) do update set view = excluded.view, updated_at = excluded.updated_at
  where image.view ->> 'state' = 'failed'`;

export async function listImages(sql: Sql, limit: number): Promise<ImageView[]> {
  const rows = await sql<{ view: ImageView }[]>`
    select view from image order by updated_at desc limit ${limit}`;
  return rows.map((row) => row.view);
}

export const saveWeights = (tx: Transaction, view: WeightsView) => tx`
  insert into weights (node_id, source, view, updated_at)
  values (${view.nodeId}, ${view.source}, ${tx.json(view)}, ${new Date(view.updatedAt)})
  on conflict (node_id, source) do update set view = excluded.view, updated_at = excluded.updated_at
  where weights.updated_at <= excluded.updated_at`;

export async function listWeights(sql: Sql, limit: number): Promise<WeightsView[]> {
  const rows = await sql<{ view: WeightsView }[]>`
    select view from weights order by updated_at desc limit ${limit}`;
  return rows.map((row) => row.view);
}

export const deleteWeightsBefore = (sql: Sql, before: Date) =>
  sql`delete from weights where updated_at < ${before}`;
