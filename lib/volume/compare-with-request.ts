/**
 * Whether a volume that exists already is the one that a repeated CreateVolume asks for: its encryption, its source, its
 * layout and its size. One that differs is a Conflict (ALREADY_EXISTS).
 *
 * Not here: the layout of images (lib/images/layout.ts).
 */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { ImageHeader } from "../ceph/rbd.ts";
import { encryptionIn, encryptionLabel } from "../config/encryption.ts";
import { Conflict } from "../csi/errors.ts";
import { parseMigratedId } from "../csi/migrated-volume-id.ts";
import { UUID_LENGTH } from "../csi/volume-id.ts";
import { tempImage } from "../images/intermediate.ts";
import { difference } from "../images/layout.ts";
import type { Reservation } from "../journal/journal.ts";
import type { SourceRequest } from "./copy-source.ts";
import type { CreateVolumeSpec } from "./create-spec.ts";

/** Fails unless the volume is the one that is asked for, as far as its image still tells. */
export const proveFits = (
  spec: CreateVolumeSpec,
  { attributes }: Reservation,
  image: ImageHeader,
): Effect.Effect<void, Conflict> => {
  const problem =
    otherSource(spec.source, image, attributes.imageName) ?? difference(image, spec.parameters, spec.size);
  return problem === undefined ? Effect.void : Effect.fail(conflict(spec, problem));
};

const conflict = ({ requestName }: CreateVolumeSpec, problem: string) => {
  const remedy = "Delete that volume, or ask for what it is";
  return new Conflict({ subject: `volume ${requestName}`, problem: `exists already, but ${problem}`, remedy });
};

/** Fails unless an earlier attempt, if there was one, asked for the same encryption. */
export const proveSameEncryption = (
  spec: CreateVolumeSpec,
  reservation: Reservation | undefined,
): Effect.Effect<void, Conflict> => {
  if (reservation?.attributes.requestName === undefined) return Effect.void;
  const there = encryptionLabel(encryptionIn(reservation.attributes));
  const asked = encryptionLabel(spec.parameters.encryption);
  return there === asked
    ? Effect.void
    : Effect.fail(conflict(spec, `it is ${there}, and the request asks for a volume that is ${asked}`));
};

/** In what the source differs, as far as the image still tells: one that was flattened since has no parent any more. */
const otherSource = (source: SourceRequest | undefined, { parent }: ImageHeader, imageName: string | undefined) => {
  if (parent === undefined) return undefined;
  if (source === undefined) return `it is a copy of ${parent.image}, and the request asks for an empty volume`;
  const between = source.kind === "volume" && (imageName === undefined || parent.image === tempImage(imageName));
  return between || isImageOf(source, parent.image)
    ? undefined
    : `it is a copy of ${parent.image}, and the request asks for a copy of ${source.kind} ${source.id}`;
};

/** Whether the image is that of the source: a driver ends its name in the UUID of the ID. */
const isImageOf = ({ id }: SourceRequest, image: string): boolean =>
  Result.match(parseMigratedId(id), {
    onFailure: () => image.endsWith(id.slice(-UUID_LENGTH)),
    onSuccess: ({ imageName }) => image === imageName,
  });
