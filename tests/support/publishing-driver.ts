/**
 * A CSI driver on a real socket that publishes volumes to nodes: what an attacher beside a driver meets.
 *
 * Not here: anything of Ceph. The product's own driver publishes nothing.
 *
 * 1. It keeps what it has published through `stop` and `start`, as a storage system does.
 */
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Logger from "effect/Logger";
import * as Scope from "effect/Scope";
import {
  Controller,
  ControllerServiceCapability_RPC_Type as Rpc,
  Identity,
  PluginCapability_Service_Type as Service,
} from "../../lib/gen/csi_pb.ts";
import { serve } from "../../lib/grpc/server.ts";
import { served } from "../../lib/grpc/service.ts";
import type { RpcError } from "../../lib/grpc/status.ts";
import { grace } from "./grpc-serving.ts";

export class PublishingDriver {
  readonly calls: string[] = [];
  readonly published = new Map<string, Set<string>>();
  /** False: it has no PUBLISH_UNPUBLISH_VOLUME, and an attacher has nothing to ask it for. */
  publishes = true;
  /** What stands in the way of a call; absent: nothing. */
  around: (call: string) => Effect.Effect<void, RpcError> = () => Effect.void;
  private scope: Scope.Closeable | undefined;

  constructor(
    readonly name: string,
    readonly path: string,
    /** Further ones than PUBLISH_UNPUBLISH_VOLUME. */
    readonly capabilities: readonly Rpc[] = [],
  ) {}

  async start(): Promise<void> {
    this.scope = Scope.makeUnsafe();
    const services = [served(Identity, this.identity()), served(Controller, this.controller())];
    const serving = serve({ endpoint: `unix://${this.path}`, services, stop: grace(0) });
    await Effect.runPromise(serving.pipe(Scope.provide(this.scope), Effect.provide(Logger.layer([]))));
  }

  async stop(): Promise<void> {
    const { scope } = this;
    this.scope = undefined;
    if (scope !== undefined)
      await Effect.runPromise(Scope.close(scope, Exit.void).pipe(Effect.provide(Logger.layer([]))));
  }

  private identity() {
    return {
      probe: () => Effect.succeed({ ready: true }),
      getPluginInfo: () => Effect.succeed({ name: this.name, vendorVersion: "1" }),
      getPluginCapabilities: () =>
        Effect.succeed({
          capabilities: [{ type: { case: "service" as const, value: { type: Service.CONTROLLER_SERVICE } } }],
        }),
    };
  }

  private controller() {
    const call = <A>(text: string, act: () => A): Effect.Effect<A, RpcError> =>
      Effect.suspend(() => {
        this.calls.push(text);
        return Effect.andThen(this.around(text), Effect.sync(act));
      });
    return {
      controllerGetCapabilities: () =>
        Effect.succeed({
          capabilities: [...(this.publishes ? [Rpc.PUBLISH_UNPUBLISH_VOLUME] : []), ...this.capabilities].map(
            (type) => ({
              type: { case: "rpc" as const, value: { type } },
            }),
          ),
        }),
      controllerPublishVolume: ({ volumeId, nodeId }: { volumeId: string; nodeId: string }) =>
        call(`publish ${volumeId} ${nodeId}`, () => {
          const nodes = this.published.get(volumeId) ?? new Set();
          this.published.set(volumeId, nodes.add(nodeId));
          return { publishContext: { device: `of-${volumeId}` } };
        }),
      controllerUnpublishVolume: ({ volumeId, nodeId }: { volumeId: string; nodeId: string }) =>
        call(`unpublish ${volumeId} ${nodeId}`, () => (this.published.get(volumeId)?.delete(nodeId), {})),
      listVolumes: () =>
        call("list", () => ({
          entries: Array.from(this.published, ([volumeId, nodes]) => ({
            volume: { volumeId },
            status: { publishedNodeIds: [...nodes] },
          })),
        })),
    };
  }
}
