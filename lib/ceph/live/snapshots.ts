/**
 * The methods of `Ceph` on snapshots, clones and what they differ in, each one call in a cell (lib/ceph/cell/cell.ts).
 *
 * Not here: groups of images (./groups.ts).
 *
 * 1. What waits for the monitors or takes as long as an image is big is slow, and says so.
 */
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { imageLabel, type SnapshotCalls } from "../ceph.ts";
import type { SnapshotRef } from "../rbd.ts";
import { type Asking, clusterAsk, MANAGER, MANAGER_LIMIT, managerUnavailable, orderOf } from "./call.ts";

export const snapshotCalls = (
  { ask, inPool, change, monitorLimit }: Asking,
  longLimit: Duration.Duration,
): SnapshotCalls => ({
  snapshotCreate: (ref, image, snapshot, clients = "asked") =>
    change(ref, "snapshotCreate", image, (where) => ({ ...where, image, snapshot, clients }), {
      subject: `${imageLabel(ref, image)}@${snapshot}`,
      pace: "slow",
    }),
  snapshotRemove: (ref, image, snapshot) =>
    change(ref, "snapshotRemove", image, (where) => ({ ...where, image, snapshot }), {
      subject: `${imageLabel(ref, image)}@${snapshot}`,
      pace: "slow",
    }),
  snapshots: (ref, image) => inPool(ref, "snapshots", image, (where) => ({ ...where, image })),
  imageClone: (source, ref, image, { objectSize, ...spec }) =>
    Effect.flatMap(orderOf("rbd_clone", imageLabel(ref, image), objectSize), (order) =>
      change(
        ref,
        "imageClone",
        image,
        (where) => ({ ...where, image, source: sourceOf(source), layout: { ...spec, order } }),
        { dataPool: spec.dataPool, sourcePool: source.pool.pool, snapshot: snapshotSubject(source) },
      ),
    ),
  cloneDepth: (ref, image) => inPool(ref, "cloneDepth", image, (where) => ({ ...where, image })),
  imageMetaList: (ref, image) => inPool(ref, "imageMetaList", image, (where) => ({ ...where, image })),
  imageFlatten: (ref, image) =>
    change(ref, "imageFlatten", image, (where) => ({ ...where, image }), { limit: longLimit, pace: "slow" }),
  managerFlatten: (ref, image) =>
    managerUnavailable(
      inPool(ref, "managerFlatten", image, (where) => ({ ...where, image }), {
        limit: MANAGER_LIMIT,
        key: MANAGER,
        changes: true,
      }),
    ),
  managerTasks: (access) =>
    managerUnavailable(
      ask(access, "managerTasks", (cluster) => ({ cluster }), clusterAsk(access, "", MANAGER, monitorLimit)),
    ),
  diff: (source, from, offset, limit) =>
    inPool(
      source.pool,
      "diff",
      source.image,
      (where) => ({ ...where, image: source.image, to: source.snapshot, from, offset, limit }),
      {
        key: undefined,
        limit: longLimit,
        pace: "slow",
        snapshot: snapshotSubject(source),
        start: from === undefined ? undefined : snapshotSubject({ ...source, snapshot: from }),
      },
    ),
});

const sourceOf = ({ pool, image, snapshot }: SnapshotRef) => ({
  pool: pool.pool,
  namespace: pool.namespace,
  image,
  snapshot,
});

const snapshotSubject = ({ pool, image, snapshot }: SnapshotRef): string =>
  `${imageLabel(pool, image)}@${typeof snapshot === "bigint" ? `#${snapshot}` : snapshot}`;
