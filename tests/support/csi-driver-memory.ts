/**
 * A CSI driver in memory that publishes volumes to nodes, as an attacher calls it; its calls can fail, hang, or lie.
 *
 * 1. Publishing and unpublishing are idempotent, as CSI demands.
 */
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { type CsiAbilities, CsiDriver, CsiFailed, type PublishRequest } from "../../lib/attacher/csi-driver.ts";

export class DriverMemory {
  readonly calls: string[] = [];
  readonly requests: PublishRequest[] = [];
  /** The nodes of each volume. */
  readonly published = new Map<string, Set<string>>();
  /** What stands in the way of a call, such as a failure; absent: nothing. */
  around: (call: string) => Effect.Effect<void, CsiFailed> = () => Effect.void;
  context: Readonly<Record<string, string>> = {};
}

export const ABLE: CsiAbilities = {
  publish: true,
  publishReadOnly: true,
  singleNodeMultiWriter: false,
  listPublishedNodes: false,
};
export const TRIVIAL: CsiAbilities = { ...ABLE, publish: false };

export const driverMemoryLayer = (
  memory: DriverMemory,
  abilities: CsiAbilities = ABLE,
  name = "test.csi.example.com",
): Layer.Layer<CsiDriver> => {
  const call = <A>(text: string, act: () => A): Effect.Effect<A, CsiFailed> =>
    Effect.suspend(() => {
      memory.calls.push(text);
      return Effect.andThen(memory.around(text), Effect.sync(act));
    });
  return Layer.succeed(
    CsiDriver,
    CsiDriver.of({
      name,
      abilities,
      publish: (request) =>
        call(`publish ${request.volumeId} ${request.nodeId}`, () => {
          memory.requests.push(request);
          const nodes = memory.published.get(request.volumeId) ?? new Set();
          memory.published.set(request.volumeId, nodes.add(request.nodeId));
          return memory.context;
        }),
      unpublish: ({ volumeId, nodeId }) =>
        call(`unpublish ${volumeId} ${nodeId}`, () => void memory.published.get(volumeId)?.delete(nodeId)),
      publishedNodes: call("list", () => new Map(Array.from(memory.published, ([id, nodes]) => [id, new Set(nodes)]))),
    }),
  );
};

export const failing = (code: number, message: string) => Effect.fail(new CsiFailed({ code, message }));
