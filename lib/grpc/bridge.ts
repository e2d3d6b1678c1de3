/**
 * The generic bridge between grpc-js and Effect: one fiber per call.
 *
 * Not here: which services there are, where they listen and when they stop (./server.ts).
 *
 * 1. A call is answered exactly once: by its handler, by the caller who left (cancel, deadline), or by a stopping
 *    driver; whoever is first. What was sent is what is logged and counted.
 * 2. A caller who leaves interrupts the fiber that waits for it, and nothing else: operations outlive their callers
 *    (lib/operations/pipeline.ts).
 * 3. A stopping server waits for calls whose callers wait. Of a call that has its answer the fiber may go on: where it was
 *    interrupted, it waits for a blocking call that cannot be cut off.
 * 4. A stream is pulled no faster than the caller takes it: the next message is made when the last one was written.
 * 5. Requests are logged masked only (./mask.ts), and only when the log level asks for them.
 */
import {
  create,
  type DescMessage,
  type DescMethod,
  fromBinary,
  type Message,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { Deadline, handleServerStreamingCall, handleUnaryCall, Metadata, MethodDefinition } from "@grpc/grpc-js";
import type * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import type * as Fiber from "effect/Fiber";
import * as LogLevel from "effect/LogLevel";
import * as Result from "effect/Result";
import * as Stream from "effect/Stream";
import { rpcSpan } from "../telemetry/tracing.ts";
import { CallInfo } from "./call.ts";
import { masked } from "./mask.ts";
import type { AnyHandler, ServedService } from "./service.ts";
import { type CallStatus, Code, codeName, isDefect, OK, RpcError, statusOf, STOPPING, wireStatus } from "./status.ts";

/** Called once per finished call; must not throw. `seconds` from arrival to answer. */
export type Observe = (rpc: string, code: number, seconds: number) => void;

export interface BridgeOptions {
  /** Bytes of one response message, at most. */
  readonly maxSendBytes: number;
  readonly observe?: Observe | undefined;
  /** Called when a call has ended and left nothing to do; must not throw. */
  readonly onEnd?: (() => void) | undefined;
}

/** The calls of one server. */
export interface Bridge<R> {
  readonly methods: (service: ServedService<R>) => readonly BridgedMethod[];
  /** How many callers wait. */
  readonly running: () => number;
  /** From now on every new call is answered with STOPPING; `drained` is called when no caller waits any more. */
  readonly refuse: (drained: () => void) => void;
  /** Answers every call that still runs with STOPPING and interrupts its fiber. */
  readonly abandon: () => void;
}

/** Messages pass grpc-js as bytes: they are decoded and encoded in the fiber, where failures have a place to go. */
export type BridgedMethod = MethodDefinition<Uint8Array, Uint8Array> &
  (
    | { readonly kind: "unary"; readonly handle: handleUnaryCall<Uint8Array, Uint8Array> }
    | { readonly kind: "serverStream"; readonly handle: handleServerStreamingCall<Uint8Array, Uint8Array> }
  );

/** One arrived call, whatever its kind. */
interface Arrival {
  readonly request: Uint8Array;
  readonly metadata: Metadata;
  readonly getDeadline: () => Deadline;
  readonly on: (event: "cancelled", listener: () => void) => unknown;
}

interface Call {
  readonly leave: (status: CallStatus) => void;
}

const processTag = Math.floor(Math.random() * 36 ** 3)
  .toString(36)
  .padStart(3, "0");
let callCount = 0;

const millisOf = (deadline: Deadline): number | undefined => {
  const at = typeof deadline === "number" ? deadline : deadline.getTime();
  return Number.isFinite(at) ? at : undefined;
};

/** Sidecars and kubelet call these every few seconds, so their success is logged at debug level only. */
const isRoutine = (method: DescMethod): boolean => /^Probe$|Get(Plugin)?Capabilities$/.test(method.name);

const decode = (method: DescMethod, bytes: Uint8Array): Result.Result<Message, RpcError> =>
  Result.try({
    try: () => fromBinary(method.input, bytes),
    // The parser's own text may quote the request.
    catch: () =>
      new RpcError({ code: Code.INVALID_ARGUMENT, message: `request is not a valid ${method.input.typeName}` }),
  });

const logFinished = (
  method: DescMethod,
  status: CallStatus,
  ms: number,
  warnings: readonly string[],
): Effect.Effect<void> => {
  const quiet = status.code === OK.code && isRoutine(method) ? Effect.logDebug : Effect.logInfo;
  const line = warnings.length > 0 ? Effect.logWarning : quiet;
  const facts = {
    code: codeName(status.code),
    ms: Math.round(ms * 10) / 10,
    ...(status.message !== "" && { error: status.message }),
    ...(warnings.length > 0 && { warnings: warnings.join("; ") }),
  };
  return line("call finished").pipe(Effect.annotateLogs(facts));
};

const unimplemented = (method: DescMethod): Effect.Effect<never, RpcError> =>
  Effect.fail(
    new RpcError({
      code: Code.UNIMPLEMENTED,
      message: `${method.parent.typeName}/${method.name} is not implemented by this driver`,
    }),
  );

const definition = (method: DescMethod) => ({
  path: `/${method.parent.typeName}/${method.name}`,
  requestStream: false,
  requestSerialize: (bytes: Uint8Array) => Buffer.from(bytes),
  requestDeserialize: (bytes: Buffer) => bytes,
  responseSerialize: (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  responseDeserialize: (bytes: Buffer) => bytes,
});

export const makeBridge = <R>(context: Context.Context<R>, options: BridgeOptions): Bridge<R> => {
  /** Those whose fiber runs, and of them those that have no answer yet. */
  const calls = new Set<Call>();
  const unanswered = new Set<Call>();
  let stopping = false;
  let whenDrained: (() => void) | undefined;
  const fork = Effect.runForkWith(context);

  const encode = (schema: DescMessage, message: MessageInitShape<DescMessage>): Effect.Effect<Uint8Array, RpcError> =>
    Effect.suspend(() => {
      const bytes = toBinary(schema, create(schema, message));
      if (bytes.length <= options.maxSendBytes) return Effect.succeed(bytes);
      const why = `response of ${bytes.length} bytes is over the limit of ${options.maxSendBytes}`;
      return Effect.fail(new RpcError({ code: Code.RESOURCE_EXHAUSTED, message: why }));
    });

  /** Runs one call to its end. `work` writes all but the last word; `answer` sends that. */
  const start = (
    method: DescMethod,
    arrival: Arrival,
    work: (request: Message) => Effect.Effect<void, RpcError, R>,
    answer: (status: CallStatus) => void,
  ): void => {
    const since = performance.now();
    const remarks: string[] = [];
    const info: CallInfo = {
      remarks,
      rpc: `/${method.parent.typeName}/${method.name}`,
      method: method.name,
      deadline: millisOf(arrival.getDeadline()),
      id: `${processTag}-${(++callCount).toString(36)}`,
      header: (name) => arrival.metadata.get(name)[0]?.toString(),
    };
    let sent: CallStatus | undefined;
    let fiber: Fiber.Fiber<void, RpcError> | undefined;

    const conclude = (status: CallStatus, send: boolean): CallStatus => {
      if (sent !== undefined) return sent;
      sent = status;
      if (send) answer(status);
      options.observe?.(info.rpc, status.code, (performance.now() - since) / 1000);
      unanswered.delete(call);
      if (unanswered.size === 0) whenDrained?.();
      return sent;
    };
    const call: Call = {
      leave: (status) => {
        conclude(status, true);
        fiber?.interruptUnsafe();
      },
    };
    if (stopping) {
      conclude(STOPPING, true);
      return;
    }
    arrival.on("cancelled", () => {
      // grpc-js emits this after every call's end, too; then it changes nothing.
      const late = info.deadline !== undefined && Date.now() >= info.deadline;
      conclude(
        late
          ? { code: Code.DEADLINE_EXCEEDED, message: "the caller's deadline passed" }
          : { code: Code.CANCELLED, message: "the caller left" },
        false,
      );
      fiber?.interruptUnsafe();
    });

    const body = Effect.flatMap(LogLevel.isEnabled("Debug"), (enabled) => {
      const decoded = decode(method, arrival.request);
      if (Result.isFailure(decoded)) return Effect.fail(decoded.failure);
      const { success: request } = decoded;
      if (!enabled) return work(request);
      const line = Effect.logDebug("call").pipe(Effect.annotateLogs({ request: masked(method.input, request) }));
      return Effect.andThen(line, work(request));
    });
    const program = Effect.onExit(body, (exit) => {
      const status = conclude(Exit.isSuccess(exit) ? OK : statusOf(exit.cause, info.id), true);
      const finished = logFinished(method, status, performance.now() - since, remarks);
      if (Exit.isSuccess(exit) || !isDefect(exit.cause)) return finished;
      return Effect.andThen(Effect.logError("defect in a handler", exit.cause), finished);
    });
    const about = {
      name: `${method.parent.typeName}/${method.name}`,
      attributes: {
        "rpc.system": "grpc",
        "rpc.service": method.parent.typeName,
        "rpc.method": method.name,
        call: info.id,
      },
      lastAttributes: () => ({ "rpc.grpc.status_code": sent?.code ?? Code.UNKNOWN }),
    };
    calls.add(call);
    unanswered.add(call);
    fiber = fork(
      rpcSpan(() => info.header("traceparent"), about, program).pipe(
        Effect.annotateLogs({ rpc: info.method, call: info.id }),
        Effect.provideService(CallInfo, info),
      ),
    );
    fiber.addObserver(() => {
      calls.delete(call);
      options.onEnd?.();
    });
  };

  const unary = (method: DescMethod, handler: AnyHandler<R> | undefined): BridgedMethod => ({
    ...definition(method),
    responseStream: false,
    kind: "unary",
    handle: (call, callback) => {
      let response: Uint8Array | undefined;
      start(
        method,
        call,
        (request) =>
          Effect.suspend(() => {
            const result = handler?.(request) ?? unimplemented(method);
            return Effect.isEffect(result) ? result : Effect.die(`${method.name} is not a stream`);
          }).pipe(
            Effect.flatMap((message) => encode(method.output, message)),
            Effect.map((bytes) => {
              response = bytes;
            }),
          ),
        (status) => {
          if (status.code === OK.code) callback(null, response);
          else callback(wireStatus(status));
        },
      );
    },
  });

  const serverStream = (method: DescMethod, handler: AnyHandler<R> | undefined): BridgedMethod => ({
    ...definition(method),
    responseStream: true,
    kind: "serverStream",
    handle: (call) => {
      // After a cancel grpc-js never calls back; the interrupt that the cancel brings ends the wait.
      const write = (bytes: Uint8Array) =>
        Effect.callback<void>((resume) => {
          call.write(bytes, () => resume(Effect.void));
        });
      start(
        method,
        call,
        (request) =>
          Stream.suspend(() => {
            const result = handler?.(request) ?? unimplemented(method);
            return Stream.isStream(result) ? result : Stream.fromEffect(result);
          }).pipe(Stream.runForEach((message) => Effect.flatMap(encode(method.output, message), write))),
        (status) => {
          if (status.code === OK.code) call.end();
          else call.emit("error", wireStatus(status));
        },
      );
    },
  });

  return {
    methods: ({ service, handler }) =>
      service.methods.map((method) => {
        if (method.methodKind === "unary") return unary(method, handler(method));
        if (method.methodKind === "server_streaming") return serverStream(method, handler(method));
        // Neither CSI nor its add-ons stream requests.
        throw new Error(`${method.toString()}: client streams are not bridged`);
      }),
    running: () => unanswered.size,
    refuse: (drained) => {
      stopping = true;
      whenDrained = drained;
      if (unanswered.size === 0) drained();
    },
    abandon: () => {
      for (const call of calls) call.leave(STOPPING);
    },
  };
};
