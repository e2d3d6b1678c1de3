/**
 * A member of a group snapshot: an ordinary snapshot whose name and UUID follow from the group's and the volume's, so
 * that whoever retries finds it, and whoever knows the volumes knows the members.
 *
 * Not here: how it is made (./create.ts) and removed (lib/snapshot/delete.ts).
 */
import { createHash } from "node:crypto";
import * as Effect from "effect/Effect";
import type { PoolRef } from "../ceph/rados.ts";
import { InvalidRequest } from "../csi/errors.ts";
import { encodeVolumeId } from "../csi/volume-id.ts";
import type { SourceVolume } from "../snapshot/source-volume.ts";

export interface Member {
  readonly source: SourceVolume;
  readonly sourceVolumeId: string;
  readonly pool: PoolRef;
  readonly uuid: string;
  readonly requestName: string;
  readonly snapshotId: string;
}

/** For handles that are made here: it fails for a clusterID that is too long for one. */
export const handleOf = (clusterId: string, poolId: bigint, uuid: string) =>
  Effect.mapError(
    Effect.fromResult(encodeVolumeId({ clusterId, poolId, uuid })),
    ({ message }) => new InvalidRequest({ field: "parameters.clusterID", reason: message }),
  );

export const memberOf = (groupUuid: string, sourceVolumeId: string, source: SourceVolume) =>
  Effect.gen(function* () {
    const { pool, poolId, uuid: volumeUuid } = source.found;
    const uuid = derivedUuid(`${groupUuid}/${volumeUuid}`);
    const member: Member = {
      source,
      sourceVolumeId,
      pool,
      uuid,
      requestName: `group-${groupUuid}-${volumeUuid}`,
      snapshotId: yield* handleOf(source.clusterId, poolId, uuid),
    };
    return member;
  });

/** Version 8: its other bits are the text's digest. */
const derivedUuid = (text: string): string => {
  const digest = createHash("sha256").update(text).digest("hex");
  const variant = ((Number.parseInt(digest.slice(16, 17), 16) & 3) | 8).toString(16);
  const parts = [digest.slice(0, 8), digest.slice(8, 12), `8${digest.slice(13, 16)}`];
  return [...parts, `${variant}${digest.slice(17, 20)}`, digest.slice(20, 32)].join("-");
};
