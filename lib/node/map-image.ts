/**
 * Maps a volume's image with the mapper that its context names, or with rbd-nbd where the kernel's driver cannot map it
 * and the context allows another one.
 *
 * Not here: whether anybody else uses the image (./mappable.ts), and a process that died later (./heal.ts).
 *
 * 1. image-meta.json names the mapper before that one maps anything, and the device afterwards.
 */
import * as Effect from "effect/Effect";
import { joinMapOptions } from "../config/krbd-options.ts";
import { joinNbdOptions } from "../config/nbd-options.ts";
import type { HostError, MapRefused } from "../host/errors.ts";
import { Host, type MapRequest } from "../host/host.ts";
import type { MappedDevice, MapperName } from "../host/mapped-device.ts";
import { Placement } from "../kube/placement.ts";
import { type ImageMeta, logFileOf, metaOf, type VolumeMarks } from "./image-meta.ts";
import { writeImageMeta } from "./staged-volume.ts";
import { cookieOf, toImageName, type VolumeContext, type VolumeImage } from "./volume-context.ts";

export interface ImageToMap {
  readonly image: VolumeImage;
  readonly context: VolumeContext;
  readonly stagingPath: string;
  readonly marks: VolumeMarks;
  /** Whether nobody can write to the device itself. */
  readonly mapReadOnly: boolean;
}

/** What image-meta.json says of a volume before its device is known. */
export const imageMetaFor = (
  context: VolumeContext,
  image: VolumeImage,
  mapper: MapperName,
  marks: VolumeMarks,
): ImageMeta => metaOf(toImageName(image), context, mapper, marks);

/** -> the device, and what image-meta.json says of it. */
export const mapImage = Effect.fnUntraced(function* (
  wanted: ImageToMap,
  mapper: MapperName,
): Effect.fn.Return<MappedDevice, HostError, Host | Placement> {
  const { context, image, marks } = wanted;
  return yield* mapWith(wanted, mapper).pipe(
    Effect.catchIf(
      (error): error is MapRefused => error._tag === "MapRefused" && error.unfit && context.tryOtherMounters,
      ({ message }) =>
        Effect.logWarning(`volume ${context.volumeId} is mapped with rbd-nbd: ${message}`).pipe(
          Effect.andThen(writeImageMeta(wanted.stagingPath, imageMetaFor(context, image, "rbd-nbd", marks))),
          Effect.andThen(mapWith(wanted, "rbd-nbd")),
        ),
    ),
  );
});

const mapWith = Effect.fnUntraced(function* (
  wanted: ImageToMap,
  mapper: MapperName,
): Effect.fn.Return<MappedDevice, HostError, Host | Placement> {
  const { context, image, marks, stagingPath } = wanted;
  const host = yield* Host;
  const device = yield* host.map(yield* mapRequest(wanted, mapper));
  if (mapper === "krbd") return device;
  const { path } = device;
  yield* writeImageMeta(stagingPath, { ...imageMetaFor(context, image, mapper, marks), device: path }).pipe(
    Effect.tapError(() => Effect.ignore(host.unmap(device, context.unmapOptions.nbd))),
  );
  return device;
});

export const mapRequest = Effect.fnUntraced(function* (
  { image, context, mapReadOnly }: Omit<ImageToMap, "stagingPath" | "marks">,
  mapper: MapperName,
): Effect.fn.Return<MapRequest, never, Placement> {
  const { access } = image.pool;
  const cookie = cookieOf(context);
  return {
    ...toImageName(image),
    mapper,
    monitors: access.monitors,
    user: access.user,
    key: access.key,
    readOnly: mapReadOnly,
    options: yield* optionsOf(image, context, mapper),
    netNamespace: image.cluster.netNamespaceFilePath || undefined,
    cookie,
    logFile: logFileOf(context.logDir, cookie),
  };
});

const optionsOf = Effect.fnUntraced(function* (
  { cluster }: VolumeImage,
  { mapOptions }: VolumeContext,
  mapper: MapperName,
): Effect.fn.Return<string, never, Placement> {
  if (mapper === "rbd-nbd") return joinNbdOptions(mapOptions.nbd);
  return joinMapOptions(mapOptions.krbd, yield* (yield* Placement).mapOptions(cluster));
});

/** The mapper's own options of an unmap. */
export const unmapOptionsOf = ({ unmapOptions }: VolumeContext, mapper: MapperName): string =>
  mapper === "rbd-nbd" ? unmapOptions.nbd : unmapOptions.krbd;
