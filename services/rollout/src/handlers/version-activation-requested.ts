// Somebody wants a version: a rollout towards it begins in the same transaction.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import {
  ActivationReason,
  type ApplicationSpec,
  type VersionActivationRequested,
} from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { askForVersion, lockApplication } from "../store/applications.ts";

/** `step` steps the application with the ports of the transaction. */
export const onVersionActivationRequested =
  (step: (ports: InboxPorts, application: string) => Promise<void>) =>
  async (message: VersionActivationRequested, ports: InboxPorts, delivery: Delivery): Promise<void> => {
    const { application, version, spec } = message;
    if (spec === undefined || !isComplete(spec)) {
      throw new PlatformError("invalidArgument", `version ${version} of ${application} is not complete`);
    }
    await lockApplication(ports.tx, application);
    const isNewest = await askForVersion(
      ports.tx,
      { application, version, spec, wayBack: message.reason === ActivationReason.ROLLBACK },
      new Date(delivery.publishedAt),
    );
    if (isNewest) await step(ports, application);
  };

/** Control fills in every default; whoever else publishes must do so too. */
const isComplete = ({ deployments }: ApplicationSpec): boolean =>
  deployments.length > 0 &&
  deployments.every(({ autoscaling, rollout }) => autoscaling !== undefined && rollout !== undefined);
