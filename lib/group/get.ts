/** GetVolumeGroupSnapshot: a group snapshot as the journal has it, with its members as they are now. */
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import type { Credentials } from "../config/secrets.ts";
import { GroupSnapshotNotFound, Precondition } from "../csi/errors.ts";
import type { TakenSnapshot } from "../csi/messages.ts";
import { sourceVolume } from "../csi/source-volume-id.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { statusIfThere } from "../images/races.ts";
import { compareMembers, locateGroup, locateMembers } from "../journal/locate-group.ts";
import type { LocatedVolume } from "../journal/locate.ts";
import { reachOf } from "../listing/cluster-credentials.ts";
import type { TakenGroup } from "./create.ts";

const AT_ONCE = 8;

/** One that is not ready has no image yet, or one that nobody may use. */
const describe = (groupSnapshotId: string, { handle, cluster, pool, poolId, imageName, attributes }: LocatedVolume) =>
  Effect.gen(function* () {
    const ready = attributes?.imageId !== undefined;
    const image = yield* statusIfThere(pool, imageName);
    if (attributes?.source === undefined || (ready && image === undefined)) {
      const message = `snapshot ${handle} of group snapshot ${groupSnapshotId} is gone: delete the group snapshot`;
      return yield* new Precondition({ subject: "", problem: message });
    }
    const snapshot: TakenSnapshot = {
      snapshotId: handle,
      sourceVolumeId: sourceVolume(cluster.clusterId, poolId, attributes.source),
      sizeBytes: image?.sizeBytes ?? 0n,
      createdAt: image?.createdAt ?? 0,
      ready,
      groupSnapshotId,
    };
    return snapshot;
  });

/** Without `credentials` those that the administrator has given for the cluster. */
export const getGroupSnapshot = (
  groupSnapshotId: string,
  snapshotIds: readonly string[],
  credentials: Credentials | undefined,
) =>
  Effect.gen(function* () {
    const gone = (reason: string) => new GroupSnapshotNotFound({ groupSnapshotId, reason });
    const parsed = parseVolumeId(groupSnapshotId);
    if (Result.isFailure(parsed)) return yield* gone(parsed.failure.reason);
    const given = credentials ?? (yield* reachOf(parsed.success.clusterId, undefined)).secret.credentials;
    const group = yield* locateGroup(groupSnapshotId, given);
    yield* compareMembers(group, snapshotIds);
    const found = yield* locateMembers(group, given);
    const described = yield* Effect.forEach(found, (member) => describe(groupSnapshotId, member), {
      concurrency: AT_ONCE,
    });
    const times = described.map(({ createdAt }) => createdAt).filter((time) => time > 0);
    const createdAt = group.entry.createdAt ?? Math.min(...times);
    if (!Number.isFinite(createdAt)) return yield* gone("it is not taken yet");
    const taken: TakenGroup = {
      groupSnapshotId,
      createdAt,
      ready: described.every(({ ready }) => ready),
      snapshots: described.map((snapshot) => ({ ...snapshot, createdAt })),
    };
    return taken;
  });
