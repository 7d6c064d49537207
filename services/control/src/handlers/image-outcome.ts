// An image became usable, or cannot be converted.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import type { ImageFailed, ImageReady } from "@pilotlight/contracts";
import { imageFailedView, imageReadyView } from "../domain/views.ts";
import { saveImage } from "../store/artifacts.ts";

export async function onImageReady(
  message: ImageReady,
  { tx }: InboxPorts,
  delivery: Delivery,
): Promise<void> {
  await saveImage(tx, imageReadyView(message, delivery.publishedAt));
}

export async function onImageFailed(
  message: ImageFailed,
  { tx }: InboxPorts,
  delivery: Delivery,
): Promise<void> {
  await saveImage(tx, imageFailedView(message, delivery.publishedAt));
}
