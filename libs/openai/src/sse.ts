// Server-sent events as the OpenAI API streams them: `data:` lines with JSON, an empty line after each, `[DONE]` at the
// end (https://html.spec.whatwg.org/multipage/server-sent-events.html). Decoding is done by eventsource-parser.
import { PlatformError } from "@pilotlight/errors";
import { createParser, type EventSourceParser } from "eventsource-parser";

export const SSE_CONTENT_TYPE = "text/event-stream; charset=utf-8";
export const SSE_DONE = "data: [DONE]\n\n";
/** A comment: clients ignore it, proxies see that the connection lives. */
export const SSE_KEEP_ALIVE = ": keep-alive\n\n";

/** One event with a JSON payload. JSON text has no line breaks, so it is always one `data:` line. */
export const encodeSse = (payload: object): string => `data: ${JSON.stringify(payload)}\n\n`;

export type SseDecoderOptions = {
  /** Largest unfinished event, in characters; a stream that exceeds it is an error. */
  eventLengthMax: number;
};

/** Turns bytes, cut anywhere, into the payloads of events. One decoder per stream. */
export class SseDecoder {
  readonly #parser: EventSourceParser;
  readonly #text = new TextDecoder("utf-8");
  readonly #eventLengthMax: number;
  #payloads: string[] = [];
  #overflow = false;

  constructor(options: SseDecoderOptions) {
    this.#eventLengthMax = options.eventLengthMax;
    this.#parser = createParser({
      maxBufferSize: options.eventLengthMax,
      onEvent: (event) => this.#payloads.push(event.data),
      onError: (error) => {
        this.#overflow ||= error.type === "max-buffer-size-exceeded";
      },
    });
  }

  /** The payloads that these bytes complete, e.g. JSON or `[DONE]`. Throws `corrupt` when an event is too long. */
  push(bytes: Uint8Array): string[] {
    if (!this.#overflow) this.#parser.feed(this.#text.decode(bytes, { stream: true }));
    if (this.#overflow) {
      throw new PlatformError(
        "corrupt",
        `an event of the stream is longer than ${this.#eventLengthMax} characters`,
      );
    }
    const payloads = this.#payloads;
    this.#payloads = [];
    return payloads;
  }
}
