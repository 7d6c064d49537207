// What is remembered of each deployment between two decisions.
import { toPlatformError } from "@pilotlight/errors";
import { type AutoscalingState, autoscalingStateSchema, initialAutoscalingState } from "@pilotlight/policy";
import { readStored, type Sql, type Transaction } from "@pilotlight/store";
import { logger } from "@pilotlight/telemetry";
import { nothingSaid, type Said, saidSchema } from "../domain/saying.ts";

export type DeploymentRow = { application: string; deployment: string; state: AutoscalingState; said: Said };

/** Every deployment. One whose row cannot be read starts anew: the policy keeps what there is until it knows better. */
export async function readDeployments(sql: Sql): Promise<DeploymentRow[]> {
  const rows = await sql<{ application: string; deployment: string; state: unknown; said: unknown }[]>`
    select application, deployment, state, said from deployment`;
  return rows.map(({ application, deployment, state, said }) => {
    const what = `of ${application}/${deployment}`;
    try {
      return {
        application,
        deployment,
        state: readStored(autoscalingStateSchema, state, `state ${what}`),
        said: readStored(saidSchema, said, `last saying ${what}`),
      };
    } catch (error) {
      logger("fleet").error(
        "a deployment's row cannot be read; it is decided about as if for the first time",
        {
          application,
          deployment,
          error: toPlatformError(error),
        },
      );
      return { application, deployment, state: initialAutoscalingState(), said: nothingSaid };
    }
  });
}

export const saveDeployment = (tx: Transaction, row: DeploymentRow) => tx`
  insert into deployment (application, deployment, state, said)
  values (${row.application}, ${row.deployment}, ${tx.json(row.state)}, ${tx.json(row.said)})
  on conflict (application, deployment) do update set state = excluded.state, said = excluded.said`;

export const deleteDeployment = (tx: Transaction, of: { application: string; deployment: string }) =>
  tx`delete from deployment where application = ${of.application} and deployment = ${of.deployment}`;
