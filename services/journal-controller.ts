/**
 * `--type=controller`: in ceph-csi it writes journals anew from PersistentVolumes. This release has no Kubernetes client
 * that could watch them, so it has nothing to do; it stays, because a container that ends is started again for ever.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { type Role, role } from "../lib/process/role.ts";

export const journalControllerRole: Role<never> = role({
  name: "journal controller",
  layer: Layer.empty,
  runs: Effect.andThen(
    Effect.logInfo(
      "--type=controller has nothing to do in this release, which rebuilds no journals: it waits for its end",
    ),
    Effect.never,
  ),
});
