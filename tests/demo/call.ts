/**
 * One CSI call by hand: `bun tests/demo/call.ts ENDPOINT Service/Method ['JSON'] [--secrets=FILE]`.
 *
 * The request is the message in protobuf's JSON form; secrets come from a file, so that no key is on a command line.
 */
import { readFileSync } from "node:fs";
import { type DescMethodUnary, fromJson, type JsonValue, toJsonString } from "@bufbuild/protobuf";
import { file_csi } from "../../lib/gen/csi_pb.ts";
import { client } from "../support/grpc-client.ts";

const main = async (): Promise<void> => {
  const args = process.argv.slice(2);
  const secretsFile = args.find((arg) => arg.startsWith("--secrets="))?.slice("--secrets=".length);
  const [endpoint, path, json = "{}"] = args.filter((arg) => !arg.startsWith("--"));
  const [serviceName, methodName] = path?.split("/") ?? [];
  const service = file_csi.services.find(({ name }) => name === serviceName);
  const method = service?.methods.find(({ name }) => name === methodName);
  if (endpoint === undefined || service === undefined || method?.methodKind !== "unary") {
    throw new Error("usage: call.ts ENDPOINT Service/Method ['JSON'] [--secrets=FILE], as in Identity/GetPluginInfo");
  }
  const request = JSON.parse(json) as Record<string, JsonValue>;
  if (secretsFile !== undefined) request["secrets"] = JSON.parse(readFileSync(secretsFile, "utf8")) as JsonValue;
  const caller = client(service, endpoint) as unknown as Record<
    string,
    (request: unknown, settings: object) => Promise<unknown>
  >;
  const answer = await caller[method.localName]?.(fromJson(method.input, request), { timeoutMs: 60_000 });
  console.log(toJsonString((method as DescMethodUnary).output, answer as never, { prettySpaces: 2 }));
};

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exit(1);
  },
);
