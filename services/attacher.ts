/**
 * The attacher: does for VolumeAttachments what external-attacher does. A role beside the driver's own by `--attacher`, or
 * alone beside any driver by the verb `attacher`.
 *
 * Not here: what it does (lib/attacher), and the calls to a driver (./csi-client.ts).
 *
 * 1. Whatever the driver, the API server or the Lease does, the process stays: each is waited for.
 */
import { hostname } from "node:os";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Layer from "effect/Layer";
import type * as Scope from "effect/Scope";
import { type AttacherSettings, runAttacher } from "../lib/attacher/controller.ts";
import { CsiDriver } from "../lib/attacher/csi-driver.ts";
import type { AttacherFlags } from "../lib/config/attacher-flags.ts";
import type { ElectionFlags } from "../lib/config/election-flags.ts";
import type { Flags } from "../lib/config/flags.ts";
import { Kube } from "../lib/kube/kube.ts";
import { type ElectionsService, leaseName, type LeaseOptions, makeElections } from "../lib/kube/lease.ts";
import { kubeAccess } from "../lib/kube/kubeconfig.ts";
import { kubeLayer } from "../lib/kube/request.ts";
import { type AnyRole, type Role, type RoleError, role } from "../lib/process/role.ts";
import type { World } from "../lib/process/world.ts";
import { Metrics } from "../lib/telemetry/metrics.ts";
import { connectDriver } from "./csi-client.ts";

/** How the driver of this process is attached. */
const OWN: AttacherSettings = {
  workers: 10,
  resync: Duration.minutes(10),
  retryStart: Duration.millis(500),
  retryMax: Duration.minutes(5),
  reconcileSync: Duration.minutes(1),
  defaultFsType: "",
};

/** A fence waits for the monitors and for every OSD. */
const OWN_TIMEOUT = Duration.seconds(150);

/**
 * The attacher of the driver in this process. It has nothing to do for an attachment, unless the driver fences: then it is
 * asked on its own socket, as by an attacher of another process.
 */
export const attacherRole = (flags: Flags, { kube }: Pick<World, "kube">): Role<Kube> =>
  roleOf(kube, flags, OWN, flags.enableFencing ? askingItself(flags) : Effect.succeed(idle(flags)));

const askingItself = ({ endpoint: address }: Flags) =>
  Effect.map(connectDriver({ address, timeout: OWN_TIMEOUT, maxEntries: 0 }), (driver) =>
    // The driver's list names the nodes that have staged a volume: one that is attached need not be there yet.
    CsiDriver.of({ ...driver, abilities: { ...driver.abilities, listPublishedNodes: false } }),
  );

const idle = (flags: Flags): CsiDriver["Service"] => {
  const abilities = { publish: false, publishReadOnly: false, singleNodeMultiWriter: false, listPublishedNodes: false };
  const nothing = Effect.die("the driver of this process publishes no volumes");
  return CsiDriver.of({
    name: flags.driverName,
    abilities,
    publish: () => nothing,
    unpublish: () => nothing,
    publishedNodes: nothing,
  });
};

/** The attacher of a driver in another process. */
export const attacherRoles = (flags: AttacherFlags): readonly AnyRole[] => {
  const { csiAddress: address, timeout, maxEntries, workerThreads: workers } = flags;
  const { resync, retryStart, retryMax, reconcileSync, defaultFsType } = flags;
  const settings = { workers, resync, retryStart, retryMax, reconcileSync, defaultFsType };
  return [
    roleOf(
      kubeLayer(kubeAccess(flags.kubeconfig, process.env)),
      flags,
      settings,
      connectDriver({ address, timeout, maxEntries }),
    ),
  ];
};

const roleOf = (
  layer: Layer.Layer<Kube, RoleError>,
  flags: ElectionFlags,
  settings: AttacherSettings,
  connect: Effect.Effect<CsiDriver["Service"], RoleError, Scope.Scope>,
): Role<Kube> => {
  const elections = makeElections();
  const runs = Effect.gen(function* () {
    const driver = yield* connect;
    const work = runAttacher(settings).pipe(Effect.scoped, Effect.provideService(CsiDriver, driver));
    return yield* flags.leaderElection ? elected(elections, flags, driver.name, work) : work;
  }).pipe(Effect.scoped);
  return role({ name: "attacher", layer, runs, checks: { "/healthz/leader-election": elections.stuck } });
};

const elected = (
  elections: ElectionsService,
  flags: ElectionFlags,
  driverName: string,
  work: Effect.Effect<never, never, Kube>,
): Effect.Effect<never, never, Kube> =>
  Effect.scoped(
    Effect.gen(function* () {
      const metrics = yield* Metrics;
      const help = "Whether this process leads: 1 or 0.";
      yield* metrics.add(() =>
        elections.leading().map(({ name, leads }) => ({
          name: "leader_election_master_status",
          help,
          labels: { name },
          value: leads ? 1 : 0,
        })),
      );
      const name = leaseName(`external-attacher-leader-${driverName}`);
      return yield* elections.whileLeading(yield* leaseOf(flags, name), work);
    }),
  );

/** The Lease that the flags name. */
export const leaseOf = (flags: ElectionFlags, name: string): Effect.Effect<LeaseOptions, never, Kube> =>
  Effect.gen(function* () {
    const { namespace } = yield* Kube;
    const { leaderElectionNamespace, leaderElectionLabels, leaseDuration, renewDeadline, retryPeriod } = flags;
    const pairs = leaderElectionLabels.split(",").filter((pair) => pair !== "");
    return {
      name,
      namespace: leaderElectionNamespace || process.env["POD_NAMESPACE"] || (yield* namespace),
      // With the host's network, several pods may have one hostname.
      identity: leaseName(process.env["POD_NAME"] || hostname()),
      leaseDuration,
      renewDeadline,
      retryPeriod,
      labels: Object.fromEntries(pairs.map((pair): [string, string] => pair.split(":", 2) as [string, string])),
    };
  });
