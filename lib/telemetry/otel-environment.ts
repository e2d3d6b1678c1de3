/**
 * OpenTelemetry's standard environment variables, as far as they concern traces:
 *
 * - `OTEL_EXPORTER_OTLP_ENDPOINT` (`/v1/traces` is appended) or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` (as it is): where
 *   spans are sent. Without them nothing is collected.
 * - `OTEL_EXPORTER_OTLP_HEADERS`, `…_PROTOCOL` (`http/protobuf`, the default, or `http/json`) and `…_TIMEOUT`
 *   (milliseconds), each also as `OTEL_EXPORTER_OTLP_TRACES_…`, which goes first.
 * - `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`: who the spans come from.
 * - `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`: which traces are kept.
 * - `OTEL_BSP_SCHEDULE_DELAY`: milliseconds between two sendings.
 * - `OTEL_SDK_DISABLED=true`, `OTEL_TRACES_EXPORTER=none`: off, whatever else is set.
 *
 * Not here: what is done with them (./otlp.ts).
 *
 * 1. An empty variable counts as one that is not set, as the specification asks.
 */
import * as Result from "effect/Result";

export interface OtelSettings {
  readonly url: string;
  /** May hold credentials: never to be logged. */
  readonly headers: Readonly<Record<string, string>>;
  readonly protocol: "http/protobuf" | "http/json";
  readonly timeoutMs: number;
  readonly delayMs: number;
  readonly resource: { readonly serviceName: string; readonly attributes: Readonly<Record<string, string>> };
  readonly sampler: Sampler;
}

export interface Sampler {
  /** Of the traces that begin here, the part that is kept: 0 to 1. */
  readonly ratio: number;
  /** Whether a caller's own decision goes first. */
  readonly parentBased: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

const SERVICE = "csi-rbd";

/** Says what is wrong, with which variable, and what to write. */
const wrong = (name: string, value: string, write: string): Result.Result<never, string> =>
  Result.fail(`${name}=${value} is not supported; write ${write}`);

/** `undefined`: traces are not asked for. A failure names the variable that has to be changed. */
export const readOtelEnvironment = (environment: Environment): Result.Result<OtelSettings | undefined, string> =>
  Result.gen(function* () {
    const variable = (name: string): string | undefined => environment[name]?.trim() || undefined;
    /** The variable for traces if it is set, else the one for all signals. */
    const exporterVariable = (suffix: string): readonly [name: string, value: string | undefined] => {
      const own = `OTEL_EXPORTER_OTLP_TRACES_${suffix}`;
      return variable(own) === undefined
        ? [`OTEL_EXPORTER_OTLP_${suffix}`, variable(`OTEL_EXPORTER_OTLP_${suffix}`)]
        : [own, variable(own)];
    };

    if (variable("OTEL_SDK_DISABLED")?.toLowerCase() === "true") return undefined;
    const exporter = variable("OTEL_TRACES_EXPORTER") ?? "otlp";
    if (exporter === "none") return undefined;
    const [endpointName, endpoint] = exporterVariable("ENDPOINT");
    if (endpoint === undefined) return undefined;
    if (exporter !== "otlp") return yield* wrong("OTEL_TRACES_EXPORTER", exporter, "otlp or none");

    const url = URL.parse(endpoint);
    if (url === null || !/^https?:$/.test(url.protocol)) {
      // The value may hold a password.
      return yield* wrong(endpointName, "…", "an address such as http://collector:4318");
    }
    if (endpointName === "OTEL_EXPORTER_OTLP_ENDPOINT") url.pathname = `${url.pathname.replace(/\/$/, "")}/v1/traces`;

    const [protocolName, protocol = "http/protobuf"] = exporterVariable("PROTOCOL");
    if (protocol !== "http/protobuf" && protocol !== "http/json") {
      return yield* wrong(protocolName, protocol, "http/protobuf or http/json");
    }
    const milliseconds = (name: string, value: string | undefined, fallback: number): Result.Result<number, string> => {
      if (value === undefined) return Result.succeed(fallback);
      return /^[1-9][0-9]{0,8}$/.test(value)
        ? Result.succeed(Number(value))
        : wrong(name, value, "a number of milliseconds");
    };
    const attributes = yield* pairs("OTEL_RESOURCE_ATTRIBUTES", variable("OTEL_RESOURCE_ATTRIBUTES"));
    const { "service.name": named, ...others } = attributes;
    return {
      url: url.href,
      headers: yield* pairs(...exporterVariable("HEADERS")),
      protocol,
      timeoutMs: yield* milliseconds(...exporterVariable("TIMEOUT"), 10_000),
      delayMs: yield* milliseconds("OTEL_BSP_SCHEDULE_DELAY", variable("OTEL_BSP_SCHEDULE_DELAY"), 5_000),
      resource: { serviceName: variable("OTEL_SERVICE_NAME") ?? named ?? SERVICE, attributes: others },
      sampler: yield* readSampler(variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG")),
    };
  });

/** `a=1,b=2`, with percent-encoded values. */
const pairs = (name: string, value: string | undefined): Result.Result<Record<string, string>, string> => {
  const read: Record<string, string> = {};
  for (const pair of value?.split(",") ?? []) {
    if (pair.trim() === "") continue;
    const at = pair.indexOf("=");
    const key = at < 0 ? "" : pair.slice(0, at).trim();
    const decoded = Result.try(() => decodeURIComponent(pair.slice(at + 1).trim()));
    // The value may hold a password.
    if (key === "" || Result.isFailure(decoded)) return wrong(name, "…", "key=value,key=value, percent-encoded");
    read[key] = decoded.success;
  }
  return Result.succeed(read);
};

const readSampler = (sampler: string | undefined, arg: string | undefined): Result.Result<Sampler, string> => {
  const [, parent, kind] = /^(parentbased_)?(always_on|always_off|traceidratio)$/.exec(
    sampler ?? "parentbased_always_on",
  ) ?? [undefined, undefined, undefined];
  const parentBased = parent !== undefined;
  if (kind === "always_on") return Result.succeed({ ratio: 1, parentBased });
  if (kind === "always_off") return Result.succeed({ ratio: 0, parentBased });
  if (kind === undefined) {
    const known = "always_on, always_off, traceidratio, or one of them after parentbased_";
    return wrong("OTEL_TRACES_SAMPLER", sampler ?? "", known);
  }
  const ratio = Number(arg ?? 1);
  return ratio >= 0 && ratio <= 1
    ? Result.succeed({ ratio, parentBased })
    : wrong("OTEL_TRACES_SAMPLER_ARG", arg ?? "", "a number from 0 to 1");
};
