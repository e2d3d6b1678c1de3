/** OpenTelemetry's variables as this driver reads them. */
import { expect, test } from "bun:test";
import * as Result from "effect/Result";
import { readOtelEnvironment } from "../../../lib/telemetry/otel-environment.ts";

type Environment = Readonly<Record<string, string>>;

const AT = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4318" };
const read = (environment: Environment) => Result.getOrThrow(readOtelEnvironment({ ...AT, ...environment }));

/** As one writes it before a command. */
const shown = (environment: Environment): string =>
  Object.entries(environment)
    .map(([name, value]) => `${name}="${value}"`)
    .join(" ") || "the address alone";

const URLS: readonly (readonly [Environment, string | undefined])[] = [
  [{}, "http://collector:4318/v1/traces"],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: "https://collector/otlp/" }, "https://collector/otlp/v1/traces"],
  [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "http://traces:1/as-it-is" }, "http://traces:1/as-it-is"],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: "" }, undefined],
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: " " }, undefined],
  [{ OTEL_SDK_DISABLED: "TRUE" }, undefined],
  [{ OTEL_TRACES_EXPORTER: "none" }, undefined],
];
for (const [environment, url] of URLS) {
  test(`With ${shown(environment)} spans are sent to ${url ?? "nobody"}`, () => {
    expect(read(environment)?.url).toBe(url as string);
  });
}

test("Headers are decoded, and the headers for traces replace those for all signals", () => {
  const OTEL_EXPORTER_OTLP_HEADERS = "authorization=Basic%20YTpi, x-tenant = 7,";
  expect(read({ OTEL_EXPORTER_OTLP_HEADERS })?.headers).toEqual({ authorization: "Basic YTpi", "x-tenant": "7" });
  const both = { OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS: "x-tenant=8" };
  expect(read(both)?.headers).toEqual({ "x-tenant": "8" });
});

const RESOURCES: readonly (readonly [Environment, string, Environment])[] = [
  [{}, "csi-rbd", {}],
  [{ OTEL_RESOURCE_ATTRIBUTES: "service.name=a,zone=z%2C1" }, "a", { zone: "z,1" }],
  [{ OTEL_RESOURCE_ATTRIBUTES: "service.name=a", OTEL_SERVICE_NAME: "b" }, "b", {}],
];
for (const [environment, serviceName, attributes] of RESOURCES) {
  test(`With ${shown(environment)} the service is ${serviceName}`, () => {
    expect(read(environment)?.resource).toEqual({ serviceName, attributes });
  });
}

test("Protocol, limit and delay are the specification's where nothing else is set", () => {
  expect(read({})).toMatchObject({ protocol: "http/protobuf", timeoutMs: 10_000, delayMs: 5_000 });
});

const SAMPLERS: readonly (readonly [Environment, number, boolean])[] = [
  [{}, 1, true],
  [{ OTEL_TRACES_SAMPLER: "always_on" }, 1, false],
  [{ OTEL_TRACES_SAMPLER: "parentbased_always_off" }, 0, true],
  [{ OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "0.25" }, 0.25, false],
  [{ OTEL_TRACES_SAMPLER: "parentbased_traceidratio" }, 1, true],
];
for (const [environment, ratio, parentBased] of SAMPLERS) {
  const caller = parentBased ? "the caller decides first" : "the caller has no say";
  test(`With ${shown(environment)} ${ratio} of the traces are kept, and ${caller}`, () => {
    expect(read(environment)?.sampler).toEqual({ ratio, parentBased });
  });
}

const WRONG: readonly (readonly [Environment, string])[] = [
  [{ OTEL_EXPORTER_OTLP_ENDPOINT: "me:pa55@collector" }, "OTEL_EXPORTER_OTLP_ENDPOINT=… is not supported"],
  [{ OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "grpc" }, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc is not supported"],
  [{ OTEL_EXPORTER_OTLP_TIMEOUT: "10s" }, "OTEL_EXPORTER_OTLP_TIMEOUT=10s is not supported"],
  [{ OTEL_EXPORTER_OTLP_HEADERS: "pa55" }, "OTEL_EXPORTER_OTLP_HEADERS=… is not supported"],
  [{ OTEL_RESOURCE_ATTRIBUTES: "a=%" }, "OTEL_RESOURCE_ATTRIBUTES=… is not supported"],
  [{ OTEL_TRACES_EXPORTER: "zipkin" }, "OTEL_TRACES_EXPORTER=zipkin is not supported"],
  [{ OTEL_TRACES_SAMPLER: "jaeger_remote" }, "OTEL_TRACES_SAMPLER=jaeger_remote is not supported"],
  [
    { OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "25%" },
    "OTEL_TRACES_SAMPLER_ARG=25% is not supported",
  ],
];
for (const [environment, problem] of WRONG) {
  test(`The variable ${shown(environment)} is refused by name, without a password that it may hold`, () => {
    const failure = Result.getOrThrow(Result.flip(readOtelEnvironment({ ...AT, ...environment })));
    expect(failure).toStartWith(problem);
    expect(failure).not.toContain("pa55");
  });
}
