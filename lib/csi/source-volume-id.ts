/** The ID of the volume that a snapshot was taken of, from the name of the volume's image. Pure. */
import * as Result from "effect/Result";
import { encodeVolumeId, isUuid, UUID_LENGTH } from "./volume-id.ts";

/** "" for an image that no driver made: every image that a driver makes ends in its volume's UUID. */
export const sourceVolumeId = (clusterId: string, poolId: bigint, sourceImage: string | undefined): string => {
  const uuid = sourceImage?.slice(-UUID_LENGTH) ?? "";
  return isUuid(uuid) ? Result.getOrElse(encodeVolumeId({ clusterId, poolId, uuid }), () => "") : "";
};
