/**
 * Where this node is, for the CO's scheduling and for reads from near OSDs.
 *
 * 1. A wrong `--domainlabels` ends the start with a line that says so: a node without its topology would get volumes
 *    that it can't reach.
 * 2. Read affinity is a matter of speed: where the labels can't be had, a volume is mapped without it.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Cluster } from "../config/clusters.ts";
import type { Flags } from "../config/flags.ts";
import { type KubeAccess, kubeAccess, KubeFailed } from "./client.ts";
import { crushLocation, type Labels, type NodeLabelWrong, nodeLabels, topologySegments } from "./labels.ts";

export class Placement extends Context.Service<
  Placement,
  {
    /** Segments of this node's topology; none without `--domainlabels`. */
    readonly segments: Labels;
    /** Options of `rbd map` that make reads near, as far as the cluster's entry in config.json asks for them. */
    readonly mapOptions: (cluster: Cluster) => Effect.Effect<string>;
  }
>()("csi-rbd/Placement") {
  /** Nothing is known of the node, and nothing needed. */
  static readonly none = Layer.succeed(Placement, Placement.of({ segments: {}, mapOptions: () => Effect.succeed("") }));

  static readonly layer = (
    flags: Pick<Flags, "nodeId" | "driverName" | "domainLabels" | "crushLocationLabels">,
    access: KubeAccess | undefined = kubeAccess(process.env),
  ): Layer.Layer<Placement, KubeFailed | NodeLabelWrong> =>
    Layer.effect(
      Placement,
      Effect.gen(function* () {
        const ask =
          access === undefined
            ? Effect.fail(new KubeFailed({ path: `node ${flags.nodeId}`, reason: "this process is in no pod" }))
            : nodeLabels(access, flags.nodeId);
        const labels = yield* Effect.cached(ask);
        const segments =
          flags.domainLabels.length === 0
            ? {}
            : yield* Effect.fromResult(topologySegments(yield* labels, flags.domainLabels, flags.driverName));
        const mapOptions = ({ readAffinity }: Cluster) => {
          const wanted =
            readAffinity.crushLocationLabels.length > 0 ? readAffinity.crushLocationLabels : flags.crushLocationLabels;
          if (!readAffinity.enabled || wanted.length === 0) return Effect.succeed("");
          return labels.pipe(
            Effect.map((all) => crushLocation(all, wanted)),
            Effect.map((location) => (location === "" ? "" : `read_from_replica=localize,crush_location=${location}`)),
            Effect.catch(({ message }) =>
              Effect.as(Effect.logWarning(`mapping without read affinity: ${message}`), ""),
            ),
          );
        };
        return Placement.of({ segments, mapOptions });
      }),
    );
}
