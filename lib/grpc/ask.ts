/**
 * One unary call to another process's gRPC server, on a connection of its own.
 *
 * Not here: retries, and many calls on one connection (./kept-ask.ts). A connection that is kept would wait, after failures,
 * for minutes until it tries again; a new one finds out at once.
 *
 * 1. The call ends within its limit, and its connection ends with it.
 */
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { grpcAddress, type ListenError, readEndpoint } from "./socket.ts";
import { RpcError } from "./status.ts";

/** Calls the method at `endpoint` (see `readEndpoint`) and gives its response. */
export const ask = <I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  endpoint: string,
  request: MessageInitShape<I>,
  limit: Duration.Duration,
): Effect.Effect<MessageShape<O>, RpcError | ListenError> =>
  Effect.acquireUseRelease(
    connectionTo(endpoint),
    (channel) => unary(channel, method, request, limit),
    (channel) => Effect.sync(() => channel.close()),
  );

/** Opened with its first call. */
export const connectionTo = (endpoint: string): Effect.Effect<Client, ListenError> =>
  Effect.map(
    Effect.fromResult(readEndpoint(endpoint)),
    (found) => new Client(grpcAddress(found), credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 }),
  );

export const unary = <I extends DescMessage, O extends DescMessage>(
  channel: Client,
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
  limit: Duration.Duration,
): Effect.Effect<MessageShape<O>, RpcError> =>
  Effect.callback((resume) => {
    const call = channel.makeUnaryRequest(
      `/${method.parent.typeName}/${method.name}`,
      (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
      (bytes: Buffer) => fromBinary(method.output, bytes),
      create(method.input, request),
      new Metadata(),
      { deadline: Date.now() + Duration.toMillis(limit) },
      (error, response) => {
        if (response !== undefined) return resume(Effect.succeed(response));
        const { code = 2, details = "no response" } = error ?? {};
        return resume(Effect.fail(new RpcError({ code, message: details })));
      },
    );
    return Effect.sync(() => call.cancel());
  });
