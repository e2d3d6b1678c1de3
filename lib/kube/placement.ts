/**
 * Where this node is: its topology, for the scheduling of volumes, and its place near OSDs, for reads.
 *
 * 1. A driver whose `--domainlabels` are wrong does not start. Without its topology the node would get volumes that it
 *    cannot reach.
 * 2. Read affinity only makes reads faster. If the labels cannot be read in a moment, a volume is mapped without it, and
 *    the next volume asks for them again.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Layer from "effect/Layer";
import type { Cluster } from "../config/clusters.ts";
import type { Flags } from "../config/flags.ts";
import { KubeAccessWrong, type KubeFailed } from "./errors.ts";
import type { KubeAccess } from "./kubeconfig.ts";
import { crushLocation, type Labels, type NodeLabelWrong, nodeLabels, topologySegments } from "./labels.ts";
import { makeKube } from "./request.ts";

export class Placement extends Context.Service<
  Placement,
  {
    /** The segments of this node's topology; none without `--domainlabels`. */
    readonly segments: Labels;
    /** Map options for reads from near OSDs; "" if the cluster's entry in config.json does not ask for them. */
    readonly mapOptions: (cluster: Cluster) => Effect.Effect<string>;
  }
>()("csi-rbd/Placement") {
  /** For a node without topology and read affinity. */
  static readonly none = Layer.succeed(Placement, Placement.of({ segments: {}, mapOptions: () => Effect.succeed("") }));

  static readonly layer = (
    flags: PlacementFlags,
    access: Effect.Effect<KubeAccess, KubeAccessWrong>,
  ): Layer.Layer<Placement, Unreadable | NodeLabelWrong> => Layer.effect(Placement, makePlacement(flags, access));
}

type PlacementFlags = Pick<Flags, "nodeId" | "driverName" | "domainLabels" | "crushLocationLabels">;

type Unreadable = KubeFailed | KubeAccessWrong;

const makePlacement = Effect.fnUntraced(function* (
  { nodeId, driverName, domainLabels, crushLocationLabels }: PlacementFlags,
  access: Effect.Effect<KubeAccess, KubeAccessWrong>,
): Effect.fn.Return<Placement["Service"], Unreadable | NodeLabelWrong> {
  const read = Effect.flatMap(access, (known) => nodeLabels(makeKube(known), nodeId));
  const labels = yield* Effect.cachedWithTTL(read, (exit) => (Exit.isSuccess(exit) ? "Infinity" : 0));
  const segments =
    domainLabels.length === 0
      ? {}
      : yield* Effect.fromResult(topologySegments(yield* labels, domainLabels, driverName));
  return Placement.of({
    segments,
    mapOptions: ({ readAffinity }) => {
      const own = readAffinity.crushLocationLabels;
      return readAffinity.enabled ? nearReads(labels, own.length > 0 ? own : crushLocationLabels) : Effect.succeed("");
    },
  });
});

/** An API server that is away, or asks for patience, must not hold up every volume. */
const LABELS_WITHIN = "5 seconds";

const nearReads = (
  labels: Effect.Effect<Labels, Unreadable>,
  crushLabels: readonly string[],
): Effect.Effect<string> => {
  if (crushLabels.length === 0) return Effect.succeed("");
  return labels.pipe(
    Effect.timeoutOrElse({
      duration: LABELS_WITHIN,
      orElse: () => new KubeAccessWrong({ message: `the node's labels were not read within ${LABELS_WITHIN}` }),
    }),
    Effect.map((all) => crushLocation(all, crushLabels)),
    Effect.map((location) => (location === "" ? "" : `read_from_replica=localize,crush_location=${location}`)),
    Effect.catch(({ message }) =>
      Effect.as(Effect.logWarning(`a volume is mapped without read affinity: ${message}`), ""),
    ),
  );
};
