/**
 * Every flag that the driver accepts, one line each: ceph-csi's, so that its manifests work unchanged, and our own. Data
 * only; flags.ts reads an argument list.
 *
 * Invariants:
 * 1. A flag's default is a text that its own kind reads; "required" is checked across flags, in flags.ts.
 * 2. A flag of FLAGS is read by the code that it is for (tests/unit/config/flag-readers.test.ts proves it). One that has
 *    no effect stands in WITHOUT_EFFECT with the reason: it is checked as Go would, and named in the log if it is given.
 */
import * as Result from "effect/Result";
import { MAX_NODE_ID_BYTES, requiredNodeId } from "../csi/request-fields.ts";
import { formatEndpoint, ENDPOINT_FORM, parseAddress, parseEndpoint } from "../grpc/endpoint.ts";
import { goBool } from "../text/go-values.ts";
import {
  ANY,
  bool,
  count,
  duration,
  durationOrNone,
  type FlagKind,
  httpAddress,
  int,
  list,
  oneOf,
  path,
  shaped,
  socketPath,
  text,
  verbosity,
  webPath,
} from "./flag-kinds.ts";

export interface Flag<K extends string, T> extends FlagKind<T> {
  /** Name in the typed result. */
  readonly key: K;
  readonly fallback: string;
  readonly help: string;
}

export const flag = <const K extends string, T>(
  key: K,
  kind: FlagKind<T>,
  fallback: string,
  help: string,
): Flag<K, T> => ({
  ...kind,
  key,
  fallback,
  help,
});

/** A path of the container's own, where there may be no folder, or another driver's socket. */
export const DEFAULT_ADDONS_ENDPOINT = "unix:///tmp/csi-addons.sock";

export const DEFAULT_DRIVER_NAME = "rbd.csi.ceph.com";
const DNS_1123 = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/i;
const DNS_FORM = "a DNS name of at most 63 letters, digits, '-' and '.', that begins and ends with a letter or digit";

const driverName = shaped(DNS_FORM, (name) => {
  if (name === "") return DEFAULT_DRIVER_NAME;
  return name.length <= 63 && DNS_1123.test(name) ? name : undefined;
});

const endpoint = shaped(ENDPOINT_FORM, (value) => {
  const parsed = parseEndpoint(value);
  return Result.isSuccess(parsed) ? formatEndpoint(parsed.success) : undefined;
});

const unixEndpoint = shaped("unix:///path (at most 107 bytes), or nothing", (value) => {
  if (value === "") return value;
  const parsed = parseAddress(value);
  return Result.isSuccess(parsed) && parsed.success.kind === "unix" ? formatEndpoint(parsed.success) : undefined;
});

/** ceph-csi's further types, and why each is refused. */
export const OTHER_TYPES: Readonly<Record<string, string>> = {
  cephfs: "this driver serves RBD only",
  nfs: "this driver serves RBD only",
  nvmeof: "this driver serves RBD only",
};

const nodeId = shaped(`the node's name (at most ${MAX_NODE_ID_BYTES} bytes)`, (name) =>
  name === "" || Result.isSuccess(requiredNodeId("node_id", name)) ? name : undefined,
);

// Upstream's own default was empty once, and named the same journal.
const instanceId = shaped("text without control characters", (value) => value || "default");

/** ceph-csi's flags that have an effect here. */
const CEPH_CSI = {
  type: flag(
    "type",
    oneOf(["rbd", "liveness", "controller"]),
    "rbd",
    "what to run; required. rbd: the driver; liveness: a probe of it; controller: rebuilds journals after a failover",
  ),
  endpoint: flag("endpoint", endpoint, "unix:///tmp/csi.sock", "where CSI is served"),
  "csi-addons-endpoint": flag(
    "addonsEndpoint",
    unixEndpoint,
    DEFAULT_ADDONS_ENDPOINT,
    "where CSI-Addons is served; empty: nowhere",
  ),
  drivername: flag("driverName", driverName, DEFAULT_DRIVER_NAME, "name of the driver"),
  nodeid: flag("nodeId", nodeId, "", "name of this node; required"),
  instanceid: flag("instanceId", instanceId, "default", "tells apart drivers that share a pool's journal"),
  controllerserver: flag("controllerServer", bool(), "false", "serve the controller; both, if neither is asked for"),
  nodeserver: flag("nodeServer", bool(), "false", "serve the node; both, if neither is asked for"),
  clustername: flag("clusterName", text(), "", "name of the Kubernetes cluster, for image metadata"),
  rbdhardmaxclonedepth: flag(
    "rbdHardMaxCloneDepth",
    int(1, 14),
    "8",
    "no clone is made with this many parents: its source is flattened first, and the call retried",
  ),
  rbdsoftmaxclonedepth: flag(
    "rbdSoftMaxCloneDepth",
    int(0, 14),
    "4",
    "an image with this many parents is flattened in the background",
  ),
  maxsnapshotsonimage: flag("maxSnapshotsOnImage", int(1, 500), "450", "no new snapshot above this many"),
  minsnapshotsonimage: flag("minSnapshotsOnImage", int(0, 500), "250", "flattening begins above this many"),
  rbdtrashmaxdelay: flag(
    "trashDelay",
    durationOrNone(),
    "0",
    "removed images stay in the trash, protected for that time, until an administrator purges them; 0: they go at once",
  ),
  "enable-fencing": flag(
    "enableFencing",
    bool(),
    "false",
    "fence the client of a node that is out of service before its volumes go to other nodes",
  ),
  domainlabels: flag("domainLabels", list(), "", "node labels that make up its topology"),
  "enable-read-affinity": flag(
    "enableReadAffinity",
    bool(),
    "false",
    "read from near OSDs, for clusters whose entry in config.json does not say",
  ),
  drivernamespace: flag("driverNamespace", text(), "default", "controller: namespace of its Lease"),
  kubeconfig: flag("kubeconfig", text(), "", "file that says how to reach Kubernetes; absent: the pod's account"),
  "crush-location-labels": flag("crushLocationLabels", list(), "", "node labels that give its CRUSH location"),
  logslowopinterval: flag(
    "logSlowOpInterval",
    durationOrNone(),
    "30s",
    "how often an operation that runs for longer is logged; 0: never",
  ),
  enableprofiling: flag("enableProfiling", bool(), "false", "serve metrics over HTTP"),
  polltime: flag("pollTime", duration(), "60s", "liveness: how often it probes the driver at --endpoint"),
  timeout: flag("probeTimeout", duration(), "3s", "liveness: how long the driver may take to answer a probe"),
  metricsport: flag("metricsPort", int(0, 65_535), "8080", "port of the metrics; 0: any"),
  metricspath: flag("metricsPath", webPath(), "/metrics", "path of the metrics"),
  version: flag("version", bool(), "false", "print the version and end"),
  v: flag("verbosity", verbosity(), "0", "log level: 1 default, 5 trace"),
};

const labels = shaped("name:value,name:value", (value) =>
  value === "" || value.split(",").every((pair) => /^[^:]+:[^:]*$/.test(pair)) ? value : undefined,
);

/** Of an election by a Lease: Kubernetes' sidecars have the same. */
export const ELECTION_FLAGS = {
  "leader-election": flag("leaderElection", bool(), "false", "several replicas choose one that works, by a Lease"),
  "leader-election-namespace": flag("leaderElectionNamespace", text(), "", "of the Lease; absent: the pod's own"),
  "leader-election-lease-duration": flag("leaseDuration", duration(), "15s", "others wait that long for a dead leader"),
  "leader-election-renew-deadline": flag(
    "renewDeadline",
    duration(),
    "10s",
    "a leader that cannot renew so long stops",
  ),
  "leader-election-retry-period": flag("retryPeriod", duration(), "5s", "how often the Lease is renewed or tried"),
  "leader-election-labels": flag("leaderElectionLabels", labels, "", "labels of the Lease"),
};

const OWN = {
  attacher: flag("attacher", bool(), "false", "controller: attach this driver's volumes in Kubernetes, too"),
  ...ELECTION_FLAGS,
  help: flag("help", bool(), "false", "print this and end"),
  "config-dir": flag("configDir", path(), "/etc/ceph-csi-config", "folder of config.json and cluster-mapping.json"),
  "kms-config": flag(
    "kmsConfig",
    path(),
    "/etc/ceph-csi-encryption-kms-config/config.json",
    "file that says what each encryptionKMSID stands for (docs/encryption.md)",
  ),
  "secrets-dir": flag(
    "secretsDir",
    path(),
    "/etc/ceph-csi-secrets",
    "folder of credentials per clusterID, for listing volumes and telling capacity",
  ),
  "ceph-conf": flag("cephConf", path(), "/etc/ceph/ceph.conf", "Ceph's own configuration file"),
  cells: flag("cells", int(1, 64), "8", "worker threads for Ceph calls"),
  "host-cells": flag("hostCells", int(1, 64), "8", "worker threads for mounts and devices"),
  "osd-timeout": flag("osdTimeout", duration(), "30s", "limit of one operation on OSDs"),
  "mon-timeout": flag("monTimeout", duration(), "30s", "limit of one question to the monitors"),
  "connect-timeout": flag("connectTimeout", duration(), "15s", "limit of connecting to a cluster"),
  "grace-period": flag("gracePeriod", duration(), "25s", "from SIGTERM to the end; operations have all but 2s of it"),
  "kubelet-registration-path": flag(
    "kubeletRegistrationPath",
    socketPath(),
    "",
    "node: the driver's socket as kubelet reaches it on the host; the driver then registers itself there",
  ),
  "plugin-registration-path": flag(
    "pluginRegistrationPath",
    path(),
    "/registration",
    "folder of kubelet's registrations",
  ),
  "http-endpoint": flag("httpEndpoint", httpAddress(), "", "where /healthz is served, as [host]:port"),
  "health-port": flag("healthPort", count(65_535), "0", "the same on all addresses; 0: nowhere"),
  "probe-timeout": flag("healthTimeout", duration(), "3s", "how long /healthz waits for the driver's answer"),
  "socket-group": flag("socketGroup", text(), "", "group that may use the socket, by name or number"),
};

export const FLAGS = { ...CEPH_CSI, ...OWN };

/** ceph-csi's feature gates so far. SlowGRPCRestart ends a process whose call hangs; here a thread that hangs is replaced. */
const KNOWN_GATES: ReadonlySet<string> = new Set(["SlowGRPCRestart"]);

const gatesIn = (value: string): ReadonlyArray<readonly [name: string, on: string]> =>
  value
    .split(",")
    .map((gate) => gate.trim())
    .filter((gate) => gate !== "")
    .map((gate) => {
      const [name = "", ...on] = gate.split("=");
      return [name.trim(), on.join("=").trim()];
    });

const gates = shaped("Name=true,Name=false", (value) =>
  gatesIn(value).every(([name, on]) => name !== "" && goBool(on) !== undefined) ? value : undefined,
);

export interface WithoutEffect {
  /** The kind matters: a boolean flag does not take the next argument. */
  readonly kind: FlagKind<unknown>;
  readonly reason: string;
  /** Whether this value asks for something that is missed here: the log then warns. */
  readonly missed?: (value: string) => boolean;
}

export const because = (
  reason: string,
  kinds: Readonly<Record<string, FlagKind<unknown>>>,
  missed?: WithoutEffect["missed"],
) =>
  Object.fromEntries(
    Object.entries(kinds).map(([name, kind]): [string, WithoutEffect] => [
      name,
      { kind, reason, ...(missed && { missed }) },
    ]),
  );

/** Flags of klog, which all of Kubernetes' programs have. */
export const GO_LOGGER = because("for Go's logger; all lines go to stderr", {
  logtostderr: ANY.bool,
  alsologtostderr: ANY.bool,
  stderrthreshold: ANY.text,
  vmodule: ANY.text,
  log_dir: ANY.text,
  log_file: ANY.text,
  log_file_max_size: ANY.text,
  log_backtrace_at: ANY.text,
  skip_headers: ANY.bool,
  skip_log_headers: ANY.bool,
  add_dir_header: ANY.bool,
  legacy_stderr_threshold_behavior: ANY.bool,
  one_output: ANY.bool,
});

/** Flags of ceph-csi that are accepted and change nothing. */
export const WITHOUT_EFFECT: Readonly<Record<string, WithoutEffect>> = {
  ...because("for CephFS and NFS", {
    pluginpath: ANY.text,
    forcecephkernelclient: ANY.bool,
    kernelmountoptions: ANY.text,
    fusemountoptions: ANY.text,
    radosnamespacecephfs: ANY.text,
  }),
  ...because("ceph-csi 3.8 dropped it", { enablegrpcmetrics: ANY.bool, histogramoption: ANY.text }),
  ...because("ceph-csi 3.17 dropped it: names of PVC, PV and snapshot are always in the image's metadata", {
    setmetadata: ANY.bool,
  }),
  ...because("a node never flattens an image to suit its kernel", { skipforceflatten: ANY.bool }),
  ...because("kubelet names the path in each request, and the kernel the volumes of rbd-nbd that need a process", {
    stagingpath: ANY.text,
  }),
  ...because("the pod's own limit of processes stays as it is", {
    pidlimit: ANY.int,
  }),
  ...because(
    "no feature gate changes this driver",
    { "feature-gates": gates },
    (value) => !gatesIn(value).every(([name]) => KNOWN_GATES.has(name)),
  ),
  ...GO_LOGGER,
};
