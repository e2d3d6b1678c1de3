/**
 * The driver's command line: its table (./flag-table.ts), read by Go's rules (./read-flags.ts), and what the flags ask of
 * each other.
 */
import * as Result from "effect/Result";
import { goBool } from "../text/go-values.ts";
import { electionFlagUse, wrongElection } from "./election-flags.ts";
import { serverAddress } from "./flag-kinds.ts";
import { FLAGS, OTHER_TYPES, WITHOUT_EFFECT } from "./flag-table.ts";
import { type FlagTable, readArguments, type Remarks, usageOf, type ValuesOf } from "./read-flags.ts";

/**
 * All values, defaults filled in. `controllerServer` and `nodeServer` say what to serve: both are true when neither flag
 * was given. With `help` or `version` nothing else has been checked across flags.
 */
export type Flags = ValuesOf<typeof FLAGS> & Remarks;

/** Flags that are for another type than the driver. */
const OTHERS_ONLY = [
  ["polltime", "liveness"],
  ["timeout", "liveness"],
  ["drivernamespace", "controller"],
] as const;

/** Flags that are for the driver, as whose values ceph-csi takes any for another type. */
const DRIVER_ONLY: ReadonlySet<string> = new Set([
  "csi-addons-endpoint",
  "nodeid",
  "rbdhardmaxclonedepth",
  "rbdsoftmaxclonedepth",
  "maxsnapshotsonimage",
  "minsnapshotsonimage",
]);

/** Of the liveness probe the endpoint is a server's that it asks. */
const ASKED_ENDPOINT = serverAddress();

const use: FlagTable<typeof FLAGS>["use"] = (name, given) => {
  const type = given.get("type");
  if (type === undefined) return undefined;
  const isOthers = OTHERS_ONLY.some(([flag, only]) => flag === name && only !== type);
  if (isOthers || (type !== "rbd" && DRIVER_ONLY.has(name))) return "none";
  if (name === "endpoint" && type !== "rbd") return type === "liveness" ? ASKED_ENDPOINT : "none";
  const servesMetrics = type === "liveness" || goBool(given.get("enableprofiling") ?? "false") === true;
  if (name === "metricsport" && !servesMetrics) return "none";
  return electionFlagUse(name, given);
};

const TABLE: FlagTable<typeof FLAGS> = {
  use,
  flags: FLAGS,
  withoutEffect: WITHOUT_EFFECT,
  refusal: (name, value) => (name === "type" && Object.hasOwn(OTHER_TYPES, value) ? OTHER_TYPES[value] : undefined),
};

/** Checks flags against each other. Returns what is wrong. */
const across = (flags: Flags, given: ReadonlyMap<string, string>): string | undefined => {
  if (!given.has("type")) return "--type is missing: write --type=rbd";
  if (flags.type !== "rbd") return flags.leaderElection ? wrongElection(flags) : undefined;
  if (flags.nodeId === "") return "--nodeid is missing: write --nodeid=NAME, this node's name";
  const pairs = [
    ["rbdsoftmaxclonedepth", flags.rbdSoftMaxCloneDepth, "rbdhardmaxclonedepth", flags.rbdHardMaxCloneDepth],
    ["minsnapshotsonimage", flags.minSnapshotsOnImage, "maxsnapshotsonimage", flags.maxSnapshotsOnImage],
  ] as const;
  for (const [low, lowValue, high, highValue] of pairs) {
    if (lowValue > highValue) return `--${low}=${lowValue}: write at most ${highValue}, the value of --${high}`;
  }
  if (flags.kubeletRegistrationPath !== "" && flags.controllerServer && !flags.nodeServer) {
    return "--kubelet-registration-path: kubelet registers nodes; write --nodeserver, too, or leave it out";
  }
  if (flags.attacher && flags.nodeServer && !flags.controllerServer) {
    return "--attacher: it belongs to the controller; write --controllerserver, too, or leave it out";
  }
  return flags.leaderElection ? wrongElection(flags) : undefined;
};

/** Reads the arguments after the program's own. The failure is one line for stderr. */
export const parseFlags = (argv: ReadonlyArray<string>): Result.Result<Flags, string> =>
  Result.gen(function* () {
    const { values, given, withoutEffect, warnings } = yield* readArguments(TABLE, argv);
    const misplaced = given.get("type") === "rbd" ? OTHERS_ONLY.filter(([name]) => given.has(name)) : [];
    const unused = [...withoutEffect, ...misplaced.map(([name, type]) => `--${name} (for --type=${type})`)];
    const flags: Flags = { ...values, withoutEffect: unused, warnings };
    if (flags.help || flags.version) return flags;
    const wrong = across(flags, given);
    if (wrong !== undefined) return yield* Result.fail(wrong);
    const neither = !flags.controllerServer && !flags.nodeServer;
    return neither ? { ...flags, controllerServer: true, nodeServer: true } : flags;
  });

/** The text of `--help`. */
export const usage = (): string => usageOf(TABLE, "ceph-csi");
