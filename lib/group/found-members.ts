/**
 * The members of a group snapshot that the journal has, as those of the volumes that a request asks for.
 *
 * Not here: an entry that has no members, or that is given up (./request.ts).
 *
 * 1. The members of an entry of this driver are known by their IDs, which follow from the volumes (./member.ts). Those of
 *    ceph-csi have random ones: they are of the volumes that their own entries name.
 * 2. ceph-csi writes the members when all of them are complete. Its older releases write no creation time: then that of the
 *    first member's image counts, as in GetVolumeGroupSnapshot.
 */
import * as Effect from "effect/Effect";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import { imageLabel } from "../ceph/label.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import type { DriverSettings } from "../config/settings.ts";
import { Conflict } from "../csi/errors.ts";
import { statusIfThere } from "../images/races.ts";
import { type LocatedGroup, locateMembers } from "../journal/locate-group.ts";
import type { LocatedVolume } from "../journal/locate.ts";
import { settleAll } from "../operations/settle-all.ts";
import { type LocatedSource, sameCluster } from "../snapshot/source-volume.ts";
import type { Member } from "./member.ts";
import type { Group, GroupSpec } from "./request.ts";

type Found = Pick<Group, "createdAt" | "members">;
type FindError = CephError | ConfigError | Conflict;

/** `asked`: the members as this driver makes them of the volumes. A Conflict when the entry's are of other volumes. */
export const findMembers = Effect.fn("group.findMembers")(function* (
  spec: GroupSpec,
  group: LocatedGroup,
  asked: readonly Member[],
): Effect.fn.Return<Found, FindError, Ceph | Clusters | DriverSettings> {
  const { entry } = group;
  const ids = asked.map(({ snapshotId }) => snapshotId).toSorted();
  if (ids.join() === entry.members.join()) return { members: asked, createdAt: entry.createdAt };
  if (ids.length !== entry.members.length) return yield* isOfOthers(spec);
  const located = yield* Effect.catchTag(locateMembers(group, spec.credentials), "InvalidRequest", () =>
    Effect.fail(isOfOthers(spec)),
  );
  const there = located.flatMap(({ located: member }) => (member === undefined ? [] : [member]));
  const members = asked.flatMap((member) => {
    const own = there.find((snapshot) => isOf(snapshot, member.source));
    return own === undefined ? [] : [takenBy(member, own)];
  });
  const createdAt = entry.createdAt ?? (yield* firstCreation(there));
  if (members.length < asked.length || createdAt === undefined) return yield* isOfOthers(spec);
  return { members, createdAt };
});

const isOfOthers = ({ requestName }: GroupSpec) =>
  new Conflict({
    subject: `group snapshot ${requestName}`,
    problem: "exists and is of other volumes than the request asks for",
    remedy: "Delete that group snapshot, or use another name",
  });

/** A volume that was deleted is known by its UUID alone, at the end of its image's name. */
const isOf = ({ cluster, pool, attributes }: LocatedVolume, { volume }: LocatedSource): boolean => {
  const { source } = attributes ?? {};
  if (source === undefined || !sameCluster(cluster, volume.cluster)) return false;
  if (imageLabel(pool, source) === imageLabel(volume.pool, volume.imageName)) return true;
  const wasDeleted = volume.attributes === undefined && volume.uuid !== "";
  return wasDeleted && imageLabel(pool, "") === imageLabel(volume.pool, "") && source.endsWith(volume.uuid);
};

const takenBy = (member: Member, { handle, pool, uuid, attributes }: LocatedVolume): Member => ({
  ...member,
  pool,
  uuid,
  requestName: attributes?.requestName ?? member.requestName,
  snapshotId: handle,
});

/** Milliseconds since the epoch; absent: not all of them are complete. */
const firstCreation = Effect.fnUntraced(function* (
  snapshots: readonly LocatedVolume[],
): Effect.fn.Return<number | undefined, CephError, Ceph | DriverSettings> {
  if (snapshots.some(({ attributes }) => attributes?.imageId === undefined)) return undefined;
  const images = yield* settleAll(snapshots, ({ pool, imageName }) => statusIfThere(pool, imageName));
  const times = images.flatMap((image) => (image === undefined ? [] : [image.createdAt]));
  return times.length === 0 ? undefined : Math.min(...times);
});
