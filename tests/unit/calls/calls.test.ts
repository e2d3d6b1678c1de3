/**
 * Which calls of Ceph each RPC makes, one by one, as the golden files and docs/calls.md say: one call more fails here, and
 * so does one fewer. Calls that follow an answer count, too, with the removal from the trash a moment later. Calls for several members or pools are made side by side, and
 * are in the order in which they begin.
 *
 * Not here: which cases there are (./*-cases.ts).
 */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { type CephCall, intercepted, recorded } from "../../support/ceph-faults.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { aVolume, snapshotOf } from "../../support/copies-world.ts";
import { idle } from "../../support/crash-copies-world.ts";
import { LISTING } from "../../support/listing-world.ts";
import { aDriver } from "../../support/one-world.ts";
import { virtualTime } from "../../support/virtual-time.ts";
import { aCluster, codeOf } from "../../support/world.ts";
import { addonsRooms } from "./addons-cases.ts";
import { controllerRoom } from "./controller-cases.ts";
import { copiesRoom } from "./copies-cases.ts";
import { crashRoom } from "./crash-cases.ts";
import { encryptedRoom } from "./encrypted-cases.ts";
import { fencingRoom } from "./fencing-cases.ts";
import { groupRoom } from "./group-cases.ts";
import { listingRoom } from "./listing-cases.ts";
import { nodeRoom } from "./node-cases.ts";
import { type Case, noIds, type Room } from "./room.ts";

const rooms: readonly Room[] = [
  ...addonsRooms,
  controllerRoom,
  copiesRoom,
  crashRoom,
  encryptedRoom,
  fencingRoom,
  groupRoom,
  listingRoom,
  nodeRoom,
];

const callsOf = async (
  room: Room,
  { given, faults = (inner) => inner, prepare, call, code = "OK" }: Case,
): Promise<readonly string[]> => {
  const { cluster, ...world } = await room.world();
  const { service, calls, forget } = recorded(faults(cephMemoryService(cluster)));
  const time = virtualTime();
  await using driver = aDriver(cluster, { ...LISTING, ...world, ...given, ceph: service, time });
  const at = { cluster, driver, ids: noIds() };
  await room.prepare?.(at);
  await prepare?.(at);
  await idle(cluster);
  await time.pass(A_MOMENT);
  await idle(cluster);
  forget();
  const ended = codeOf(call(at));
  await idle(cluster);
  const made = calls();
  expect(await time.until(ended)).toBe(code);
  await idle(cluster);
  // A call that waits repeats its last look, once for each pause. What it asks after that counts.
  const told = ({ method, subject }: CephCall) => `${method} ${subject}`;
  const later = calls().slice(made.length);
  const waited = later.findIndex((call) => told(call) !== told(made.at(-1) ?? call));
  const behind = waited < 0 ? [] : later.slice(waited);
  const all = calls().length;
  await time.pass(A_MOMENT);
  await idle(cluster);
  return [...made, ...behind, ...calls().slice(all)].map(({ method }) => method);
};

/** By then the driver has removed small images from the trash, and given the others to the manager. */
const A_MOMENT = "6 seconds";

for (const room of rooms) {
  test(`The table of the ${room.name} has every case, and every case is in the table`, () => {
    expect(room.rows.map(({ rpc, case: name }) => `${rpc}: ${name}`).toSorted()).toEqual(
      Object.keys(room.cases).toSorted(),
    );
  });

  for (const { rpc, case: name, calls } of room.rows) {
    test(`${rpc} (${name}) makes ${calls.length} calls`, async () => {
      const one = room.cases[`${rpc}: ${name}`];
      if (one === undefined) throw new Error("no such case");
      expect(await callsOf(room, one)).toEqual(calls);
    });
  }
}

test("CreateSnapshot answers after its eleventh call", async () => {
  const cluster = aCluster();
  const { service, calls, forget } = recorded(cephMemoryService(cluster));
  // What runs behind the answer never comes to its first call.
  const ceph = intercepted(service, ({ method, subject }, act) =>
    method === "snapshotCreate" && subject.includes("csi-snap-") ? Effect.never : act,
  );
  await using driver = aDriver(cluster, { ceph });
  const volumeId = await aVolume(driver, cluster);
  forget();
  await driver.createSnapshot(snapshotOf(volumeId));
  await idle(cluster);
  const [first] = copiesRoom.rows;
  expect(calls().map(({ method }): string => method)).toEqual(first?.calls.slice(0, 11) ?? []);
});
