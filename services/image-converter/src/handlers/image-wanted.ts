// `imageWanted`: somebody will start containers from this image soon.
import type { InboxPorts } from "@pilotlight/bus";
import type { ImageWanted } from "@pilotlight/contracts";
import { wantConversion } from "../store/conversions.ts";

/** Notes the wish in the message's transaction; the runner finds it there. */
export async function onImageWanted(event: ImageWanted, { tx }: InboxPorts): Promise<void> {
  await wantConversion(tx, { image: event.image, platform: event.platform }, new Date());
}
