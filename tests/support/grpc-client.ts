/**
 * A gRPC client typed by a protobuf-es descriptor, for tests, the demo and the benchmark.
 *
 * Not for the product's own work (lib/grpc/ask.ts): it speaks promises, not Effects, and has no policy of retries.
 *
 * 1. Every client has its own connection: closing one never touches another's calls.
 * 2. A failed call rejects with grpc-js's ServiceError: `code` and `details` (the text).
 */
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescService,
  fromBinary,
  type Message,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { type CallOptions, Client as GrpcClient, credentials, Metadata } from "@grpc/grpc-js";
import * as Result from "effect/Result";
import { grpcAddress, readEndpoint } from "../../lib/grpc/socket.ts";

export interface CallSettings {
  /** The deadline from now; absent: none. */
  readonly timeoutMs?: number;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Aborting it cancels the call. */
  readonly signal?: AbortSignal;
}

type UnaryCall<I extends DescMessage, O extends DescMessage> = (
  request: MessageInitShape<I>,
  settings?: CallSettings,
) => Promise<MessageShape<O>>;

type StreamCall<I extends DescMessage, O extends DescMessage> = (
  request: MessageInitShape<I>,
  settings?: CallSettings,
) => AsyncIterable<MessageShape<O>>;

type Call<M> = M extends {
  methodKind: "unary";
  input: infer I extends DescMessage;
  output: infer O extends DescMessage;
}
  ? UnaryCall<I, O>
  : M extends {
        methodKind: "server_streaming";
        input: infer I extends DescMessage;
        output: infer O extends DescMessage;
      }
    ? StreamCall<I, O>
    : never;

export type Client<S extends DescService> = { readonly [K in keyof S["method"]]: Call<S["method"][K]> } & {
  readonly close: () => void;
};

/** Connects at the first call; `endpoint` as the server takes it. */
export const client = <S extends DescService>(service: S, endpoint: string): Client<S> => {
  const channel = new GrpcClient(grpcAddress(Result.getOrThrow(readEndpoint(endpoint))), credentials.createInsecure(), {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_receive_message_length": -1,
  });
  const calls = service.methods.map((method) => [
    method.localName,
    method.methodKind === "server_streaming" ? streamCall(channel, method) : unaryCall(channel, method),
  ]);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- per method, the two functions do what its type says
  return { ...Object.fromEntries(calls), close: () => channel.close() } as Client<S>;
};

const pathOf = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;

const encoder =
  (schema: DescMessage) =>
  (message: Message): Buffer =>
    Buffer.from(toBinary(schema, message));

const decoder =
  (schema: DescMessage) =>
  (bytes: Buffer): Message =>
    fromBinary(schema, bytes);

const outgoing = (settings: CallSettings): { metadata: Metadata; options: CallOptions } => {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(settings.metadata ?? {})) metadata.set(name, value);
  return { metadata, options: settings.timeoutMs === undefined ? {} : { deadline: Date.now() + settings.timeoutMs } };
};

const unaryCall =
  (channel: GrpcClient, method: DescMethod) =>
  (request: MessageInitShape<DescMessage>, settings: CallSettings = {}): Promise<Message> =>
    new Promise((resolve, reject) => {
      const { metadata, options } = outgoing(settings);
      const call = channel.makeUnaryRequest(
        pathOf(method),
        encoder(method.input),
        decoder(method.output),
        create(method.input, request),
        metadata,
        options,
        (error, response) => {
          settings.signal?.removeEventListener("abort", cancel);
          if (error !== null) reject(error);
          else if (response === undefined) reject(new Error(`${pathOf(method)}: no response`));
          else resolve(response);
        },
      );
      const cancel = () => call.cancel();
      settings.signal?.addEventListener("abort", cancel);
      if (settings.signal?.aborted === true) cancel();
    });

const streamCall = (channel: GrpcClient, method: DescMethod) =>
  async function* (request: MessageInitShape<DescMessage>, settings: CallSettings = {}): AsyncGenerator<Message> {
    const { metadata, options } = outgoing(settings);
    const call: AsyncIterable<Message> & { cancel(): void } = channel.makeServerStreamRequest(
      pathOf(method),
      encoder(method.input),
      decoder(method.output),
      create(method.input, request),
      metadata,
      options,
    );
    const cancel = () => call.cancel();
    settings.signal?.addEventListener("abort", cancel);
    if (settings.signal?.aborted === true) cancel();
    try {
      for await (const message of call) yield message;
    } finally {
      // Also when the reader stops half-way.
      settings.signal?.removeEventListener("abort", cancel);
      call.cancel();
    }
  };
