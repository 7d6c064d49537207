// gRPC doors and clients: protobuf-es messages over grpc-js, request ID and trace in the metadata, PlatformErrors on both
// sides. The adapter exists because protobuf-es generates no grpc-js stubs; it only pairs the two libraries' descriptors.
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import {
  Client,
  type ClientReadableStream,
  credentials,
  type handleUnaryCall,
  Metadata,
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerWritableStream,
  type ServiceError,
  type UntypedHandleCall,
} from "@grpc/grpc-js";
import { ERROR_CODES, type ErrorCode, PlatformError, toPlatformError } from "@pilotlight/errors";
import { inSpan, logger, outgoingHeaders, withIncomingHeaders } from "@pilotlight/telemetry";

type Unary<M extends DescMethod> = (
  request: MessageShape<M["input"]>,
  call: CallContext,
) => Promise<MessageInitShape<M["output"]>>;
type ServerStreaming<M extends DescMethod> = (
  request: MessageShape<M["input"]>,
  call: CallContext,
) => AsyncIterable<MessageInitShape<M["output"]>>;
type BidiStreaming<M extends DescMethod> = (
  requests: AsyncIterable<MessageShape<M["input"]>>,
  call: CallContext,
) => AsyncIterable<MessageInitShape<M["output"]>>;

/** What a handler may know about its call. */
export type CallContext = { signal: AbortSignal };

type Methods<S extends DescService> = S["method"];
type HandlerOf<M extends DescMethod> = M["methodKind"] extends "unary"
  ? Unary<M>
  : M["methodKind"] extends "server_streaming"
    ? ServerStreaming<M>
    : M["methodKind"] extends "bidi_streaming"
      ? BidiStreaming<M>
      : never;

/** An implementation of a service: one function a method. */
export type GrpcHandlers<S extends DescService> = { [K in keyof Methods<S>]: HandlerOf<Methods<S>[K]> };

type ClientMethod<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: MessageInitShape<M["input"]>, options?: CallOptions) => Promise<MessageShape<M["output"]>>
  : M["methodKind"] extends "server_streaming"
    ? (
        request: MessageInitShape<M["input"]>,
        options?: CallOptions,
      ) => AsyncIterable<MessageShape<M["output"]>>
    : M["methodKind"] extends "bidi_streaming"
      ? (
          requests: AsyncIterable<MessageInitShape<M["input"]>>,
          options?: CallOptions,
        ) => AsyncIterable<MessageShape<M["output"]>>
      : never;

export type CallOptions = { signal?: AbortSignal; timeoutMs?: number };

/** A typed client: one function a method, and `close`. */
export type GrpcClient<S extends DescService> = { [K in keyof Methods<S>]: ClientMethod<Methods<S>[K]> } & {
  close(): void;
};

/** Largest message either side accepts. Tensors never travel by gRPC; the largest are tokenizer files and log pages. */
const MESSAGE_BYTES_MAX = 96 * 1024 * 1024;

function definitionOf(
  method: DescMethod,
): MethodDefinition<MessageShape<DescMessage>, MessageShape<DescMessage>> {
  const clientStreams = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
  const serverStreams = method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming";
  const encode = (desc: DescMessage) => (message: MessageShape<DescMessage>) =>
    Buffer.from(toBinary(desc, message));
  const decode = (desc: DescMessage) => (data: Buffer) => fromBinary(desc, data);
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: clientStreams,
    responseStream: serverStreams,
    requestSerialize: encode(method.input),
    requestDeserialize: decode(method.input),
    responseSerialize: encode(method.output),
    responseDeserialize: decode(method.output),
  };
}

export type GrpcDoor = { address: string; close(timeoutMs: number): Promise<void> };

/** Serves gRPC services on `host:port` (port 0: any free one) or `unix:/path`. */
export async function serveGrpc(address: string, services: readonly GrpcService[]): Promise<GrpcDoor> {
  const server = new Server({
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
  });
  for (const { definition, implementation } of services) server.addService(definition, implementation);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) return resolve(bound);
      reject(
        new PlatformError("alreadyExists", `gRPC cannot listen on ${address}: ${error.message}`, {
          remedy: "Stop the other program, or configure another address.",
          cause: error,
        }),
      );
    });
  });
  return {
    address: address.startsWith("unix:") ? address : address.replace(/:\d+$/, `:${port}`),
    close: (timeoutMs) =>
      new Promise((resolve) => {
        // The server may forget to say that it ended when its last connection ends at the same time.
        const force = setTimeout(() => {
          server.forceShutdown();
          resolve();
        }, timeoutMs);
        server.tryShutdown(() => {
          clearTimeout(force);
          resolve();
        });
      }),
  };
}

type GrpcService = {
  definition: Record<string, MethodDefinition<MessageShape<DescMessage>, MessageShape<DescMessage>>>;
  implementation: Record<string, UntypedHandleCall>;
};

/** Pairs a service's descriptor with its handlers, for `serveGrpc`. */
export function grpcService<S extends DescService>(service: S, handlers: GrpcHandlers<S>): GrpcService {
  const definition: GrpcService["definition"] = {};
  const implementation: GrpcService["implementation"] = {};
  for (const method of service.methods) {
    definition[method.localName] = definitionOf(method);
    implementation[method.localName] = handlerOf(
      method,
      (handlers as Record<string, unknown>)[method.localName],
    );
  }
  return { definition, implementation };
}

type AnyUnary = (request: unknown, context: CallContext) => Promise<unknown>;
/** What all four kinds of grpc-js calls have in common. */
type AnyCall = { metadata: Metadata; on(event: "cancelled", listener: () => void): unknown };

function handlerOf(method: DescMethod, handler: unknown): UntypedHandleCall {
  const spanName = `${method.parent.typeName}/${method.name}`;
  const inContext = <T>(call: AnyCall, work: (context: CallContext) => Promise<T>): Promise<T> => {
    const stopper = new AbortController();
    call.on("cancelled", () => stopper.abort(new PlatformError("cancelled", "the caller went away")));
    return withIncomingHeaders(call.metadata.getMap(), () =>
      inSpan(spanName, { kind: "server" }, () => work({ signal: stopper.signal })),
    );
  };
  if (method.methodKind === "unary") {
    const unary: handleUnaryCall<MessageShape<DescMessage>, MessageShape<DescMessage>> = (call, callback) => {
      inContext(call, (context) => (handler as AnyUnary)(call.request, context)).then(
        (response) => callback(null, create(method.output, response as never)),
        (error) => callback(toServiceError(error, spanName)),
      );
    };
    return unary as UntypedHandleCall;
  }
  return ((call: ServerDuplexStream<unknown, unknown>) => {
    // The plain iterator of a stream destroys it when a handler stops reading; its answers must still go out.
    const input =
      method.methodKind === "bidi_streaming"
        ? call.iterator({ destroyOnReturn: false })
        : (call as unknown as ServerWritableStream<unknown, unknown>).request;
    inContext(call, async (context) => {
      const responses = (handler as (input: unknown, context: CallContext) => AsyncIterable<unknown>)(
        input,
        context,
      );
      for await (const response of responses) {
        if (context.signal.aborted) return;
        if (!call.write(create(method.output, response as never))) await drained(call, context.signal);
      }
      call.end();
    }).catch((error) => call.emit("error", toServiceError(error, spanName)));
  }) as UntypedHandleCall;
}

function drained(call: ServerDuplexStream<unknown, unknown>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    // An ended call never drains.
    if (signal.aborted) return resolve();
    const done = () => {
      call.off("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    call.once("drain", done);
    signal.addEventListener("abort", done, { once: true });
  });
}

const ERROR_KEY = "pilotlight-error-bin";

function toServiceError(thrown: unknown, method: string): Partial<ServiceError> {
  const error = toPlatformError(thrown);
  if (error.code === "internal") logger("grpc").error("call failed", { method, error });
  const metadata = new Metadata();
  metadata.set(ERROR_KEY, Buffer.from(JSON.stringify(error)));
  return { code: ERROR_CODES[error.code].grpc, details: error.message, metadata };
}

const CODES_BY_NUMBER = new Map(
  Object.entries(ERROR_CODES).map(([code, { grpc }]) => [grpc as number, code as ErrorCode]),
);

function fromServiceError(error: ServiceError, target: string): PlatformError {
  const detail = error.metadata?.get(ERROR_KEY)[0];
  const carried =
    detail === undefined
      ? {}
      : (JSON.parse(detail.toString()) as { field?: string; remedy?: string; retryAfterMs?: number });
  const code = CODES_BY_NUMBER.get(error.code) ?? "internal";
  const message =
    detail === undefined && code === "unavailable"
      ? `${target} does not answer: ${error.details}`
      : error.details;
  return new PlatformError(code, message, { ...carried, cause: error });
}

/** A client of one service. Calls wait for a connection until their deadline. */
export function grpcClient<S extends DescService>(
  service: S,
  address: string,
  defaults: { timeoutMs: number },
): GrpcClient<S> {
  const client = new Client(address, credentials.createInsecure(), {
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
  });
  const methods: Record<string, unknown> = {};
  for (const method of service.methods) {
    const call = {
      client,
      method,
      definition: definitionOf(method),
      target: `${service.typeName} at ${address}`,
      timeoutMs: defaults.timeoutMs,
    };
    if (method.methodKind === "unary")
      methods[method.localName] = (request: never, options: CallOptions = {}) =>
        callUnary(call, request, options);
    else if (method.methodKind === "server_streaming")
      methods[method.localName] = (request: never, options: CallOptions = {}) =>
        callStream(call, request, options);
    else
      methods[method.localName] = (requests: AsyncIterable<never>, options: CallOptions = {}) =>
        callBidi(call, requests, options);
  }
  return { ...methods, close: () => client.close() } as GrpcClient<S>;
}

type PreparedCall = {
  client: Client;
  method: DescMethod;
  definition: MethodDefinition<MessageShape<DescMessage>, MessageShape<DescMessage>>;
  target: string;
  timeoutMs: number;
};

function metadataOfContext(): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(outgoingHeaders())) metadata.set(name, value);
  return metadata;
}

/** Cancels `call` with the signal; an already aborted one too. */
function cancelWith(call: { cancel(): void }, signal: AbortSignal | undefined): void {
  if (signal?.aborted) call.cancel();
  else signal?.addEventListener("abort", () => call.cancel(), { once: true });
}

function callUnary(
  call: PreparedCall,
  request: never,
  options: CallOptions,
): Promise<MessageShape<DescMessage>> {
  const { definition } = call;
  return new Promise((resolve, reject) => {
    const ongoing = call.client.makeUnaryRequest(
      definition.path,
      definition.requestSerialize,
      definition.responseDeserialize,
      create(call.method.input, request),
      metadataOfContext(),
      { deadline: Date.now() + (options.timeoutMs ?? call.timeoutMs) },
      (error, response) =>
        error === null && response !== undefined
          ? resolve(response)
          : reject(fromServiceError(error as ServiceError, call.target)),
    );
    cancelWith(ongoing, options.signal);
  });
}

/** A stream has no deadline unless the caller sets one: it may stay open as long as what it stands for. */
const streamOptions = (options: CallOptions) =>
  options.timeoutMs === undefined ? {} : { deadline: Date.now() + options.timeoutMs };

async function* callStream(
  call: PreparedCall,
  request: never,
  options: CallOptions,
): AsyncGenerator<MessageShape<DescMessage>> {
  const { definition } = call;
  const stream = call.client.makeServerStreamRequest(
    definition.path,
    definition.requestSerialize,
    definition.responseDeserialize,
    create(call.method.input, request),
    metadataOfContext(),
    streamOptions(options),
  );
  cancelWith(stream, options.signal);
  yield* readAll(stream, call.target);
}

async function* callBidi(
  call: PreparedCall,
  requests: AsyncIterable<never>,
  options: CallOptions,
): AsyncGenerator<MessageShape<DescMessage>> {
  const { definition } = call;
  const stream = call.client.makeBidiStreamRequest(
    definition.path,
    definition.requestSerialize,
    definition.responseDeserialize,
    metadataOfContext(),
    streamOptions(options),
  );
  cancelWith(stream, options.signal);
  const sending = (async () => {
    for await (const request of requests) stream.write(create(call.method.input, request));
    stream.end();
  })();
  sending.catch(() => stream.cancel());
  yield* readAll(stream as unknown as ClientReadableStream<MessageShape<DescMessage>>, call.target);
}

async function* readAll(
  stream: ClientReadableStream<MessageShape<DescMessage>>,
  target: string,
): AsyncGenerator<MessageShape<DescMessage>> {
  try {
    for await (const message of stream) yield message as MessageShape<DescMessage>;
  } catch (error) {
    throw fromServiceError(error as ServiceError, target);
  } finally {
    stream.cancel();
    stream.on("error", () => {}); // a cancelled stream still reports its end
  }
}
