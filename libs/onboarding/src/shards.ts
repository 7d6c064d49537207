// Planned tensors as files: shards of about a size, each laid out ahead and written in one pass, and their index.
import { bytesFile, type RepositoryFile } from "@pilotlight/models";
import {
  formatIndex,
  INDEX_FILE,
  layoutFile,
  SINGLE_FILE,
  shardName,
  tensorBytes,
} from "@pilotlight/safetensors";
import type { PlannedTensor, Unit } from "./planned-tensor.ts";

/** The weight files and, for several, their index. A unit larger than `shardBytesMax` gets a file of its own. */
export function shardFiles(
  units: readonly Unit[],
  shardBytesMax: number,
  metadata: Record<string, string>,
): RepositoryFile[] {
  const shards = cut(units, shardBytesMax);
  const files = shards.map((tensors, i) => {
    const name = shards.length === 1 ? SINGLE_FILE : shardName(i + 1, shards.length);
    return shardFile(name, tensors, metadata);
  });
  const index = formatIndex(new Map(files.map((file) => [file.name, file.tensors])));
  return [
    ...files.map(({ name, bytes, open }) => ({ name, bytes, open })),
    ...(files.length > 1 ? [bytesFile(INDEX_FILE, Buffer.from(index))] : []),
  ];
}

function cut(units: readonly Unit[], bytesMax: number): PlannedTensor[][] {
  const shards: PlannedTensor[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const unit of units) {
    const size = unit.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0);
    if (bytes + size > bytesMax) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)?.push(...unit);
    bytes += size;
  }
  return shards;
}

function shardFile(name: string, tensors: readonly PlannedTensor[], metadata: Record<string, string>) {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const layout = layoutFile(
    tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    metadata,
  );
  const open = async function* (): AsyncGenerator<Uint8Array> {
    yield layout.head;
    for (const { name } of layout.tensors) yield* (byName.get(name) as PlannedTensor).open();
  };
  return { name, bytes: layout.fileBytes, open, tensors: layout.tensors };
}
