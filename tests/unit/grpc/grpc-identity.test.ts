/** services/identity.ts as the plain functions that it is. */
import { expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import * as Effect from "effect/Effect";
import manifest from "../../../package.json" with { type: "json" };
import {
  GetPluginCapabilitiesRequestSchema,
  GetPluginCapabilitiesResponseSchema,
  GetPluginInfoRequestSchema,
  PluginCapability_Service_Type as Offered,
  PluginCapability_VolumeExpansion_Type as Expansion,
  ProbeRequestSchema,
} from "../../../lib/gen/csi_pb.ts";
import { identity, type IdentityOptions } from "../../../services/identity.ts";

const run = <A, E>(effect: Effect.Effect<A, E> | undefined): A => {
  if (effect === undefined) throw new Error("not implemented");
  return Effect.runSync(effect);
};

const base: IdentityOptions = { name: "rbd.test", ready: Effect.succeed(true) };

const offered = (options: Partial<IdentityOptions>) => {
  const impl = identity({ ...base, ...options });
  const response = run(impl.getPluginCapabilities?.(create(GetPluginCapabilitiesRequestSchema)));
  return create(GetPluginCapabilitiesResponseSchema, response).capabilities.map(({ type }) => type.value?.type);
};

test("GetPluginInfo answers the configured name and the package's version", () => {
  const info = run(identity(base).getPluginInfo?.(create(GetPluginInfoRequestSchema)));
  expect(info).toEqual({ name: "rbd.test", vendorVersion: manifest.version, manifest: {} });
});

test("A node plugin offers online expansion and no controller service", () => {
  expect(offered({})).toEqual([Expansion.ONLINE]);
});

test("The identity service offers each other capability when the plugin serves it", () => {
  expect(offered({ controller: true })).toEqual([Offered.CONTROLLER_SERVICE, Expansion.ONLINE]);
  expect(offered({ controller: true, accessibilityConstraints: true })).toEqual([
    Offered.CONTROLLER_SERVICE,
    Offered.VOLUME_ACCESSIBILITY_CONSTRAINTS,
    Expansion.ONLINE,
  ]);
  expect(offered({ groupController: true, snapshotMetadata: true })).toEqual([
    Offered.GROUP_CONTROLLER_SERVICE,
    Offered.SNAPSHOT_METADATA_SERVICE,
    Expansion.ONLINE,
  ]);
  expect(offered({ controller: true, snapshotAccessibilityConstraints: true })).toEqual([
    Offered.CONTROLLER_SERVICE,
    Offered.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS,
    Expansion.ONLINE,
  ]);
});

test.each([true, false])("Probe answers ready=%p as the driver reports", (ready) => {
  const impl = identity({ ...base, ready: Effect.succeed(ready) });
  expect(run(impl.probe?.(create(ProbeRequestSchema)))).toEqual({ ready });
});
