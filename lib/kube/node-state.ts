/** What Kubernetes says of a node that matters to whoever takes a volume from it. */
import * as Effect from "effect/Effect";
import * as z from "zod";
import type { KubeFailed } from "./errors.ts";
import { getIfThere, type Kube } from "./kube.ts";

/** A person, or a controller, sets it once a node is shut down; with it Kubernetes detaches the node's volumes. */
export const OUT_OF_SERVICE = "node.kubernetes.io/out-of-service";

export interface NodeState {
  readonly outOfService: boolean;
  /** Whether its kubelet reports, and reports that it is well. */
  readonly ready: boolean;
  /** Another one after each boot of the machine; "" if kubelet has told none. */
  readonly bootId: string;
  /** Which machine has the node's name: its IDs of the system and of the hardware; "" if kubelet has told none. */
  readonly machine: string;
}

const shape = {
  kind: "a Node",
  schema: z.object({
    spec: z.object({ taints: z.array(z.object({ key: z.string() })).nullish() }).nullish(),
    status: z
      .object({
        conditions: z.array(z.object({ type: z.string(), status: z.string() })).nullish(),
        nodeInfo: z
          .object({ bootID: z.string().nullish(), machineID: z.string().nullish(), systemUUID: z.string().nullish() })
          .nullish(),
      })
      .nullish(),
  }),
};

/** `undefined`: there is no such node. */
export const nodeState = (name: string): Effect.Effect<NodeState | undefined, KubeFailed, Kube> =>
  Effect.map(
    getIfThere(`/api/v1/nodes/${encodeURIComponent(name)}`, shape),
    (node) =>
      node && {
        outOfService: node.spec?.taints?.some(({ key }) => key === OUT_OF_SERVICE) ?? false,
        ready: node.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false,
        bootId: node.status?.nodeInfo?.bootID ?? "",
        machine: [node.status?.nodeInfo?.machineID, node.status?.nodeInfo?.systemUUID].filter(Boolean).join(" "),
      },
  );
