/**
 * A gRPC service: a protobuf-es descriptor and an Effect (or a Stream) per RPC.
 *
 * Not here: sockets, servers and calls (./bridge.ts, ./server.ts). A service is plain functions, to be called as such
 * in tests.
 */
import type { DescMessage, DescMethod, DescService, Message, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type * as Effect from "effect/Effect";
import type * as Stream from "effect/Stream";
import type { RpcError } from "./status.ts";

type Unary<I extends DescMessage, O extends DescMessage, R> = (
  request: MessageShape<I>,
) => Effect.Effect<MessageInitShape<O>, RpcError, R>;

type ServerStreaming<I extends DescMessage, O extends DescMessage, R> = (
  request: MessageShape<I>,
) => Stream.Stream<MessageInitShape<O>, RpcError, R>;

type Handler<M, R> = M extends {
  methodKind: "unary";
  input: infer I extends DescMessage;
  output: infer O extends DescMessage;
}
  ? Unary<I, O, R>
  : M extends {
        methodKind: "server_streaming";
        input: infer I extends DescMessage;
        output: infer O extends DescMessage;
      }
    ? ServerStreaming<I, O, R>
    : never;

/** The RPCs of a service that exist; those left out answer UNIMPLEMENTED. */
export type ServiceImpl<S extends DescService, R = never> = {
  readonly [K in keyof S["method"]]?: Handler<S["method"][K], R>;
};

/** A handler with its message types forgotten: the descriptor next to it knows them. */
export type AnyHandler<R> = (
  request: Message,
) =>
  | Effect.Effect<MessageInitShape<DescMessage>, RpcError, R>
  | Stream.Stream<MessageInitShape<DescMessage>, RpcError, R>;

/** A service ready to be served next to others. */
export interface ServedService<out R> {
  readonly service: DescService;
  readonly handler: (method: DescMethod) => AnyHandler<R> | undefined;
}

type Requirements<H> = H extends (request: never) => infer Result
  ? Result extends Effect.Effect<unknown, unknown, infer R>
    ? R
    : Result extends Stream.Stream<unknown, unknown, infer R>
      ? R
      : never
  : never;

/** Ties an implementation to its descriptor. */
export const served = <S extends DescService, I extends ServiceImpl<S, unknown>>(
  service: S,
  impl: I,
): ServedService<Requirements<I[keyof I]>> => ({
  service,
  handler: (method) => {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- one handler per method is what ServiceImpl says
    const handlers = impl as Readonly<Record<string, AnyHandler<Requirements<I[keyof I]>> | undefined>>;
    return handlers[method.localName];
  },
});

export { CallInfo } from "./call.ts";
