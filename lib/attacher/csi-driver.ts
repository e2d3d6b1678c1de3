/**
 * The CSI driver whose volumes are attached, as an Effect service in plain values.
 *
 * Not here: the calls to its socket (services/csi-client.ts).
 */
import * as Context from "effect/Context";
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Semaphore from "effect/Semaphore";

/** A call failed. The message shows on objects of Kubernetes, so it holds no secret. */
export class CsiFailed extends Data.TaggedError("CsiFailed")<{
  /** gRPC's number. */
  readonly code: number;
  readonly message: string;
}> {}

export interface CsiAbilities {
  /** ControllerPublishVolume and its opposite; without them an attachment is only a word. */
  readonly publish: boolean;
  readonly publishReadOnly: boolean;
  /** The access modes of one node that tell one writer from several. */
  readonly singleNodeMultiWriter: boolean;
  /** ListVolumes says on which nodes a volume is published. */
  readonly listPublishedNodes: boolean;
}

/** The names that CSI gives them. */
export type AccessMode =
  | "SINGLE_NODE_WRITER"
  | "SINGLE_NODE_SINGLE_WRITER"
  | "SINGLE_NODE_MULTI_WRITER"
  | "MULTI_NODE_READER_ONLY"
  | "MULTI_NODE_MULTI_WRITER";

export interface Published {
  readonly volumeId: string;
  readonly nodeId: string;
  readonly secrets: Readonly<Record<string, string>>;
}

export interface PublishRequest extends Published {
  readonly access: { readonly fsType: string; readonly mountFlags: readonly string[] } | "block";
  readonly mode: AccessMode;
  readonly readOnly: boolean;
  readonly volumeContext: Readonly<Record<string, string>>;
}

export class CsiDriver extends Context.Service<
  CsiDriver,
  {
    readonly name: string;
    readonly abilities: CsiAbilities;
    /** -> the publish context. */
    readonly publish: (request: PublishRequest) => Effect.Effect<Readonly<Record<string, string>>, CsiFailed>;
    readonly unpublish: (request: Published) => Effect.Effect<void, CsiFailed>;
    /** The nodes of each volume that ListVolumes tells of. */
    readonly publishedNodes: Effect.Effect<ReadonlyMap<string, ReadonlySet<string>>, CsiFailed>;
  }
>()("csi-rbd/attacher/CsiDriver") {}

/** The driver, asked for so many publishes at once, and for as many unpublishes. */
export const limited = (driver: CsiDriver["Service"], atOnce: number): Effect.Effect<CsiDriver["Service"]> =>
  Effect.gen(function* () {
    const [publishes, unpublishes] = [yield* Semaphore.make(atOnce), yield* Semaphore.make(atOnce)];
    return {
      ...driver,
      publish: (request) => publishes.withPermit(driver.publish(request)),
      unpublish: (request) => unpublishes.withPermit(driver.unpublish(request)),
    };
  });
