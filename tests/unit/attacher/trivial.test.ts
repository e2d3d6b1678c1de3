/** An attacher of a driver that has nothing to do for it, over the API in memory. */
import { expect, test } from "bun:test";
import * as Effect from "effect/Effect";
import { VOLUMES } from "../../../lib/attacher/objects.ts";
import { KubeFailed } from "../../../lib/kube/errors.ts";
import { attacherWorld, FINALIZER } from "../../support/attacher-world.ts";
import { TRIVIAL } from "../../support/csi-driver-memory.ts";
import { settled } from "../../support/virtual-time.ts";

test("Attaching is one write, whatever the volume and the node are", async () => {
  const { attach, attachment, find, writes, memory, driver } = attacherWorld(TRIVIAL);
  await attach();
  expect(memory.requests.splice(0)).toEqual([
    "list /apis/storage.k8s.io/v1/volumeattachments",
    "watch /apis/storage.k8s.io/v1/volumeattachments",
    "list /api/v1/persistentvolumes",
    "watch /api/v1/persistentvolumes",
  ]);
  for (let n = 0; n < 50; n++) attachment(`va-${n}`, "pv-that-nobody-reads", "node-that-nobody-asks");
  await settled();
  expect(writes()).toHaveLength(50);
  expect(find("va-49")).toMatchObject({ status: { attached: true } });
  expect(find("va-49")?.metadata.finalizers).toBeUndefined();
  expect(driver.calls).toEqual([]);
});

test("What another attacher has left is completed: a finalizer of a deleted attachment goes", async () => {
  const { attach, attachment, remove, find } = attacherWorld(TRIVIAL);
  attachment("va-1", "pv-1", "node-1", { finalizers: [FINALIZER] });
  remove("va-1");
  await attach();
  expect(find("va-1")).toBeUndefined();
});

test("What another attacher has left is completed: its finalizer of a deleted volume goes with the last attachment", async () => {
  const { attach, attachment, volume, remove, memory, finalizersOf, writes } = attacherWorld(TRIVIAL);
  const finalizers = [FINALIZER];
  for (const name of ["pv-used", "pv-free", "pv-kept"]) volume(name, {}, {}, { finalizers });
  volume("pv-late", {}, {}, { finalizers });
  attachment("va-1", "pv-used", "node-1", { finalizers });
  const path = (name: string) => `${VOLUMES}/${name}`;
  for (const name of ["pv-used", "pv-free"]) memory.remove(path(name));
  await attach();
  await settled();
  expect(["pv-used", "pv-free", "pv-kept"].map((name) => memory.find(path(name)) !== undefined)).toEqual([
    true,
    false,
    true,
  ]);
  remove("va-1");
  memory.remove(path("pv-late"));
  await settled();
  expect(["pv-used", "pv-late"].map((name) => memory.find(path(name)))).toEqual([undefined, undefined]);
  expect(finalizersOf(path("pv-kept"))).toEqual(finalizers);
  expect(writes().filter((line) => line.includes("pv-kept"))).toEqual([]);
});

test("A write that fails is tried again after a wait, and an attachment that is gone is forgotten", async () => {
  const { attach, attachment, remove, status, time, memory } = attacherWorld(TRIVIAL);
  let away = true;
  await attach({}, ({ verb, path }, act) =>
    away && verb === "patch" ? Effect.fail(new KubeFailed({ verb, path, reason: "reset" })) : act,
  );
  attachment("va-1", "pv-1");
  attachment("va-2", "pv-2");
  await settled();
  remove("va-2");
  away = false;
  memory.requests.length = 0;
  await time.pass("1 second");
  expect(status("va-1")).toMatchObject({ attached: true });
  expect(memory.requests).toEqual(["patch /apis/storage.k8s.io/v1/volumeattachments/va-1/status"]);
});
