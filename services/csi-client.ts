/**
 * A CSI driver in another process, as an attacher asks it (lib/attacher/csi-driver.ts): its name, what it can do, and
 * the calls that publish volumes.
 *
 * 1. A driver that is away, or not ready, is waited for, however long it takes: nobody has to start this process anew.
 * 2. Calls share a connection until one fails, so that a driver that comes back is found at once.
 * 3. No secret is in an error.
 */
import * as Data from "effect/Data";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { type CsiAbilities, CsiDriver, CsiFailed, type PublishRequest } from "../lib/attacher/csi-driver.ts";
import {
  Controller,
  type ControllerPublishVolumeRequestSchema,
  ControllerServiceCapability_RPC_Type as Rpc,
  Identity,
  PluginCapability_Service_Type as Service,
  VolumeCapability_AccessMode_Mode as Mode,
} from "../lib/gen/csi_pb.ts";
import { type KeptAsk, keptAsk } from "../lib/grpc/kept-ask.ts";
import { Code, codeName, goCodeName } from "../lib/grpc/status.ts";
import { Timings } from "../lib/telemetry/metrics.ts";

export class NoDriver extends Data.TaggedError("NoDriver")<{ readonly message: string }> {}

export interface CsiClientOptions {
  readonly address: string;
  /** Of each call, and of a list with all its pages. */
  readonly timeout: Duration.Duration;
  /** Volumes per page of a list; 0: as many as the driver likes. */
  readonly maxEntries: number;
}

type Call = <I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
) => Effect.Effect<MessageShape<O>, CsiFailed>;

const caller =
  (ask: KeptAsk, { timeout }: CsiClientOptions, timings: Timings | undefined, driverName: () => string): Call =>
  (method, request) =>
    Effect.suspend(() => {
      const since = performance.now();
      const note = (code: string) =>
        Effect.sync(() => {
          const path = `/${method.parent.typeName}/${method.name}`;
          timings?.sidecar(driverName(), path, code, (performance.now() - since) / 1000);
        });
      return ask(method, request, timeout).pipe(
        Effect.mapError((error) => {
          const code = "code" in error ? error.code : Code.UNAVAILABLE;
          return new CsiFailed({ code, message: `${method.name}: ${codeName(code)}: ${error.message}` });
        }),
        Effect.tap(() => note("OK")),
        Effect.tapError(({ code }) => note(goCodeName(code))),
      );
    });

/** Waits until the driver is ready, and finds out what it can do. */
export const connectDriver = (options: CsiClientOptions): Effect.Effect<CsiDriver["Service"], NoDriver, Scope.Scope> =>
  Effect.gen(function* () {
    let known = "unknown-driver";
    const ask = yield* keptAsk(options.address);
    const call = caller(ask, options, yield* Timings, () => known);
    yield* whenReady(call, options.address);
    const { name } = yield* patiently(call(Identity.method.getPluginInfo, {}));
    if (name === "") {
      const message = `the driver at ${options.address} has no name: its GetPluginInfo answers with an empty one`;
      return yield* new NoDriver({ message });
    }
    known = name;
    const abilities = yield* patiently(abilitiesOf(call));
    return CsiDriver.of({
      name,
      abilities,
      publish: (request) =>
        Effect.map(call(Controller.method.controllerPublishVolume, publishMessage(request)), (r) => r.publishContext),
      unpublish: ({ volumeId, nodeId, secrets }) =>
        Effect.asVoid(call(Controller.method.controllerUnpublishVolume, { volumeId, nodeId, secrets: { ...secrets } })),
      publishedNodes: publishedNodes(call, options),
    });
  });

/** Tries again each second; the log says once in a while that it waits. */
const patiently = <A>(act: Effect.Effect<A, CsiFailed>): Effect.Effect<A> => {
  let failures = 0;
  const attempt: Effect.Effect<A> = Effect.catch(act, ({ message }) => {
    const said = failures++ % 10 === 0 ? Effect.logInfo(`waiting for the driver: ${message}`) : Effect.void;
    return Effect.andThen(said, Effect.delay(attempt, "1 second"));
  });
  return attempt;
};

const whenReady = (call: Call, address: string): Effect.Effect<void> =>
  patiently(
    Effect.flatMap(call(Identity.method.probe, {}), ({ ready = true }) =>
      ready ? Effect.void : new CsiFailed({ code: Code.UNAVAILABLE, message: `${address} is not ready` }),
    ),
  );

const abilitiesOf = (call: Call): Effect.Effect<CsiAbilities, CsiFailed> =>
  Effect.gen(function* () {
    const { capabilities: services } = yield* call(Identity.method.getPluginCapabilities, {});
    const hasController = services.some(
      ({ type }) => type.case === "service" && type.value.type === Service.CONTROLLER_SERVICE,
    );
    const { capabilities } = hasController
      ? yield* call(Controller.method.controllerGetCapabilities, {})
      : { capabilities: [] };
    const can = (rpc: Rpc) => capabilities.some(({ type }) => type.case === "rpc" && type.value.type === rpc);
    return {
      publish: can(Rpc.PUBLISH_UNPUBLISH_VOLUME),
      publishReadOnly: can(Rpc.PUBLISH_READONLY),
      singleNodeMultiWriter: can(Rpc.SINGLE_NODE_MULTI_WRITER),
      listPublishedNodes: can(Rpc.LIST_VOLUMES) && can(Rpc.LIST_VOLUMES_PUBLISHED_NODES),
    };
  });

const publishMessage = ({
  volumeId,
  nodeId,
  access,
  mode,
  readOnly,
  secrets,
  volumeContext,
}: PublishRequest): MessageInitShape<typeof ControllerPublishVolumeRequestSchema> => ({
  volumeId,
  nodeId,
  readonly: readOnly,
  secrets: { ...secrets },
  volumeContext: { ...volumeContext },
  volumeCapability: {
    accessMode: { mode: Mode[mode] },
    accessType:
      access === "block"
        ? { case: "block" as const, value: {} }
        : { case: "mount" as const, value: { fsType: access.fsType, mountFlags: [...access.mountFlags] } },
  },
});

const publishedNodes = (call: Call, { timeout, maxEntries }: CsiClientOptions) =>
  Effect.gen(function* () {
    const nodes = new Map<string, ReadonlySet<string>>();
    let startingToken = "";
    do {
      const page = yield* call(Controller.method.listVolumes, { maxEntries, startingToken });
      for (const { volume, status } of page.entries) {
        if (volume !== undefined && status !== undefined) nodes.set(volume.volumeId, new Set(status.publishedNodeIds));
      }
      startingToken = page.nextToken;
    } while (startingToken !== "");
    return nodes;
  }).pipe(
    Effect.timeoutOrElse({
      duration: timeout,
      orElse: () => new CsiFailed({ code: Code.DEADLINE_EXCEEDED, message: "ListVolumes has not ended in time" }),
    }),
  );
