// Models whose approval was taken back: nobody is given them any more. Control says which; who has them already keeps them.
import { type ModelPermissionSet, timestampDate } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";

export class WithdrawnModels {
  readonly #bySource = new Map<string, ModelPermissionSet>();

  /** `modelPermissionSet`: the latest of a source counts. */
  note(permission: ModelPermissionSet): void {
    if (permission.withdrawn) this.#bySource.set(permission.source, permission);
    else this.#bySource.delete(permission.source);
  }

  /** Throws `preconditionFailed` for a model that may not be loaded any more. */
  check(source: string): void {
    const permission = this.#bySource.get(source);
    if (permission === undefined) return;
    const { withdrawnBy, withdrawnAt } = permission;
    const at = withdrawnAt === undefined ? "" : ` at ${timestampDate(withdrawnAt).toISOString()}`;
    throw new PlatformError(
      "preconditionFailed",
      `the approval of the model ${source} was taken back by ${withdrawnBy}${at}`,
      {
        field: "deployments.model.source",
        remedy: "Have it looked at and approved again (pilotlight model approve), or deploy another model.",
      },
    );
  }
}
