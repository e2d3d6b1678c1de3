/**
 * The attacher on a real API server: every attachment ends right, whatever dies meanwhile, and no finalizer is left. With
 * ATTACHER=upstream it is Kubernetes' own csi-attacher, without the lines that it cannot pass (./upstream.ts).
 */
import { afterEach, expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { Code, RpcError } from "../../lib/grpc/status.ts";
import { attacherWorld, find, MINUTES, plane, until } from "./attacher-world.ts";
import { OURS_ALONE, upstream } from "./upstream.ts";

const titles = new Set<string>();
const line = (title: string, act: () => Promise<void>) => {
  titles.add(title);
  const reason = OURS_ALONE[title];
  if (upstream() === undefined || reason === undefined) test(title, act, MINUTES);
  else console.log(`ours alone: ${title}: ${reason}`);
};

const worlds: ReturnType<typeof attacherWorld>[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) await world.close();
});

/** A driver that runs, a node, and a volume pv. */
const aWorld = async () => {
  const world = attacherWorld();
  worlds.push(world);
  await world.driver.start();
  await world.node();
  await world.volume("pv");
  return world;
};
type World = Awaited<ReturnType<typeof aWorld>>;

/** Deletes attachment and volume; both must go, and nothing may be published. */
const endsRight = async ({ remove, isGone, attachmentPath, volumePath, driver }: World, names: readonly string[]) => {
  for (const name of names) await remove(attachmentPath(`va-${name}`));
  for (const name of names) await until(() => isGone(attachmentPath(`va-${name}`)), `attachment ${name} is gone`);
  expect([...driver.published.values()].every((nodes) => nodes.size === 0)).toBe(true);
  for (const name of names) await remove(volumePath(name));
  for (const name of names) await until(() => isGone(volumePath(name)), `volume ${name} is gone`);
};

line(
  "an attachment is attached with what the driver answered, and goes with its volume when it is deleted",
  async () => {
    const world = await aWorld();
    const { start, attach, isAttached, attachment, volumePath, finalizer, own, driver } = world;
    start("one");
    await attach("va-pv", "pv");
    await until(() => isAttached("va-pv"), "it is attached");
    expect(await attachment("va-pv")).toMatchObject({
      metadata: { finalizers: [finalizer], annotations: { "csi.alpha.kubernetes.io/node-id": `id-of-${own}` } },
      status: { attached: true, attachmentMetadata: { device: "of-handle-pv" } },
    });
    expect((await find(volumePath("pv")))?.metadata.finalizers).toContain(finalizer);
    expect([...new Set(driver.calls)]).toEqual([`publish handle-pv id-of-${own}`]);
    await endsRight(world, ["pv"]);
  },
);

line("for an attach and its detach the driver is called once each", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, own, driver } = world;
  start("one");
  await attach("va-pv", "pv");
  await until(() => isAttached("va-pv"), "it is attached");
  await endsRight(world, ["pv"]);
  expect(driver.calls).toEqual([`publish handle-pv id-of-${own}`, `unpublish handle-pv id-of-${own}`]);
});

line("a failed attach is an error on the object, with time and code, until the driver can do it", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, attachment, driver } = world;
  driver.around = () => new RpcError({ code: Code.INTERNAL, message: "no path to the storage" });
  start("one");
  await attach("va-pv", "pv");
  await until(async () => (await attachment("va-pv"))?.status?.attachError !== undefined, "the error is written");
  const error = (await attachment("va-pv"))?.status?.attachError;
  expect(error?.message).toContain("no path to the storage");
  expect(error?.errorCode).toBe(Code.INTERNAL);
  expect(error?.time).toMatch(/^\d{4}-\d\d-\d\dT/);
  driver.around = () => Effect.void;
  await until(() => isAttached("va-pv"), "it is attached");
  expect((await attachment("va-pv"))?.status?.attachError).toBeUndefined();
  await endsRight(world, ["pv"]);
});

/** Leaves `pv` deleted and `other` to be attached, while the driver is away. */
const driverAway = async () => {
  const world = await aWorld();
  const { start, attach, isAttached, volume, driver, remove, attachmentPath } = world;
  await volume("other");
  start("one");
  await attach("va-pv", "pv");
  await until(() => isAttached("va-pv"), "it is attached");
  await driver.stop();
  await attach("va-other", "other");
  await remove(attachmentPath("va-pv"));
  return world;
};

line("a driver that goes and comes back is asked again, for an attach and for a detach", async () => {
  const world = await driverAway();
  const { isAttached, attachment, driver } = world;
  await driver.start();
  await until(() => isAttached("va-other"), "the other one is attached");
  await until(async () => (await attachment("va-pv")) === undefined, "the first one is gone");
  await endsRight(world, ["other"]);
});

line("while the driver is away, the attachments tell it", async () => {
  const { attachment } = await driverAway();
  await until(async () => (await attachment("va-other"))?.status?.attachError !== undefined, "the attach fails");
  await until(async () => (await attachment("va-pv"))?.status?.detachError !== undefined, "the detach fails");
});

line("a volume that is deleted before the detach stays until then", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, volumePath, attachmentPath, remove, isGone, finalizer } = world;
  start("one");
  await attach("va-pv", "pv");
  await until(() => isAttached("va-pv"), "it is attached");
  await remove(volumePath("pv"));
  const others = async () => (await find(volumePath("pv")))?.metadata.finalizers?.filter((each) => each !== finalizer);
  await until(async () => (await others())?.length === 0, "only the attacher keeps the volume");
  await remove(attachmentPath("va-pv"));
  await until(() => isGone(attachmentPath("va-pv")), "the attachment is gone");
  await until(() => isGone(volumePath("pv")), "the volume is gone");
  expect(world.driver.published.get("handle-pv")?.size).toBe(0);
});

line("a volume that was taken away by force is unpublished by the next attacher, too", async () => {
  const { start, attach, isAttached, volumePath, attachmentPath, remove, isGone, own, driver } = await aWorld();
  const first = start("one");
  await attach("va-pv", "pv");
  await until(() => isAttached("va-pv"), "it is attached");
  first.kill("SIGKILL");
  await first.exited;
  await remove(volumePath("pv"));
  const patch = JSON.stringify({ metadata: { finalizers: null } });
  await plane.kubectl(["patch", "pv", `${own}-pv`, "--type=merge", "-p", patch]);
  await until(() => isGone(volumePath("pv")), "the volume is gone");
  await remove(attachmentPath("va-pv"));
  start("two");
  await until(() => isGone(attachmentPath("va-pv")), "the attachment is gone");
  expect(driver.published.get("handle-pv")?.size).toBe(0);
});

const NAMES = Array.from({ length: 20 }, (_, n) => `n${n}`);

line("an API server that is killed and started amid attaches and detaches changes no end", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, volume, driver } = world;
  for (const name of NAMES) await volume(name);
  // Slow enough that some are under way when the server dies.
  driver.around = () => Effect.sleep("300 millis");
  start("one", "--worker-threads=3");
  for (const name of NAMES) await attach(`va-${name}`, name);
  await until(() => driver.calls.length > 3, "some are under way");
  await plane.endApiServer();
  await plane.startApiServer();
  for (const name of NAMES) await until(() => isAttached(`va-${name}`), `${name} is attached`);
  const before = driver.calls.length;
  for (const name of NAMES) await world.remove(world.attachmentPath(`va-${name}`));
  await until(() => driver.calls.length > before, "some are under way");
  await plane.endApiServer();
  await plane.startApiServer();
  for (const name of NAMES) {
    await until(() => world.isGone(world.attachmentPath(`va-${name}`)), `attachment ${name} is gone`);
    await world.remove(world.volumePath(name));
    await until(() => world.isGone(world.volumePath(name)), `volume ${name} is gone`);
  }
  expect([...driver.published.values()].every((nodes) => nodes.size === 0)).toBe(true);
});

line("a watch whose version the server has forgotten is followed by a new list", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, volume } = world;
  await volume("later");
  start("one");
  await attach("va-pv", "pv");
  await until(() => isAttached("va-pv"), "it is attached");
  await plane.endApiServer();
  await plane.compact();
  await plane.startApiServer();
  await attach("va-later", "later");
  await until(() => isAttached("va-later"), "the later one is attached");
  await endsRight(world, ["pv", "later"]);
});

const ELECTION = [
  "--leader-election",
  "--leader-election-namespace=default",
  // upstream's default is to let the lease run out; ours has no other way
  "--feature-gates=ReleaseLeaderElectionOnExit=true",
];
const SHORT = [
  "--leader-election-lease-duration=4s",
  "--leader-election-renew-deadline=3s",
  "--leader-election-retry-period=1s",
];

line("when the leader is killed, the other one leads after the lease, and completes what was under way", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, leader, driver } = world;
  const first = start("one", ...ELECTION, ...SHORT);
  await until(async () => (await leader()) === "one", "the first one leads");
  start("two", ...ELECTION, ...SHORT);
  let hanging = true;
  driver.around = () => (hanging ? Effect.sleep("1 minute") : Effect.void);
  await attach("va-pv", "pv");
  await until(() => driver.calls.length === 1, "the attach is under way");
  first.kill("SIGKILL");
  await first.exited;
  hanging = false;
  await until(async () => (await leader()) === "two", "the second one leads");
  await until(() => isAttached("va-pv"), "it is attached");
  await endsRight(world, ["pv"]);
});

line("a leader that is stopped gives the lease back, although it would last for an hour", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, leader } = world;
  const long = ["--leader-election-lease-duration=1h", "--leader-election-retry-period=1s"];
  const first = start("one", ...ELECTION, ...long);
  await until(async () => (await leader()) === "one", "the first one leads");
  start("two", ...ELECTION, ...long);
  first.kill("SIGTERM");
  // the other one ends so whenever it stops leading
  expect(await first.exited).toBe(upstream() === undefined ? 0 : 1);
  await until(async () => (await leader()) === "two", "the second one leads");
  await attach("va-pv", "pv");
  await until(() => isAttached("va-pv"), "it is attached");
  await endsRight(world, ["pv"]);
});

line("an attach does not wait for detaches that hang", async () => {
  const world = await aWorld();
  const { start, attach, isAttached, volume, driver, remove, attachmentPath, isGone } = world;
  const others = ["a", "b", "c"];
  for (const name of others) await volume(name);
  start("one", "--worker-threads=2");
  for (const name of others) await attach(`va-${name}`, name);
  for (const name of others) await until(() => isAttached(`va-${name}`), `${name} is attached`);
  const left = Promise.withResolvers<void>();
  driver.around = (call) => (call.startsWith("unpublish") ? Effect.promise(() => left.promise) : Effect.void);
  for (const name of others) await remove(attachmentPath(`va-${name}`));
  await until(() => driver.calls.filter((call) => call.startsWith("unpublish")).length === 2, "both workers hang");
  await attach("va-pv", "pv");
  await until(() => isAttached("va-pv"), "it is attached");
  left.resolve();
  for (const name of others) await until(() => isGone(attachmentPath(`va-${name}`)), `attachment ${name} is gone`);
  await endsRight(world, ["pv"]);
});

test("each line that is ours alone is a test here", () => {
  expect(Object.keys(OURS_ALONE).filter((title) => !titles.has(title))).toEqual([]);
});
