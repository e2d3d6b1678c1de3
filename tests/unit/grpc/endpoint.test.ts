/** Addresses of gRPC servers, as flags write them. */
import { expect, test } from "bun:test";
import * as Result from "effect/Result";
import { formatEndpoint, parseAddress, parseEndpoint } from "../../../lib/grpc/endpoint.ts";

const read = (text: string) => Result.getOrElse(Result.map(parseAddress(text), formatEndpoint), () => "refused");

test.each([
  ["/csi/csi.sock", "unix:///csi/csi.sock"],
  ["unix:///csi/csi.sock", "unix:///csi/csi.sock"],
  ["unix://csi/csi.sock", "unix:///csi/csi.sock"],
  ["unix:/csi/csi.sock", "unix:///csi/csi.sock"],
  ["unix:csi/csi.sock", "unix:///csi/csi.sock"],
  ["UNIX:/csi/csi.sock", "unix:///csi/csi.sock"],
  ["tcp://127.0.0.1:10000", "tcp://127.0.0.1:10000"],
  ["localhost:10000", "tcp://localhost:10000"],
  ["[::1]:10000", "tcp://[::1]:10000"],
  ["dns:///csi.storage.svc:10000", "tcp://csi.storage.svc:10000"],
  ["dns:csi:10000", "tcp://csi:10000"],
  ["passthrough:///127.0.0.1:10000", "tcp://127.0.0.1:10000"],
])("A client reaches %s at %s", (text, endpoint) => {
  expect(read(text)).toBe(endpoint);
  expect(read(endpoint)).toBe(endpoint);
});

test.each(["", "/", "unix:", "unix://", "csi/csi.sock", "localhost", "localhost:70000", "[::1", `/${"x".repeat(107)}`])(
  "The text %j is not an address",
  (text) => {
    expect(read(text)).toBe("refused");
  },
);

test.each(["/csi/csi.sock", "unix:/csi/csi.sock", "localhost:10000"])(
  "A server does not listen at %s, which only a client's address may be",
  (text) => {
    expect(Result.isFailure(parseEndpoint(text))).toBe(true);
  },
);
