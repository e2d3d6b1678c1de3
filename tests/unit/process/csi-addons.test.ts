/** The socket of CSI-Addons as the sidecar of the CSI-Addons project meets it: a driver with its flags, over gRPC. */
import { afterEach, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Logger from "effect/Logger";
import manifest from "../../../package.json" with { type: "json" };
import {
  Capability_EncryptionKeyRotation_Type as Rotation,
  Capability_NetworkFence_Type as Fence,
  Capability_ReclaimSpace_Type as Reclaim,
  Capability_Service_Type as Side,
  Identity,
} from "../../../lib/gen/csi_addons_identity_pb.ts";
import { Identity as CsiIdentity } from "../../../lib/gen/csi_pb.ts";
import { Code } from "../../../lib/grpc/status.ts";
import { compose } from "../../../lib/process/compose.ts";
import { role } from "../../../lib/process/role.ts";
import { driverRoles } from "../../../services/driver.ts";
import { client } from "../../support/grpc-client.ts";
import { failure, temporaryDirectory } from "../../support/grpc-serving.ts";
import { flagsOf, memoryWorld } from "../../support/one-world.ts";
import { aCluster } from "../../support/world.ts";

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

/** A driver of these roles that listens on both sockets. */
const aServingDriver = async (roles: "controllerserver" | "nodeserver" | "both") => {
  const directory = temporaryDirectory();
  const endpoint = `unix://${join(directory, "csi.sock")}`;
  const addons = `unix://${join(directory, "csi-addons.sock")}`;
  const flags = flagsOf({ endpoint, "csi-addons-endpoint": addons, ...(roles !== "both" && { [roles]: true }) });
  const listens = Promise.withResolvers<void>();
  const ready = role({ name: "ready", layer: Layer.empty, runs: Effect.sync(listens.resolve) });
  const world = memoryWorld(aCluster(), flags, {});
  const all = Effect.scoped(compose(flags, [...driverRoles(flags, world), ready]));
  const fiber = Effect.runFork(Effect.provide(all, Logger.layer([])));
  await Promise.race([listens.promise, Effect.runPromise(Fiber.join(fiber))]);
  const clients = { identity: client(Identity, addons), csi: client(CsiIdentity, endpoint) };
  ends.push(
    clients.identity.close,
    clients.csi.close,
    () => Effect.runPromise(Fiber.interrupt(fiber)),
    () => rmSync(directory, { recursive: true }),
  );
  return { ...clients, addons };
};

const FENCES = `networkFence ${Fence.NETWORK_FENCE}`;
const TELLS_ADDRESS = `networkFence ${Fence.GET_CLIENTS_TO_FENCE}`;
const ROTATES = `encryptionKeyRotation ${Rotation.ENCRYPTIONKEYROTATION}`;
const LIMIT = { timeoutMs: 5000 };

/** One line per capability, such as `service 1`. */
const offeredBy = async ({ identity }: Awaited<ReturnType<typeof aServingDriver>>): Promise<readonly string[]> =>
  (await identity.getCapabilities({}, LIMIT)).capabilities.map(({ type }) => `${type.case} ${type.value?.type}`);

test("The socket of CSI-Addons tells the driver's name and version, and that it works", async () => {
  const { identity } = await aServingDriver("both");
  const { name, vendorVersion } = await identity.getIdentity({}, LIMIT);
  expect({ name, vendorVersion }).toEqual({ name: "rbd.csi.ceph.com", vendorVersion: manifest.version });
  expect((await identity.probe({}, LIMIT)).ready).toBe(true);
});

test.each([
  ["controllerserver", [`service ${Side.CONTROLLER_SERVICE}`, FENCES, `reclaimSpace ${Reclaim.OFFLINE}`]],
  ["nodeserver", [`service ${Side.NODE_SERVICE}`, TELLS_ADDRESS, `reclaimSpace ${Reclaim.ONLINE}`, ROTATES]],
  [
    "both",
    [
      `service ${Side.CONTROLLER_SERVICE}`,
      `service ${Side.NODE_SERVICE}`,
      FENCES,
      TELLS_ADDRESS,
      `reclaimSpace ${Reclaim.OFFLINE}`,
      `reclaimSpace ${Reclaim.ONLINE}`,
      ROTATES,
    ],
  ],
] as const)("The driver with the role %p offers what it serves, and nothing else", async (roles, offered) => {
  expect(await offeredBy(await aServingDriver(roles))).toEqual([...offered]);
});

test("Neither socket serves what the other does", async () => {
  const { csi, identity, addons } = await aServingDriver("both");
  expect((await csi.probe({}, LIMIT)).ready).toBe(true);
  expect((await identity.probe({}, LIMIT)).ready).toBe(true);
  const wrong = client(CsiIdentity, addons);
  ends.unshift(wrong.close);
  expect((await failure(wrong.probe({}, LIMIT))).code).toBe(Code.UNIMPLEMENTED);
});
