/** The flags of `csi-rbd attacher`: those of external-attacher, which it stands in for (docs/attacher.md). */
import * as Result from "effect/Result";
import { electionFlagUse, wrongElection } from "./election-flags.ts";
import { ANY, count, duration, durationOr, durationOrNone, httpAddress, int, text, webPath } from "./flag-kinds.ts";
import { because, ELECTION_FLAGS, flag } from "./flag-table.ts";
import { readArguments, usageOf } from "./read-flags.ts";
import { SIDECAR_FLAGS, SIDECAR_WITHOUT_EFFECT, sidecarProcess } from "./sidecar-flags.ts";

/** In place of no wait between attempts, by which an API server would have no rest. */
const AT_ONCE = "100 millis";
/** More workers than this would be of no use. */
const MOST_WORKERS = 10_000;

const FLAGS = {
  ...SIDECAR_FLAGS,
  ...ELECTION_FLAGS,
  kubeconfig: flag("kubeconfig", text(), "", "file that says how to reach Kubernetes; absent: the pod's account"),
  timeout: flag("timeout", duration(), "15s", "limit of each call to the driver"),
  "worker-threads": flag("workerThreads", int(1, 2 ** 31 - 1), "10", "volumes attached at once, and as many detached"),
  resync: flag("resync", durationOrNone(), "10m", "how often every attachment is looked at again; 0: never"),
  "retry-interval-start": flag(
    "retryStart",
    durationOr(AT_ONCE),
    "1s",
    "wait after the first failure; doubled by each further one",
  ),
  "retry-interval-max": flag("retryMax", durationOr(AT_ONCE), "5m", "the longest wait"),
  "reconcile-sync": flag(
    "reconcileSync",
    durationOr("1 second"),
    "1m",
    "how often attachments are compared with ListVolumes",
  ),
  "max-entries": flag("maxEntries", count(2 ** 31 - 1), "0", "volumes per page of ListVolumes; 0: the driver decides"),
  "default-fstype": flag("defaultFsType", text(), "", "filesystem of volumes that name none"),
  "http-endpoint": flag("httpEndpoint", httpAddress(), "", "where metrics and /healthz/leader-election are served"),
  "metrics-address": flag("metricsAddress", httpAddress(), "", "where metrics alone are served"),
  "metrics-path": flag("metricsPath", webPath(), "/metrics", "path of the metrics"),
};

const TABLE = {
  flags: FLAGS,
  use: electionFlagUse,
  withoutEffect: {
    ...SIDECAR_WITHOUT_EFFECT,
    ...because("requests are not limited here: the API server's own limits are honoured", {
      "kube-api-qps": ANY.float,
      "kube-api-burst": ANY.int,
    }),
    ...because("the log holds no whole messages", { "max-grpc-log-length": ANY.text }),
    ...because("what its gates turn on is always on", { "feature-gates": ANY.text }),
    ...because("elections are by a Lease", { "leader-election-type": ANY.text }),
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
      workerThreads: Math.min(values.workerThreads, MOST_WORKERS),
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
