/**
 * A gRPC server as a scoped Effect: it listens when the effect succeeds, and stops gracefully when its scope closes.
 *
 * Not here: what is served (services/), how a call runs (./bridge.ts), and signals (lib/process/launch.ts).
 *
 * 1. Stopping: the socket file goes, new calls are answered UNAVAILABLE, running ones may finish until `drainBy`; what is
 *    left is answered UNAVAILABLE "driver is stopping, retry" and interrupted. At `closeBy` connections are cut.
 */
import { Server, ServerCredentials } from "@grpc/grpc-js";
import * as Clock from "effect/Clock";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import { type Endpoint, formatEndpoint } from "./endpoint.ts";
import { type Bridge, type BridgedMethod, makeBridge, type Observe } from "./bridge.ts";
import type { ServedService } from "./service.ts";
import { grpcAddress, ListenError, prepareSocket, readEndpoint } from "./socket.ts";

const MIB = 1024 * 1024;

export interface ServeOptions<R> {
  /** See `readEndpoint`. TCP port 0 takes any free one. */
  readonly endpoint: string;
  readonly services: readonly ServedService<R>[];
  /** Name or number of the group that may connect to the unix socket (mode 0660); absent or empty: the owner alone (0600). */
  readonly group?: string | undefined;
  /** Asked for when the server stops; by default it drains for 10 s and closes in 1 s more. */
  readonly stop?: Effect.Effect<StopBy> | undefined;
  /** Bytes of one request message; 4 MiB by default, as in Go. */
  readonly maxReceiveBytes?: number | undefined;
  /** Bytes of one response message; 16 MiB by default. */
  readonly maxSendBytes?: number | undefined;
  readonly observe?: Observe | undefined;
  /** See `BridgeOptions`. */
  readonly onEnd?: (() => void) | undefined;
}

/** Milliseconds since the epoch. */
export interface StopBy {
  readonly drainBy: number;
  readonly closeBy: number;
}

const DEFAULT_STOP = Effect.map(Clock.currentTimeMillis, (now) => ({ drainBy: now + 10_000, closeBy: now + 11_000 }));

export interface Serving {
  /** The given endpoint with the port that was bound. */
  readonly endpoint: string;
  readonly running: () => number;
  /** The socket's file is still ours; always true for TCP. */
  readonly isThere: () => boolean;
}

/** Listens until the scope closes. Handlers run with the services that are in context here. */
export const serve = <R>(options: ServeOptions<R>): Effect.Effect<Serving, ListenError, R | Scope.Scope> =>
  Effect.gen(function* () {
    const endpoint = yield* Effect.fromResult(readEndpoint(options.endpoint));
    const context = yield* Effect.context<R>();
    const bridge = makeBridge(context, {
      maxSendBytes: options.maxSendBytes ?? 16 * MIB,
      observe: options.observe,
      onEnd: options.onEnd,
    });
    const server = new Server({
      "grpc.max_receive_message_length": options.maxReceiveBytes ?? 4 * MIB,
      // The bridge checks the limit itself, so that a message over it is logged as such.
      "grpc.max_send_message_length": -1,
    });
    for (const service of options.services) for (const method of bridge.methods(service)) register(server, method);
    const { bound, isThere } = yield* Effect.acquireRelease(
      listen(server, endpoint, options.group ?? ""),
      ({ release }) => stop(server, bridge, release, options.stop ?? DEFAULT_STOP),
    );
    yield* Effect.logInfo(`listening on ${bound}`);
    return { endpoint: bound, running: bridge.running, isThere };
  });

const register = (server: Server, method: BridgedMethod): void => {
  const added = server.register(
    method.path,
    method.handle,
    method.responseSerialize,
    method.requestDeserialize,
    method.kind,
  );
  if (!added) throw new Error(`${method.path} is served twice`);
};

interface Listening {
  readonly bound: string;
  readonly isThere: () => boolean;
  readonly release: () => void;
}

const listen = (server: Server, endpoint: Endpoint, group: string): Effect.Effect<Listening, ListenError> =>
  Effect.gen(function* () {
    if (endpoint.kind === "tcp") {
      const port = yield* bind(server, grpcAddress(endpoint));
      return { bound: formatEndpoint({ ...endpoint, port }), isThere: () => true, release: () => undefined };
    }
    const file = yield* prepareSocket(endpoint.path, group);
    yield* Effect.acquireUseRelease(
      // The umask is the whole process's; 077 takes nothing from the owner, whoever makes files meanwhile.
      Effect.sync(() => process.umask(0o077)),
      () => bind(server, grpcAddress({ kind: "unix", path: file.bindPath })),
      (umask) => Effect.sync(() => process.umask(umask)),
    );
    return { bound: formatEndpoint(endpoint), ...(yield* file.publish) };
  }).pipe(Effect.tapError(() => Effect.sync(() => server.forceShutdown())));

const bind = (server: Server, address: string): Effect.Effect<number, ListenError> =>
  Effect.callback((resume) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) => {
      resume(
        error === null
          ? Effect.succeed(port)
          : Effect.fail(new ListenError({ message: `cannot listen on ${address}: ${error.message}` })),
      );
    });
  });

const leftUntil = (moment: number) => Effect.map(Clock.currentTimeMillis, (now) => Math.max(0, moment - now));

const stop = <R>(
  server: Server,
  bridge: Bridge<R>,
  release: () => void,
  stopBy: Effect.Effect<StopBy>,
): Effect.Effect<void> =>
  Effect.gen(function* () {
    release();
    // Both begin now. The first ends with the last call, the second when the last answer is written.
    const drained = new Promise<void>((resolve) => bridge.refuse(resolve));
    const closed = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
    const { drainBy, closeBy } = yield* stopBy;
    const running = bridge.running();
    const left = yield* leftUntil(drainBy);
    if (running > 0) {
      yield* Effect.logInfo(`stopping; ${running} running calls have ${(left / 1000).toFixed(1)} s to finish`);
    }
    yield* Effect.promise(() => drained).pipe(Effect.timeoutOption(left));
    bridge.abandon();
    yield* Effect.promise(() => closed).pipe(
      Effect.timeoutOrElse({
        duration: yield* leftUntil(closeBy),
        orElse: () => Effect.sync(() => server.forceShutdown()),
      }),
    );
  });
