/** The ID of the volume that a snapshot was taken of, from the name of its image. Pure. */
import * as Result from "effect/Result";
import { encodeVolumeId, isUuid, UUID_LENGTH } from "./volume-id.ts";

/** "" where the image is none that a driver made. */
export const sourceVolume = (clusterId: string, poolId: bigint, sourceImage: string | undefined): string => {
  const uuid = sourceImage?.slice(-UUID_LENGTH) ?? "";
  return isUuid(uuid) ? Result.getOrElse(encodeVolumeId({ clusterId, poolId, uuid }), () => "") : "";
};
