/**
 * A member of a group snapshot: an ordinary snapshot whose name and UUID follow from those of the group and of the
 * volume. So a retry finds the members of an earlier call.
 *
 * Not here: how a member is made (./create.ts) and removed (lib/snapshot/delete.ts).
 */
import { createHash } from "node:crypto";
import * as Result from "effect/Result";
import type { PoolRef } from "../ceph/rados.ts";
import type { InvalidRequest } from "../csi/errors.ts";
import { newHandle } from "../csi/new-handle.ts";
import type { LocatedSource, SourceVolume } from "../snapshot/source-volume.ts";

export interface Member {
  readonly source: LocatedSource;
  /** As the request has it. */
  readonly sourceVolumeId: string;
  readonly pool: PoolRef;
  readonly uuid: string;
  readonly requestName: string;
  readonly snapshotId: string;
}

/** A member whose volume is there. */
export interface MemberWithSource extends Member {
  readonly source: SourceVolume;
}

export const memberOf = (
  groupUuid: string,
  sourceVolumeId: string,
  source: LocatedSource,
): Result.Result<Member, InvalidRequest> => {
  const { pool, poolId, uuid: volumeUuid } = source.volume;
  const uuid = derivedUuid(`${groupUuid}/${volumeUuid}`);
  const requestName = `group-${groupUuid}-${volumeUuid}`;
  return Result.map(newHandle({ clusterId: source.clusterId, poolId, uuid }), (snapshotId) => ({
    source,
    sourceVolumeId,
    pool,
    uuid,
    requestName,
    snapshotId,
  }));
};

/** A UUID of version 8, whose other bits come from the text's digest. */
const derivedUuid = (text: string): string => {
  const digest = createHash("sha256").update(text).digest("hex");
  const variant = ((Number.parseInt(digest.slice(16, 17), 16) & 3) | 8).toString(16);
  const parts = [digest.slice(0, 8), digest.slice(8, 12), `8${digest.slice(13, 16)}`];
  return [...parts, `${variant}${digest.slice(17, 20)}`, digest.slice(20, 32)].join("-");
};
