// The one error class of the platform. A code says what the caller can do, the message names the field, the
// value and what is wrong, the remedy says what to do about it. The cause is kept for logs and never sent.

/**
 * Every code, and whether trying the same call again can help. The HTTP and gRPC equivalents stand beside it so
 * that no service invents its own mapping (gRPC numbers: https://grpc.io/docs/guides/status-codes/).
 */
export const ERROR_CODES = {
  invalidArgument: { http: 400, grpc: 3, retryable: false },
  unauthenticated: { http: 401, grpc: 16, retryable: false },
  permissionDenied: { http: 403, grpc: 7, retryable: false },
  notFound: { http: 404, grpc: 5, retryable: false },
  alreadyExists: { http: 409, grpc: 6, retryable: false },
  /** Somebody else changed the thing first: read again, then decide. */
  conflict: { http: 409, grpc: 10, retryable: false },
  preconditionFailed: { http: 412, grpc: 9, retryable: false },
  /** A limit was reached: queue, disk, memory, quota. */
  resourceExhausted: { http: 429, grpc: 8, retryable: true },
  cancelled: { http: 499, grpc: 1, retryable: false },
  internal: { http: 500, grpc: 13, retryable: false },
  /** Bytes that do not match their checksum or break their format. Never served, never retried blindly. */
  corrupt: { http: 502, grpc: 15, retryable: false },
  unsupported: { http: 501, grpc: 12, retryable: false },
  unavailable: { http: 503, grpc: 14, retryable: true },
  deadlineExceeded: { http: 504, grpc: 4, retryable: true },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

export type PlatformErrorOptions = {
  /** What the reader can do about it, as an imperative sentence. */
  remedy?: string;
  /** The path of the offending field, e.g. `deployments[0].resources.accelerators`. */
  field?: string;
  /** Ask again after this long. Only for retryable codes. */
  retryAfterMs?: number;
  cause?: unknown;
};

export class PlatformError extends Error {
  override readonly name = "PlatformError";
  readonly code: ErrorCode;
  readonly remedy: string | undefined;
  readonly field: string | undefined;
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, options: PlatformErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.remedy = options.remedy;
    this.field = options.field;
    this.retryAfterMs = options.retryAfterMs;
  }

  get retryable(): boolean {
    return ERROR_CODES[this.code].retryable;
  }

  /** The form that may leave the process: no cause, no stack. */
  toJSON(): { code: ErrorCode; message: string; field?: string; remedy?: string; retryAfterMs?: number } {
    return {
      code: this.code,
      message: this.message,
      ...(this.field === undefined ? {} : { field: this.field }),
      ...(this.remedy === undefined ? {} : { remedy: this.remedy }),
      ...(this.retryAfterMs === undefined ? {} : { retryAfterMs: this.retryAfterMs }),
    };
  }

  /** One line for people: message, then the remedy. */
  override toString(): string {
    return this.remedy === undefined ? this.message : `${this.message}\n  ${this.remedy}`;
  }
}

/**
 * Turns anything that was thrown into a PlatformError. This is the only place where system errors (`ECONNRESET`,
 * `ENOSPC`, …) become codes.
 */
export function toPlatformError(thrown: unknown): PlatformError {
  if (thrown instanceof PlatformError) return thrown;
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  const system = findSystemError(error);
  if (system !== undefined) {
    return new PlatformError(system.mapped.code, error.message, {
      cause: error,
      remedy: system.mapped.remedy,
    });
  }
  if (error.name === "AbortError") return new PlatformError("cancelled", error.message, { cause: error });
  if (error.name === "TimeoutError")
    return new PlatformError("deadlineExceeded", error.message, { cause: error });
  return new PlatformError("internal", error.message, { cause: error });
}

type Mapped = { code: ErrorCode; remedy: string };

const PEER_GONE: Mapped = { code: "unavailable", remedy: "The other side is down or restarting; try again." };
const SYSTEM_ERRORS: Record<string, Mapped> = {
  ECONNRESET: PEER_GONE,
  ECONNREFUSED: PEER_GONE,
  ECONNABORTED: PEER_GONE,
  EPIPE: PEER_GONE,
  EHOSTUNREACH: PEER_GONE,
  ENETUNREACH: PEER_GONE,
  ENOTFOUND: { code: "unavailable", remedy: "Check the host name and the name service." },
  EAI_AGAIN: { code: "unavailable", remedy: "The name service did not answer; try again." },
  UND_ERR_SOCKET: PEER_GONE,
  CONNECTION_CLOSED: PEER_GONE,
  CONNECTION_DESTROYED: PEER_GONE,
  CONNECTION_ENDED: PEER_GONE,
  CONNECT_TIMEOUT: {
    code: "deadlineExceeded",
    remedy: "The other side did not accept the connection in time.",
  },
  ETIMEDOUT: { code: "deadlineExceeded", remedy: "The other side did not answer in time; try again." },
  UND_ERR_CONNECT_TIMEOUT: {
    code: "deadlineExceeded",
    remedy: "The other side did not accept in time; try again.",
  },
  UND_ERR_HEADERS_TIMEOUT: {
    code: "deadlineExceeded",
    remedy: "The other side did not answer in time; try again.",
  },
  UND_ERR_BODY_TIMEOUT: { code: "deadlineExceeded", remedy: "The other side stopped sending; try again." },
  ENOSPC: { code: "resourceExhausted", remedy: "The disk is full: free space, or lower the cache limits." },
  EDQUOT: { code: "resourceExhausted", remedy: "The disk quota is used up: free space or raise it." },
  EMFILE: { code: "resourceExhausted", remedy: "Too many open files: raise the limit (ulimit -n)." },
  ENFILE: { code: "resourceExhausted", remedy: "The machine has too many open files." },
  ENOMEM: { code: "resourceExhausted", remedy: "Out of memory." },
  ENOENT: { code: "notFound", remedy: "Check that the path exists." },
  EACCES: {
    code: "permissionDenied",
    remedy: "Check the permissions of the path, or run as a user that has them.",
  },
  EPERM: { code: "permissionDenied", remedy: "The operation needs more privileges." },
  EROFS: { code: "permissionDenied", remedy: "The file system is read-only." },
  EADDRINUSE: {
    code: "alreadyExists",
    remedy: "The port is taken: stop the other program or configure another port.",
  },
  EIO: { code: "corrupt", remedy: "The device or the image could not deliver the bytes." },
};

function findSystemError(error: Error): { mapped: Mapped } | undefined {
  // The code may sit a few causes down (fetch wraps undici, which wraps the socket's error).
  let current: unknown = error;
  for (let depth = 0; depth < 4 && current instanceof Error; depth++) {
    const code = (current as { code?: unknown }).code;
    const mapped = typeof code === "string" ? SYSTEM_ERRORS[code] : undefined;
    if (mapped !== undefined) return { mapped };
    current = current.cause;
  }
  return undefined;
}
