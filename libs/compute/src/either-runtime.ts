// Two ways to an image's files behind one face: converted images come from the bucket, pulled ones from this node. A place
// belongs to the runtime that holds something for it.
import type { ImageRuntime } from "./backend.ts";

export function eitherRuntime(converted: ImageRuntime, pulled: ImageRuntime): ImageRuntime {
  return {
    mount: (place, image, signal) => (image.pulled ? pulled : converted).mount(place, image, signal),
    launch: (place, image, launch, signal) =>
      (image.pulled ? pulled : converted).launch(place, image, launch, signal),
    learnStart: (place) => converted.learnStart(place),
    async unmount(place) {
      await converted.unmount(place);
      if ((await pulled.places()).includes(place)) await pulled.unmount(place);
    },
    async places() {
      const [ours, others] = await Promise.all([converted.places(), pulled.places()]);
      return [...new Set([...ours, ...others])];
    },
  };
}
