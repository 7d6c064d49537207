// The image converter: parts and how they are wired.
import { BUS_MIGRATION, connectServiceBus, consumeWithInbox, startServiceOutbox } from "@pilotlight/bus";
import { ImageConverterService } from "@pilotlight/contracts";
import { convertImage, DEFAULT_CONVERT_LIMITS } from "@pilotlight/image-conversion";
import { openStore } from "@pilotlight/object-store";
import { parsePlatform } from "@pilotlight/oci";
import { registryOptionsOf } from "@pilotlight/oci/part";
import { grpcService, runService, serveGrpc } from "@pilotlight/service";
import { openServiceStore } from "@pilotlight/store";
import { config } from "./config.ts";
import { startGarbageCollection } from "./garbage.ts";
import { ensureImage } from "./handlers/ensure-image.ts";
import { onImageWanted } from "./handlers/image-wanted.ts";
import { loadPolicy } from "./policy.ts";
import { ConversionRunner } from "./runner.ts";
import { listReady } from "./store/conversions.ts";

const LISTED_IMAGES_MAX = 1_000;

await runService({
  config,
  async start(context) {
    const settings = context.config;
    const store = await openServiceStore(context, {
      schema: "image_converter",
      leading: [BUS_MIGRATION],
      migrations: new URL("../migrations/", import.meta.url),
    });
    const bus = await connectServiceBus(context, "image_converter");
    const outbox = startServiceOutbox(context, store, bus);
    const bucket = openStore(settings.bucketUri);
    const { layersInFlightMax, chunksInFlightMax, archiveBytesMax, contentBytesMax, entriesMax } = settings;
    const layer = { ...DEFAULT_CONVERT_LIMITS.layer, contentBytesMax, entriesMax };
    const policy = await loadPolicy(settings.imagePolicy, settings.imageSigningKeysFile);
    const runner = new ConversionRunner(
      {
        store,
        bus,
        outbox,
        convert: (key, onProgress, signal) =>
          convertImage({
            source: key.image,
            platform: parsePlatform(key.platform),
            bucket,
            limits: { layersInFlightMax, chunksInFlightMax, archiveBytesMax, layer },
            registry: registryOptionsOf(settings),
            policy,
            onProgress,
            signal,
          }),
      },
      settings,
    );
    runner.start();
    context.onStop("garbage", startGarbageCollection({ store, bus, bucket }, settings));
    context.onStop("runner", () => runner.stop());
    const wanted = await consumeWithInbox(
      bus,
      store,
      outbox,
      { name: "wanted", from: "beginning" },
      {
        imageWanted: async (event, ports) => {
          await onImageWanted(event, ports);
          setImmediate(() => runner.wake());
        },
      },
    );
    context.onStop("consumer", wanted.close);
    const door = await serveGrpc(`${settings.grpcHost}:${settings.grpcPort}`, [
      grpcService(ImageConverterService, {
        ensureImage: (request, call) => ensureImage(runner, request, call),
        listImages: async () => ({ images: await listReady(store.sql, LISTED_IMAGES_MAX) }),
      }),
    ]);
    context.onStop("grpc", () => door.close(settings.closeTimeoutMs));
    context.log.info("serving", { address: door.address, bucketUri: settings.bucketUri });
  },
});
