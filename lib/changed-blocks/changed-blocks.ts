/**
 * Lists the ranges that a snapshot holds, or in which two snapshots of a volume differ, page by page from librbd's diff.
 *
 * A CSI snapshot is an image of its own (`csi-snap-U`): a clone of an RBD snapshot of the image of the volume, which moved
 * to the trash of snapshots when the clone was made. The image of the volume knows what differs between two such RBD
 * snapshots. They are named by id, because one in the trash has no name by which it can be opened.
 *
 * The difference is lost when the image of the volume is deleted, or the image of a snapshot is flattened. Then every range
 * that either snapshot holds is listed, as lib/ceph does itself if librbd cannot start at an id (before 17.2.8, 18.2.5,
 * 19.2.1). That is more than changed, never less: a copy of these ranges of the newer snapshot over the older one gives the
 * newer one.
 *
 * 1. Images are opened read-only, with one call for each page of ranges. Only the offset of the next page is kept.
 * 2. No range is left out: if the exact list ends in the middle, the rough one continues from the same offset.
 * 3. Ranges ascend, do not overlap, and lie within the size of the newer snapshot.
 * 4. Offsets are those of the device that pods see. That of an encrypted volume begins behind the header of its image,
 *    and its ranges hold the ciphertext of the same ranges of the image behind it. With integrity they do not: those are
 *    refused, as far as the image says that it has it.
 */
import * as Effect from "effect/Effect";
import * as Option from "effect/Option";
import * as Stream from "effect/Stream";
import type { Ceph } from "../ceph/ceph.ts";
import type { CephError } from "../ceph/errors.ts";
import type { PoolRef } from "../ceph/rados.ts";
import { before, byOffset, endOf, joined, type Range } from "../ceph/ranges.ts";
import { type ImageStatus, Rbd, type SnapshotRef } from "../ceph/rbd.ts";
import { sameMonitors } from "../ceph/same-monitors.ts";
import type { ClusterSecrets } from "../config/cluster-secrets.ts";
import type { Clusters } from "../config/clusters.ts";
import type { ConfigError } from "../config/errors.ts";
import { encryptionIn } from "../config/encryption.ts";
import type { Credentials } from "../config/secrets.ts";
import { InvalidRequest, Precondition, SnapshotNotFound } from "../csi/errors.ts";
import { SizeOutOfRange } from "../csi/size.ts";
import { parseVolumeId } from "../csi/volume-id.ts";
import { type LocatedVolume, locateSnapshot } from "../journal/locate.ts";
import { layerPlace } from "../kms/image-keys.ts";
import { credentialsFor } from "../listing/cluster-credentials.ts";

export type Block = Range;

/** The content of one message. */
export interface Blocks {
  readonly capacityBytes: bigint;
  readonly blocks: readonly Block[];
}

export interface BlockRequest {
  /** Those of the request; `undefined`: those of the administrator. */
  readonly credentials: Credentials | undefined;
  readonly startingOffset: bigint;
  /** Ranges per message at most; 0: as many as a page has. */
  readonly maxResults: number;
}

type Failure = CephError | SnapshotNotFound | ConfigError | InvalidRequest | Precondition | SizeOutOfRange;

/** Some 100 KiB of a message; enough that opening the image for each page costs little. */
const PAGE = 4096;

interface Ready {
  readonly found: LocatedVolume;
  readonly image: ImageStatus;
  /** Bytes of the image in front of the device. */
  readonly headerBytes: bigint;
}

/** The snapshot, if it can be read. */
const readySnapshot = (snapshotId: string, credentials: Credentials | undefined) =>
  Effect.gen(function* () {
    const gone = (reason: string) => new SnapshotNotFound({ snapshotId, reason });
    const found = yield* locateSnapshot(
      snapshotId,
      yield* credentialsFor(parseVolumeId(snapshotId), credentials, gone),
    );
    if (found.attributes?.source === undefined) return yield* gone("the journal does not know it");
    if (found.attributes.imageId === undefined) {
      return yield* new Precondition({
        subject: `snapshot ${snapshotId}`,
        problem: "is not ready yet",
        remedy: "Retry later",
      });
    }
    const image = yield* (yield* Rbd)
      .imageStatus(found.pool, found.imageName)
      .pipe(Effect.catchTag("ImageNotFound", () => Effect.fail(gone("its image is gone"))));
    if (encryptionIn(found.attributes)?.type !== "block") return { found, image, headerBytes: 0n } satisfies Ready;
    const layer = yield* layerPlace(found);
    if (layer.integrity) {
      return yield* new Precondition({
        subject: `snapshot ${snapshotId}`,
        problem:
          "is of a volume with integrity (integrityMode), whose blocks lie among their tags in the image. Which of them changed is not known",
        remedy: "Back up the whole volume",
      });
    }
    return { found, image, headerBytes: layer.headerBytes } satisfies Ready;
  });

/** The RBD snapshot that a CSI snapshot stands for: it has the name of its image. */
const holderOf = ({ pool, imageName }: LocatedVolume): SnapshotRef => ({ pool, image: imageName, snapshot: imageName });

interface Page {
  readonly blocks: readonly Block[];
  /** The offset of the next page; `undefined` after the last. */
  readonly next: bigint | undefined;
}

type Pages = (offset: bigint) => Effect.Effect<Page, CephError, Ceph>;

/** `zeroed`: with the ranges that were written before and are discarded now. */
const diffPages =
  (to: SnapshotRef, from: bigint | undefined, zeroed: boolean): Pages =>
  (offset) =>
    Effect.gen(function* () {
      const { extents } = yield* (yield* Rbd).diff(to, from, offset, PAGE);
      const last = extents.at(-1);
      const next = last === undefined || extents.length < PAGE ? undefined : endOf(last);
      return { blocks: extents.filter(({ exists }) => exists || zeroed), next };
    });

/** Joins the ranges of both, up to the offset to which both are known. */
const unionPages =
  (one: Pages, other: Pages): Pages =>
  (offset) =>
    Effect.gen(function* () {
      const pages = yield* Effect.all([one(offset), other(offset)], { concurrency: 2 });
      const ends = pages.flatMap(({ next }) => (next === undefined ? [] : [next]));
      const next = ends.length === 0 ? undefined : ends.reduce((a, b) => (b < a ? b : a));
      const both = pages.flatMap(({ blocks }) => blocks).toSorted(byOffset);
      return { blocks: before(next, joined(both)), next };
    });

/** The exact pages until they can't go on, then those of the other. */
const orElse = (exact: Pages, other: Pages): Pages => {
  let ended = false;
  return (offset) =>
    ended
      ? other(offset)
      : exact(offset).pipe(
          Effect.catchIf(endsExact, (error) =>
            Effect.andThen(
              Effect.logInfo(
                `changed blocks are listed roughly from offset ${offset} on because an image is gone: ${error.message}`,
              ),
              Effect.suspend(() => ((ended = true), other(offset))),
            ),
          ),
        );
};

/** The volume, or a snapshot of it, has gone meanwhile. */
const endsExact = (error: CephError): boolean =>
  error._tag === "ImageNotFound" || error._tag === "ImageSnapshotNotFound";

const messages = (
  { startingOffset, maxResults }: BlockRequest,
  { image, headerBytes: header }: Ready,
  pages: Pages,
): Stream.Stream<Blocks, CephError | SizeOutOfRange, Ceph> => {
  const capacityBytes = image.sizeBytes > header ? image.sizeBytes - header : 0n;
  if (startingOffset > capacityBytes) {
    const reason = `starting_offset ${startingOffset} is past the end of the volume, ${capacityBytes} bytes`;
    return Stream.fail(new SizeOutOfRange({ reason }));
  }
  const size = maxResults === 0 ? PAGE : Math.min(maxResults, PAGE);
  const first = startingOffset + header;
  return Stream.paginate(first, (offset) =>
    Effect.map(pages(offset), ({ blocks, next }) => {
      const kept = before(capacityBytes, behind(header, blocks));
      const parts = Array.from({ length: Math.ceil(kept.length / size) }, (_, i) =>
        kept.slice(i * size, (i + 1) * size),
      );
      // The first message contains the capacity, also if there are no blocks.
      const sent = parts.length === 0 && offset === first ? [[]] : parts;
      return [sent.map((part): Blocks => ({ capacityBytes, blocks: part })), Option.fromUndefinedOr(next)] as const;
    }),
  );
};

/** The ranges behind the header, counted from its end. */
const behind = (header: bigint, blocks: readonly Block[]): readonly Block[] =>
  header === 0n
    ? blocks
    : blocks.flatMap(({ offset, length }) => {
        const cut = offset < header ? header - offset : 0n;
        return length > cut ? [{ offset: offset + cut - header, length: length - cut }] : [];
      });

export const allocatedBlocks = (
  snapshotId: string,
  request: BlockRequest,
): Stream.Stream<Blocks, Failure, Ceph | Clusters | ClusterSecrets> =>
  Stream.unwrap(
    Effect.map(readySnapshot(snapshotId, request.credentials), (snapshot) =>
      messages(request, snapshot, diffPages(holderOf(snapshot.found), undefined, false)),
    ),
  );

const samePlace = (a: PoolRef, b: PoolRef): boolean =>
  sameMonitors(a.access.monitors, b.access.monitors) && a.pool === b.pool && a.namespace === b.namespace;

/** Finds the snapshots of the image of the volume from which both were cloned; `undefined`: they are not known any more. */
const parentsOf = (base: Ready, target: Ready) =>
  Effect.gen(function* () {
    const [one, two] = [base.image.parent, target.image.parent];
    if (one === undefined || two === undefined || one.imageId !== two.imageId) return undefined;
    const pool: PoolRef = { ...target.found.pool, pool: two.pool, namespace: two.namespace };
    const there = yield* (yield* Rbd)
      .snapshots(pool, two.image)
      .pipe(Effect.catchTag("ImageNotFound", () => Effect.succeed([])));
    const idOf = (name: string) => there.find((snapshot) => snapshot.name === name)?.id;
    const [from, to] = [idOf(one.snapshot), idOf(two.snapshot)];
    if (from === undefined || to === undefined) return undefined;
    // A difference is the same in both directions.
    const [older, newer] = from < to ? [from, to] : [to, from];
    return { older, newer: { pool, image: two.image, snapshot: newer } satisfies SnapshotRef };
  });

export const changedBlocks = (
  baseSnapshotId: string,
  targetSnapshotId: string,
  request: BlockRequest,
): Stream.Stream<Blocks, Failure, Ceph | Clusters | ClusterSecrets> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const [base, target] = yield* Effect.all(
        [readySnapshot(baseSnapshotId, request.credentials), readySnapshot(targetSnapshotId, request.credentials)],
        { concurrency: 2 },
      );
      if (
        !samePlace(base.found.pool, target.found.pool) ||
        base.found.attributes?.source !== target.found.attributes?.source
      ) {
        const reason = `is a snapshot of ${base.found.attributes?.source ?? ""}, target_snapshot_id one of ${target.found.attributes?.source ?? ""}: they must be of one volume`;
        return yield* new InvalidRequest({ field: "base_snapshot_id", reason });
      }
      if (base.found.uuid === target.found.uuid) {
        return messages(request, target, () => Effect.succeed({ blocks: [], next: undefined }));
      }
      const either = unionPages(
        diffPages(holderOf(base.found), undefined, false),
        diffPages(holderOf(target.found), undefined, false),
      );
      const parents = yield* parentsOf(base, target);
      if (parents === undefined) return messages(request, target, either);
      return messages(request, target, orElse(diffPages(parents.newer, parents.older, true), either));
    }),
  );
