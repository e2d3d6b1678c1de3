/** The handle of a volume, snapshot or group snapshot that is being made. Pure. */
import * as Result from "effect/Result";
import { InvalidRequest } from "./errors.ts";
import { encodeVolumeId, type VolumeId } from "./volume-id.ts";

/** Refuses the request when its clusterID does not fit into a handle. */
export const newHandle = (id: VolumeId): Result.Result<string, InvalidRequest> =>
  Result.mapError(
    encodeVolumeId(id),
    ({ message }) => new InvalidRequest({ field: "parameters.clusterID", reason: message }),
  );
