/**
 * The seam between a service's recipes and the wire: an RPC handler made of an effect that fails with domain errors.
 *
 * Not here: the transport (lib/grpc) and any RPC's own steps (services/).
 *
 * 1. Every domain error leaves through the one table in ./outcomes.ts.
 * 2. Two requests are equal when their bytes are, whatever the order of their map entries; only a digest is kept.
 */
import { createHash } from "node:crypto";
import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import { type DomainError, toRpcError } from "./outcomes.ts";
import { CallInfo } from "../grpc/call.ts";
import type { RpcError } from "../grpc/status.ts";
import { CurrentOperation } from "./operation.ts";
import { type AnswerEarly, Operations } from "./pipeline.ts";

/** An RPC that changes something: one operation, joined by retries (./pipeline.ts). */
export const mutating = <Req extends DescMessage, A, R>(
  rpc: string,
  schema: Req,
  subject: (request: MessageShape<Req>) => string,
  recipe: (request: MessageShape<Req>, answerEarly: AnswerEarly<A>) => Effect.Effect<A, DomainError, R>,
) =>
  Effect.fnUntraced(function* (request: MessageShape<Req>): Effect.fn.Return<A, RpcError, R | Operations> {
    const { deadline } = yield* CallInfo;
    const operations = yield* Operations;
    return yield* operations
      .run(
        { rpc, subject: subject(request), identity: identity(schema, request), deadline },
        (answerEarly: AnswerEarly<A>) =>
          Effect.flatMap(CurrentOperation, (operation) =>
            Effect.suspend(() => recipe(request, answerEarly)).pipe(
              Effect.mapError((error) => toRpcError(error, operation)),
            ),
          ),
      )
      .pipe(Effect.mapError((error) => (error._tag === "StillRunning" ? toRpcError(error) : error)));
  });

/** An RPC that only looks. */
export const reading =
  <Req, A, R>(recipe: (request: Req) => Effect.Effect<A, DomainError, R>) =>
  (request: Req): Effect.Effect<A, RpcError, R> =>
    Effect.suspend(() => recipe(request)).pipe(Effect.mapError((error) => toRpcError(error)));

const identity = <Req extends DescMessage>(schema: Req, request: MessageShape<Req>): string =>
  createHash("sha256")
    .update(JSON.stringify(sorted(toJson(schema, request))))
    .digest("base64");

const sorted = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
};
