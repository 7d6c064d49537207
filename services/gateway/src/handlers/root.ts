// GET /: where am I, and what now. A page for browsers, JSON for everybody else. GET /healthz for load balancers.
import type { FastifyInstance } from "fastify";
import type { Fleet } from "../domain/fleet.ts";

type Overview = { service: string; models: { name: string; readyReplicas: number }[]; openAiBaseUrl: string };

/** Adds the routes. */
export function addRootRoutes(app: FastifyInstance, fleet: Fleet): void {
  app.get("/healthz", () => Promise.resolve({ status: "ok" }));
  app.get("/", (request, reply) => {
    const overview = overviewOf(fleet, `${request.protocol}://${request.host}`);
    if (!(request.headers.accept ?? "").includes("text/html")) return reply.send(overview);
    return reply.type("text/html; charset=utf-8").send(pageOf(overview));
  });
}

function overviewOf(fleet: Fleet, origin: string): Overview {
  const now = Date.now();
  const models = fleet.models().map((endpoint) => ({
    name: endpoint.modelName,
    readyReplicas: endpoint.replicas.filter((replica) => replica.isRoutable(now)).length,
  }));
  return { service: "pilotlight gateway", models, openAiBaseUrl: `${origin}/v1` };
}

function pageOf({ models, openAiBaseUrl }: Overview): string {
  const rows = models.map(
    ({ name, readyReplicas }) => `<tr><td><code>${escaped(name)}</code></td><td>${readyReplicas}</td></tr>`,
  );
  const body = JSON.stringify({
    model: models[0]?.name ?? "MODEL",
    messages: [{ role: "user", content: "Hello" }],
  });
  const call = `curl ${openAiBaseUrl}/chat/completions -H 'content-type: application/json' -d '${body}'`;
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Pilotlight</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}
pre{background:#8881;padding:1rem;overflow-x:auto}td,th{text-align:left;padding-right:2rem}</style>
<h1>Pilotlight</h1>
<p>This is the gateway: an OpenAI-compatible API at <code>${escaped(openAiBaseUrl)}</code>.</p>
<table><tr><th>model</th><th>ready replicas</th></tr>${rows.join("")}</table>
${models.length === 0 ? "<p>Nothing is deployed yet: <code>pilotlight deploy app.yaml</code></p>" : ""}
<pre>${escaped(call)}</pre>
</html>
`;
}

const escaped = (text: string): string =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
