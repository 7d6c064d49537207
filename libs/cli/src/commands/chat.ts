// `pilotlight chat`: one question to a model, the answer as it comes.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { Command } from "commander";
import * as z from "zod";
import type { Act } from "../cli.ts";
import { type Context, type GlobalOptions, wholeNumber } from "../context.ts";

type Options = GlobalOptions & { system?: string; maxTokens: string; temperature?: string };

export const chatCommand = (act: Act): Command =>
  new Command("chat")
    .description("Asks a model and prints the answer as it comes.")
    .argument("<application|model>", "an application's first chat model, or a model by its name")
    .argument("<prompt>")
    .option("--system <text>", "what the model is told first")
    .option("--max-tokens <number>", "length of the answer", "256")
    .option("--temperature <number>", "0 always takes the likeliest word")
    .addHelpText(
      "after",
      `
Example:
  pilotlight chat chat "What is the capital of France?"

PILOTLIGHT_GATEWAY_URL names the gateway where it is not that of this checkout; PILOTLIGHT_API_KEY its key.`,
    )
    .action(
      act<Options>(async (context, options, name = "", prompt = "") => {
        const model = await modelOf(context, name);
        const messages = [
          ...(options.system === undefined ? [] : [{ role: "system", content: options.system }]),
          { role: "user", content: prompt },
        ];
        await ask(context, {
          model,
          messages,
          max_tokens: wholeNumber(options.maxTokens, "--max-tokens", 1),
          ...(options.temperature === undefined ? {} : { temperature: Number(options.temperature) }),
        });
      }),
    );

/** The first chat model of an application of that name; otherwise the name is a model's. */
async function modelOf({ client }: Context, name: string): Promise<string> {
  try {
    const application = await client.application(name);
    return application.deployments.find((one) => one.model?.task === "chat")?.model?.name ?? name;
  } catch {
    return name; // control may be away; the gateway says whether it knows the model
  }
}

const chunk = z.object({
  choices: z.array(z.object({ delta: z.object({ content: z.string().nullish() }) })).optional(),
  error: z.object({ message: z.string() }).optional(),
});
const refusal = z.object({ error: z.object({ message: z.string() }) });
const answer = z.object({ choices: z.array(z.object({ message: z.object({ content: z.string() }) })) });

async function ask(context: Context, request: Record<string, unknown>): Promise<void> {
  const { terminal, endpoints, json } = context;
  const key = terminal.env.PILOTLIGHT_API_KEY;
  const response = await fetch(`${endpoints.gatewayUrl}/v1/chat/completions`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
    },
    body: JSON.stringify({ ...request, stream: !json }),
    signal: terminal.interrupted,
  }).catch((thrown) => {
    throw new PlatformError("unavailable", `the gateway does not answer at ${endpoints.gatewayUrl}`, {
      remedy: "Start the platform with 'npm start', or set PILOTLIGHT_GATEWAY_URL.",
      cause: thrown,
    });
  });
  if (!response.ok || response.body === null) throw await refused(response);
  if (json) {
    const body: unknown = await response.json();
    return context.show(body, () => answer.parse(body).choices.map((one) => one.message.content));
  }
  for await (const text of deltas(response.body)) terminal.write(text);
  terminal.write("\n");
}

async function refused(response: Response): Promise<PlatformError> {
  const text = await response.text();
  let message = text.slice(0, 500);
  try {
    message = refusal.parse(JSON.parse(text)).error.message;
  } catch {
    // not the gateway's own form: the text itself says more than we could
  }
  const code =
    response.status === 404 ? "notFound" : response.status < 500 ? "invalidArgument" : "unavailable";
  return new PlatformError(code, `the gateway answered ${response.status}: ${message}`, {
    ...(code === "notFound" ? { remedy: "'pilotlight status' lists the models." } : {}),
  });
}

/** The text of a stream of server-sent events in the OpenAI form. */
async function* deltas(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: ") || line.startsWith("data: [DONE]")) continue;
      const parsed = chunk.parse(JSON.parse(line.slice("data: ".length)));
      if (parsed.error !== undefined) throw toPlatformError(new Error(parsed.error.message));
      const text = parsed.choices?.[0]?.delta.content;
      if (text) yield text;
    }
  }
}
