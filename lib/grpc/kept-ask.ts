/**
 * Unary calls to another process's gRPC server, many on one connection: to open one for each costs more than the call.
 *
 * 1. A connection on which a call has failed gets no further call: the next one opens another, and so finds at once a
 *    server that has come back.
 * 2. A call that meets the end of a connection that has worked is sent once more, on a new one. So this is for methods that
 *    may be repeated, as all of CSI may.
 * 3. A call ends within its limit, the second one as well. A connection ends with its last call once it has failed, else with the scope.
 */
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { Client } from "@grpc/grpc-js";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import { connectionTo, unary } from "./ask.ts";
import type { ListenError } from "./socket.ts";
import { Code, type RpcError } from "./status.ts";

export type KeptAsk = <I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
  limit: Duration.Duration,
) => Effect.Effect<MessageShape<O>, RpcError | ListenError>;

interface Connection {
  readonly channel: Client;
  calls: number;
  /** A call on it was answered. */
  proven: boolean;
  retired: boolean;
}

/** What a call ends with when its connection does. */
const GONE: number = Code.UNAVAILABLE;

export const keptAsk = (endpoint: string): Effect.Effect<KeptAsk, never, Scope.Scope> =>
  Effect.gen(function* () {
    let current: Connection | undefined;
    const closeAfterLast = (one: Connection) => {
      if (one.retired && one.calls === 0) one.channel.close();
    };
    const retire = (one: Connection) => {
      one.retired = true;
      if (current === one) current = undefined;
      closeAfterLast(one);
    };
    const take = Effect.gen(function* () {
      current ??= { channel: yield* connectionTo(endpoint), calls: 0, proven: false, retired: false };
      current.calls += 1;
      return current;
    });
    const giveBack = (one: Connection) =>
      Effect.sync(() => {
        one.calls -= 1;
        closeAfterLast(one);
      });
    yield* Effect.addFinalizer(() => Effect.sync(() => current && retire(current)));

    const attempt = <I extends DescMessage, O extends DescMessage>(
      method: DescMethodUnary<I, O>,
      request: MessageInitShape<I>,
      limit: Duration.Duration,
      mayRepeat: boolean,
    ): Effect.Effect<MessageShape<O>, RpcError | ListenError> =>
      Effect.acquireUseRelease(
        take,
        (one) => {
          const hadWorked = one.proven;
          return unary(one.channel, method, request, limit).pipe(
            Effect.tap(() => Effect.sync(() => void (one.proven = true))),
            Effect.tapError(() => Effect.sync(() => retire(one))),
            Effect.map((answer) => ({ answer })),
            Effect.catchIf(
              ({ code }) => mayRepeat && hadWorked && code === GONE,
              () => Effect.succeed(undefined),
            ),
          );
        },
        giveBack,
      ).pipe(
        Effect.flatMap((found) =>
          found === undefined ? attempt(method, request, limit, false) : Effect.succeed(found.answer),
        ),
      );
    return (method, request, limit) => attempt(method, request, limit, true);
  });
