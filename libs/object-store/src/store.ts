// The interface that every kind of object store keeps, and the words it is spoken in. An object is immutable
// bytes under a key; replacing it gives it another ETag. Absence is an expected answer (`head` returns undefined),
// everything else that goes wrong is a PlatformError:
//   notFound            no such object, bucket or directory (get, stream, locate)
//   preconditionFailed  `ifMatch` or `ifNoneMatch` did not hold: somebody else was first, or the object was replaced
//   invalidArgument     a malformed key or URI, a range that starts at or past the object's end, more than bytesMax
//   permissionDenied, unauthenticated, unavailable, deadlineExceeded, resourceExhausted   as the far side says
//   corrupt             bytes that do not match the digest that was promised, or a body that ended early
//   unsupported         this kind of store cannot do it (writing to a web server, for instance)
// Failures that may pass are retried inside, within `StoreOptions.retry` and a budget shared by the whole store.

/** What a store knows of an object without reading it. */
export type ObjectInfo = {
  key: string;
  /** Bytes. */
  size: number;
  /** Opaque, compared for equality only; never a digest of the bytes. Unquoted. */
  etag: string;
  /** Epoch ms, 0 where the far side does not say. */
  modifiedAt: number;
};

/** Part of an object: from `offset` for `length` bytes (to the end without it), or its last `suffix` bytes. */
export type ByteRange = { offset: number; length?: number } | { suffix: number };

export type ReadOptions = {
  range?: ByteRange;
  /** Fails with preconditionFailed unless the object still has this ETag. */
  ifMatch?: string;
  signal?: AbortSignal;
};

export type ObjectBytes = {
  info: ObjectInfo;
  /** Where in the object `bytes` begins. */
  offset: number;
  bytes: Uint8Array;
};

export type ObjectStream = {
  info: ObjectInfo;
  /** Where in the object the body begins, and how many bytes it has. */
  offset: number;
  length: number;
  /**
   * The bytes, in chunks of any size, to be read once. Ends early only by throwing. Leaving the loop frees the
   * connection or file. A cut connection is resumed where it broke, on the same ETag.
   */
  body: AsyncIterable<Uint8Array>;
};

/** Bytes in memory, text (UTF-8), or a stream of any size: streams are never held whole in memory. */
export type PutBody = Uint8Array | string | AsyncIterable<Uint8Array>;

export type PutOptions = {
  /** "*": only create. Of any number of racing writers exactly one succeeds; the others get preconditionFailed. */
  ifNoneMatch?: "*";
  /** Only replace the object that has this ETag; preconditionFailed when it has another one or is gone. */
  ifMatch?: string;
  /** Media type. Kept where the store keeps such things. */
  contentType?: string;
  /** Hex SHA-256 that the bytes must have; otherwise nothing is stored and the error is `corrupt`. */
  sha256?: string;
  signal?: AbortSignal;
};

export type ListOptions = {
  /** Only keys that begin so (a string prefix, not a folder). */
  prefix?: string;
  /** Only keys after this one, in UTF-8 byte order. */
  startAfter?: string;
  signal?: AbortSignal;
};

type FilePlace = { kind: "file"; path: string };
type HttpPlace = { kind: "http"; url: string; headers: Record<string, string>; expiresAt: number };

/**
 * Where a native reader finds a key's bytes by itself: a file to open, or a URL to ask with `Range` and these
 * headers until `expiresAt` (epoch ms; ask again after it). The headers may hold credentials: never log them.
 */
export type BytePlace = FilePlace | HttpPlace;

/** The place of an object that is there, and what it is. */
export type ByteSource =
  | (FilePlace & { info: ObjectInfo })
  | (HttpPlace & {
      info: ObjectInfo;
      /** Whether the server there knows `info.etag` and can be asked with If-Match. */
      etagAskable: boolean;
    });

export type ObjectStore = {
  /** What the store was opened with, without anything secret: fit for logs and events. */
  readonly uri: string;
  /** False: `put` and `delete` fail with `unsupported`. */
  readonly writable: boolean;
  /** Undefined when there is no such object. */
  head(key: string, options?: { signal?: AbortSignal }): Promise<ObjectInfo | undefined>;
  /** Whole object or range in memory. Refuses more than `bytesMax` (default 64 MiB) with invalidArgument. */
  get(key: string, options?: ReadOptions & { bytesMax?: number }): Promise<ObjectBytes>;
  stream(key: string, options?: ReadOptions): Promise<ObjectStream>;
  /** Stores all or nothing: a reader sees the old object or the new one, never a part. */
  put(key: string, body: PutBody, options?: PutOptions): Promise<ObjectInfo>;
  /** In UTF-8 byte order of the keys, fetched page by page. */
  list(options?: ListOptions): AsyncIterable<ObjectInfo>;
  /** Deleting what is not there is no error, unless `ifMatch` asks for it. */
  delete(key: string, options?: { ifMatch?: string; signal?: AbortSignal }): Promise<void>;
  /** With `known`, what a listing or `head` said of the object, one request less where the place does not depend on it. */
  locate(key: string, options?: { signal?: AbortSignal; known?: ObjectInfo }): Promise<ByteSource>;
  /** Where the key's bytes would be, in whatever version; asks nobody whether there are any, unless the place depends on it. */
  place(key: string, options?: { signal?: AbortSignal }): Promise<BytePlace>;
  /** What a moving name in the URI (a branch) stood for when it was first asked: a commit. Absent where there is no such thing. */
  revision?(options?: { signal?: AbortSignal }): Promise<string>;
  /** Closes idle connections and locks. The store is not used after it. */
  close(): Promise<void>;
};
