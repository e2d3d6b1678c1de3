/**
 * The load's own gRPC client: unary calls over one HTTP/2 connection, and nothing else. On two cores, what the caller
 * takes is missing to the driver; grpc-js's client takes twice as much.
 *
 * Not for tests: it knows no deadline but its own, no metadata, no stream, and no second connection.
 */
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from "node:http2";
import { createConnection } from "node:net";
import {
  create,
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";

const HEADER_BYTES = 5;
const DEADLINE = "60S";

export interface Caller {
  readonly call: <I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
  ) => Promise<MessageShape<O>>;
}

export const caller = (socket: string): Caller => {
  const session = connect("http://localhost", { createConnection: () => createConnection(socket) });
  // what waits for an answer is told by its own stream
  session.on("error", () => {});
  return {
    call: async (method, request) => {
      const path = `/${method.parent.typeName}/${method.name}`;
      return fromBinary(
        method.output,
        await exchange(session, path, toBinary(method.input, create(method.input, request))),
      );
    },
  };
};

const exchange = (session: ClientHttp2Session, path: string, message: Uint8Array): Promise<Uint8Array> =>
  new Promise((resolve, reject) => {
    const stream: ClientHttp2Stream = session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      "grpc-timeout": DEADLINE,
    });
    const parts: Buffer[] = [];
    let status: unknown = "no status";
    let text: unknown = "";
    const read = (headers: Readonly<Record<string, unknown>>) => {
      status = headers["grpc-status"] ?? status;
      text = headers["grpc-message"] ?? text;
    };
    // a failure without a message is told in the first headers
    stream.on("response", read);
    stream.on("trailers", read);
    stream.on("data", (part: Buffer) => void parts.push(part));
    stream.on("error", reject);
    // not at the end: a stream that is reset has none
    stream.on("close", () => {
      if (status === "0") resolve(Buffer.concat(parts).subarray(HEADER_BYTES));
      else reject(new Error(`${path}: ${String(status)} ${decodeURIComponent(String(text))}`));
    });
    const framed = Buffer.alloc(HEADER_BYTES + message.length);
    framed.writeUInt32BE(message.length, 1);
    framed.set(message, HEADER_BYTES);
    stream.end(framed);
  });
