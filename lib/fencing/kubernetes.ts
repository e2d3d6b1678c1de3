/**
 * What fencing asks of Kubernetes: the state of a node, and a Secret.
 *
 * 1. Where there is no Kubernetes, no node is out of service, and none is known to be well. Where it does not answer, nothing
 *    is known, and that is an error: who cannot tell whether a node is lost must not give its volume away.
 */
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { NotReadyYet } from "../csi/errors.ts";
import type { KubeFailed } from "../kube/errors.ts";
import { getIfThere, Kube } from "../kube/kube.ts";
import { type NodeState, nodeState } from "../kube/node-state.ts";
import { aSecret, secretPath, secretTexts } from "../kube/secrets.ts";

export interface SecretName {
  readonly name: string;
  readonly namespace: string;
}

const UNKNOWN: NodeState = { outOfService: false, ready: false, bootId: "", machine: "" };

export class Kubernetes extends Context.Service<
  Kubernetes,
  {
    /** `undefined`: Kubernetes has no such node. */
    readonly node: (nodeId: string) => Effect.Effect<NodeState | undefined, NotReadyYet>;
    /** `undefined`: there is no such Secret, or no Kubernetes. */
    readonly secret: (name: SecretName) => Effect.Effect<Readonly<Record<string, string>> | undefined, NotReadyYet>;
  }
>()("csi-rbd/fencing/Kubernetes") {
  static readonly none = Layer.succeed(
    Kubernetes,
    Kubernetes.of({ node: () => Effect.succeed(UNKNOWN), secret: () => Effect.succeed(undefined) }),
  );

  static readonly layer = Layer.effect(
    Kubernetes,
    Effect.map(Kube, (kube) => {
      const asked = <A>(subject: string, read: Effect.Effect<A, KubeFailed, Kube>) =>
        Effect.provideService(read, Kube, kube).pipe(
          Effect.mapError(({ message }) => new NotReadyYet({ subject, problem: `is not known: ${message}` })),
        );
      return Kubernetes.of({
        node: (nodeId) => asked(`the state of node ${nodeId}`, nodeState(nodeId)),
        secret: ({ name, namespace }) =>
          asked(
            `Secret ${namespace}/${name}`,
            Effect.map(getIfThere(secretPath(namespace, name), aSecret), (found) => found && secretTexts(found.data)),
          ),
      });
    }),
  );
}
