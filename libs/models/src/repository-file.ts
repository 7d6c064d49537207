// A file on its way into a repository: known by name and size, its bytes made or read when they are wanted.

export type RepositoryFile = {
  name: string;
  bytes: number;
  /** Opens the file's bytes from the start; may be called again. */
  open: () => AsyncIterable<Uint8Array>;
};

export function bytesFile(name: string, content: Uint8Array): RepositoryFile {
  return {
    name,
    bytes: content.byteLength,
    open: async function* () {
      yield content;
    },
  };
}

export function textFile(name: string, text: string): RepositoryFile {
  return bytesFile(name, Buffer.from(text));
}

export function jsonFile(name: string, value: object): RepositoryFile {
  return textFile(name, `${JSON.stringify(value, null, 2)}\n`);
}
