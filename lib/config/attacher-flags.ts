/** The flags of `csi-rbd attacher`: those of external-attacher, which it stands in for (docs/attacher.md). */
import * as Result from "effect/Result";
import { wrongElection } from "./election-flags.ts";
import { duration, httpAddress, int, shaped, text } from "./flag-kinds.ts";
import { because, ELECTION_FLAGS, flag } from "./flag-table.ts";
import { readArguments, usageOf } from "./read-flags.ts";
import { SIDECAR_FLAGS, SIDECAR_WITHOUT_EFFECT, sidecarProcess } from "./sidecar-flags.ts";

const metricsPath = shaped("a path such as /metrics", (value) => (value.startsWith("/") ? value : undefined));
const number = shaped("a number", (value) => (/^\d+(\.\d+)?$/.test(value) ? value : undefined));

const FLAGS = {
  ...SIDECAR_FLAGS,
  ...ELECTION_FLAGS,
  kubeconfig: flag("kubeconfig", text(), "", "file that says how to reach Kubernetes; absent: the pod's account"),
  timeout: flag("timeout", duration(), "15s", "limit of each call to the driver"),
  "worker-threads": flag("workerThreads", int(1, 10_000), "10", "volumes attached at once, and as many detached"),
  resync: flag("resync", duration(), "10m", "how often every attachment is looked at again"),
  "retry-interval-start": flag(
    "retryStart",
    duration(),
    "1s",
    "wait after the first failure; doubled by each further one",
  ),
  "retry-interval-max": flag("retryMax", duration(), "5m", "the longest wait"),
  "reconcile-sync": flag("reconcileSync", duration(), "1m", "how often attachments are compared with ListVolumes"),
  "max-entries": flag("maxEntries", int(0, 2 ** 31 - 1), "0", "volumes per page of ListVolumes; 0: the driver decides"),
  "default-fstype": flag("defaultFsType", text(), "", "filesystem of volumes that name none"),
  "http-endpoint": flag("httpEndpoint", httpAddress(), "", "where metrics and /healthz/leader-election are served"),
  "metrics-address": flag("metricsAddress", httpAddress(), "", "where metrics alone are served"),
  "metrics-path": flag("metricsPath", metricsPath, "/metrics", "path of the metrics"),
};

const TABLE = {
  flags: FLAGS,
  withoutEffect: {
    ...SIDECAR_WITHOUT_EFFECT,
    ...because("requests are not limited here: the API server's own limits are honoured", {
      "kube-api-qps": number,
      "kube-api-burst": number,
    }),
    ...because("the log holds no whole messages", { "max-grpc-log-length": text() }),
    ...because("what its gates turn on is always on", { "feature-gates": text() }),
    ...because("elections are by a Lease", { "leader-election-type": text() }),
  },
};

export const parseAttacherFlags = (argv: readonly string[]) =>
  Result.gen(function* () {
    const { values, withoutEffect, warnings } = yield* readArguments(TABLE, argv);
    const { httpEndpoint, metricsAddress, metricsPath: servedAt } = values;
    const process = sidecarProcess({ ...values, withoutEffect, warnings });
    const flags = {
      ...values,
      ...process,
      healthPort: 0,
      metricsPath: servedAt,
      enableProfiling: httpEndpoint.length > 0 || metricsAddress.length > 0,
    };
    if (flags.help || flags.version) return flags;
    if (httpEndpoint.length > 0 && metricsAddress.length > 0) {
      return yield* Result.fail(
        "--http-endpoint and --metrics-address exclude each other: write --http-endpoint alone",
      );
    }
    const wrong = flags.leaderElection ? wrongElection(flags) : undefined;
    return wrong === undefined ? flags : yield* Result.fail(wrong);
  });

export type AttacherFlags = Result.Result.Success<ReturnType<typeof parseAttacherFlags>>;

export const attacherUsage = (): string => usageOf(TABLE, "external-attacher");
