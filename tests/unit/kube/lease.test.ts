/** Who leads by a Lease: taken, renewed, lost, given back, and handed over between ours and client-go's. */
import { describe, expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { KubeFailed } from "../../../lib/kube/errors.ts";
import { Elections, leaseName, type LeaseOptions, makeElections } from "../../../lib/kube/lease.ts";
import type { AroundKube } from "../../support/kube-memory.ts";
import { kubeWorld } from "../../support/kube-world.ts";

const LIST = "/apis/coordination.k8s.io/v1/namespaces/storage/leases";
const PATH = `${LIST}/attacher`;
const options = (identity: string): LeaseOptions => ({
  namespace: "storage",
  name: "attacher",
  identity,
  leaseDuration: Duration.seconds(15),
  renewDeadline: Duration.seconds(10),
  retryPeriod: Duration.seconds(5),
});

const election = () => {
  const world = kubeWorld();
  const { memory, time } = world;
  const history: string[] = [];
  const work = (identity: string) =>
    Effect.acquireRelease(
      Effect.sync(() => void history.push(`${identity} begins`)),
      // Work that takes a while to end: the lease must not go before.
      () =>
        Effect.andThen(
          Effect.sleep("200 millis"),
          Effect.sync(() => void history.push(`${identity} ended`)),
        ),
    );
  const stand = (identity: string, around?: AroundKube) =>
    world.start(
      Effect.flatMap(Elections, ({ whileLeading }) =>
        whileLeading(options(identity), Effect.andThen(work(identity), Effect.never)),
      ),
      around,
    );
  const spec = () => memory.get(PATH)["spec"] as Record<string, unknown>;
  const theirs = (holder: string, transitions = 3) => ({
    apiVersion: "coordination.k8s.io/v1",
    kind: "Lease",
    metadata: { name: "attacher", labels: { kept: "yes" } },
    spec: {
      holderIdentity: holder,
      leaseDurationSeconds: 15,
      acquireTime: "2020-01-01T00:00:00.000000Z",
      renewTime: "2020-01-01T00:00:00.000000Z",
      leaseTransitions: transitions,
    },
  });
  return { memory, time, history, stand, spec, theirs };
};
const away: AroundKube = ({ verb, path }) => Effect.fail(new KubeFailed({ verb, path, reason: "refused" }));

describe("a lease", () => {
  test("The first one creates it, in the form that client-go writes, and renews it every five seconds", async () => {
    const { memory, time, history, stand, spec } = election();
    await stand("one");
    expect(history).toEqual(["one begins"]);
    const first = spec();
    expect(first).toMatchObject({ holderIdentity: "one", leaseDurationSeconds: 15, leaseTransitions: 0 });
    expect(String(first["renewTime"])).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
    await time.pass("11 seconds");
    expect(memory.requests.filter((request) => request === `update ${PATH}`)).toHaveLength(2);
    expect(spec()["acquireTime"]).toBe(first["acquireTime"]);
    expect(spec()["renewTime"]).not.toBe(first["renewTime"]);
  });

  test("A leader that stops ends its work, then gives the lease back, and the next one leads at its next try", async () => {
    const { time, history, stand, spec } = election();
    const one = await stand("one");
    await stand("two");
    await time.pass("20 seconds");
    expect(history).toEqual(["one begins"]);
    await one.stop();
    expect(history).toEqual(["one begins", "one ended"]);
    expect(spec()).toMatchObject({ holderIdentity: "", leaseDurationSeconds: 1 });
    await time.pass("11 seconds");
    expect(history.at(-1)).toBe("two begins");
    expect(spec()).toMatchObject({ holderIdentity: "two", leaseTransitions: 1 });
  });

  for (const [what, verb] of [
    ["takes", "create"],
    ["renews", "update"],
  ] as const) {
    test(`One that stops while it ${what} the lease, and has no answer yet, gives it back`, async () => {
      const { time, stand, spec } = election();
      const slow: AroundKube = ({ verb: asked, path }, act) =>
        asked === verb && path.includes("leases") ? Effect.tap(act, Effect.sleep("3 seconds")) : act;
      const one = await stand("one", slow);
      if (verb === "update") await time.pass("6 seconds");
      expect(spec()["holderIdentity"]).toBe("one");
      await one.stop();
      expect(one.log).toEqual(expect.arrayContaining(["one gave the lease attacher back"]));
      expect(spec()).toMatchObject({ holderIdentity: "", leaseDurationSeconds: 1 });
    });
  }

  test("A lease whose taking failed without an answer, although it was done, is given back", async () => {
    const { stand, spec } = election();
    let reset = true;
    const unlucky: AroundKube = ({ verb, path }, act) =>
      verb === "create" && path.includes("leases") && reset
        ? Effect.andThen(act, Effect.fail(new KubeFailed({ verb, path, reason: "connection reset" })))
        : act;
    const one = await stand("one", unlucky);
    reset = false;
    expect(spec()["holderIdentity"]).toBe("one");
    await one.stop();
    expect(spec()["holderIdentity"]).toBe("");
    expect(one.log).toEqual(expect.arrayContaining(["one gave the lease attacher back"]));
  });

  test("An answer that comes after others may have taken over is none: the work does not begin", async () => {
    const { time, history, stand } = election();
    const state = { slow: true };
    const slow: AroundKube = ({ verb, path }, act) =>
      verb === "create" && path.includes("leases") && state.slow ? Effect.tap(act, Effect.sleep("20 seconds")) : act;
    const standing = stand("one", slow);
    await standing;
    await stand("two");
    await time.pass("14 seconds");
    expect(history).toEqual([]);
    state.slow = false;
    await time.pass("10 seconds");
    expect(history).toHaveLength(1);
  });

  test("A leader stops at the deadline of its renewal, and not at the period after it", async () => {
    const { time, history, stand } = election();
    let reachable = true;
    await stand("one", (request, act) => (reachable ? act : away(request, act)));
    await time.pass("5 seconds");
    reachable = false;
    await time.pass("9 seconds");
    expect(history).toEqual(["one begins"]);
    await time.pass("1300 millis");
    expect(history).toEqual(["one begins", "one ended"]);
  });

  test("A lease that somebody else wrote to meanwhile is given back, but not one that somebody else holds", async () => {
    for (const [change, holder] of [
      [{ metadata: { labels: { theirs: "yes" } } }, ""],
      [{ spec: { holderIdentity: "thief" } }, "thief"],
    ] as const) {
      const { memory, stand, spec } = election();
      const one = await stand("one");
      memory.merge(PATH, change);
      await one.stop();
      expect(spec()["holderIdentity"]).toBe(holder);
    }
  });

  test("One that stops without a server ends, as late as a leader would", async () => {
    const { time, history, stand } = election();
    let reachable = true;
    const silent: AroundKube = (_, act) => (reachable ? act : Effect.never);
    const one = await stand("one", silent);
    reachable = false;
    await time.pass("6 seconds");
    await one.stop();
    expect(history).toEqual(["one begins", "one ended"]);
    expect(one.log.join("\n")).toContain("could not be given back");
  });

  test("A leader that died is waited for as long as its lease lasts by the follower's own clock", async () => {
    const { memory, time, history, stand, theirs, spec } = election();
    // Its times are years ago: another machine's clock counts for nothing.
    memory.create(LIST, theirs("upstream"));
    await stand("one");
    await time.pass("14 seconds");
    expect(history).toEqual([]);
    await time.pass("12 seconds");
    expect(history).toEqual(["one begins"]);
    expect(spec()).toMatchObject({ holderIdentity: "one", leaseTransitions: 4 });
    expect(memory.get(PATH).metadata["labels"]).toEqual({ kept: "yes" });
  });

  test("A lease that client-go has given back is taken at once", async () => {
    const { memory, history, stand, theirs } = election();
    memory.create(LIST, theirs(""));
    await stand("one");
    expect(history).toEqual(["one begins"]);
  });

  test("A leader that can't renew stops its work before others may lead, and leads again when the server is back", async () => {
    const { time, history, stand } = election();
    let reachable = true;
    const one = await stand("one", (request, act) => (reachable ? act : away(request, act)));
    await time.pass("1 second");
    reachable = false;
    await time.pass("12 seconds");
    // Ten seconds without a renewal; the lease lasts fifteen.
    expect(history).toEqual(["one begins", "one ended"]);
    reachable = true;
    await time.pass("30 seconds");
    expect(history).toEqual(["one begins", "one ended", "one begins"]);
    expect(one.log.join("\n")).toContain("the lease attacher is lost");
  });

  test("A leader whose lease somebody else has taken stops at its next renewal", async () => {
    const { memory, time, history, stand, theirs } = election();
    await stand("one");
    memory.merge(PATH, { spec: theirs("thief").spec });
    await time.pass("6 seconds");
    expect(history).toEqual(["one begins", "one ended"]);
  });

  test("Two that see a free lease at once: one leads", async () => {
    const { memory, time, history, stand, theirs } = election();
    memory.create(LIST, theirs(""));
    // Both have read before either writes.
    const slow: AroundKube = ({ verb }, act) => (verb === "update" ? Effect.delay(act, "1 second") : act);
    await Promise.all([stand("one", slow), stand("two", slow)]);
    await time.pass("9 seconds");
    expect(history).toHaveLength(1);
  });

  test("An election tells who leads, its health when it is stuck, and Kubernetes by an event", async () => {
    const { memory, time, start } = kubeWorld();
    const elections = makeElections();
    let hanging = false;
    const work = elections.whileLeading(options("one"), Effect.uninterruptible(Effect.sleep("2 minutes")));
    await start(work, ({ verb }, act) => (hanging && verb === "update" ? Effect.never : act));
    expect(elections.leading()).toEqual([{ name: "attacher", leads: true }]);
    expect(memory.objects("/api/v1/namespaces/storage/events")).toMatchObject([
      { reason: "LeaderElection", message: "one became leader", count: 1, involvedObject: { kind: "Lease" } },
    ]);
    const stuck = () => Effect.runPromise(Effect.provide(elections.stuck, time.layer));
    hanging = true;
    await time.pass("34 seconds");
    expect(await stuck()).toBeUndefined();
    // Its work does not end, so it has not given up leading.
    await time.pass("10 seconds");
    expect(await stuck()).toContain("the lease attacher has not been renewed for 44 s");
  });
});

test("Names and identities are written as client-go's users write them", () => {
  expect(leaseName("external-attacher-leader-rbd.csi.ceph.com")).toBe("external-attacher-leader-rbd-csi-ceph-com");
  expect(leaseName("pod_1.")).toBe("pod-1-X");
});
