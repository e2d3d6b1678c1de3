/** Every flag that `--help` shows as working is read by the code that it is for; the others are listed as such. */
import { expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { cephLayer } from "../../../lib/ceph/ceph.ts";
import { FLAGS, WITHOUT_EFFECT } from "../../../lib/config/flag-table.ts";
import { type Flags, parseFlags } from "../../../lib/config/flags.ts";
import { Host } from "../../../lib/host/host.ts";
import { whatFlagsAsk } from "../../../lib/process/command-line.ts";
import { role } from "../../../lib/process/role.ts";
import { liveWorld, type World } from "../../../lib/process/world.ts";
import { rolesOf } from "../../../services/main.ts";
import { cephMemoryService } from "../../support/ceph-memory/memory.ts";
import { eventually, temporaryDirectory } from "../../support/grpc-serving.ts";
import { freePort } from "../../support/http-client.ts";
import { hostMemoryService, MemoryNode } from "../../support/host-memory.ts";
import { KubeMemory, kubeMemoryLayer } from "../../support/kube-memory.ts";
import { aCluster } from "../../support/world.ts";

/** The real world is described, which reads its flags; Ceph and the host are in memory, so that nothing is touched. */
const worldOf = (flags: Flags): World => {
  const cluster = aCluster();
  return {
    ...liveWorld(flags),
    ceph: cephLayer(cephMemoryService(cluster)),
    host: Layer.succeed(Host, hostMemoryService(new MemoryNode(cluster))),
    kube: kubeMemoryLayer(new KubeMemory()),
  };
};

/** Starts the roles of these arguments in full, stops them, and gives the keys of the flags that were read. */
const readBy = async (argv: readonly string[]): Promise<ReadonlySet<string>> => {
  const read = new Set<string>();
  const flags = new Proxy(Result.getOrThrow(parseFlags(argv)), {
    get: (target, key, receiver): unknown => {
      read.add(String(key));
      return Reflect.get(target, key, receiver);
    },
    // A copy of all flags would read each of them, and use none.
    ownKeys: () => {
      throw new Error("the flags are copied");
    },
  });
  let started: () => void = () => {};
  const start = new Promise<void>((resolve) => (started = resolve));
  const ready = role({ name: "ready", layer: Layer.empty, runs: Effect.sync(() => started()) });
  const asked = whatFlagsAsk(flags, (given) => [...rolesOf(given, worldOf(given)), ready], String);
  if ("text" in asked) throw new Error("the driver starts");
  const fiber = Effect.runFork(Effect.scoped(asked.run));
  await Promise.race([start, Effect.runPromise(Fiber.join(fiber))]);
  if (flags.type === "liveness") await eventually(() => read.has("probeTimeout"), "the first probe");
  await Effect.runPromise(Fiber.interrupt(fiber));
  return read;
};

test("The driver, its liveness probe and its journal controller read each flag of the table between them", async () => {
  const directory = temporaryDirectory();
  const endpoint = `--endpoint=unix://${join(directory, "csi.sock")}`;
  const driver = await readBy([
    "--type=rbd",
    "--nodeid=n",
    "--controllerserver",
    "--nodeserver",
    "--attacher",
    "--leader-election",
    "--enableprofiling",
    `--metricsport=${await freePort()}`,
    `--kubelet-registration-path=${join(directory, "csi.sock")}`,
    `--plugin-registration-path=${directory}`,
    `--http-endpoint=127.0.0.1:${await freePort()}`,
    endpoint,
    `--csi-addons-endpoint=unix://${join(directory, "csi-addons.sock")}`,
    "--grace-period=1s",
  ]);
  const liveness = await readBy(["--type=liveness", "--polltime=1ms", endpoint, `--metricsport=${await freePort()}`]);
  const controller = await readBy(["--type=controller", "--grace-period=1s"]);
  rmSync(directory, { recursive: true });
  const unread = (read: ReadonlySet<string>) =>
    Object.entries(FLAGS).flatMap(([name, { key }]) => (read.has(key) ? [] : [name]));
  expect(unread(driver)).toEqual(["drivernamespace", "polltime", "timeout"]);
  expect(unread(liveness)).not.toContain("polltime");
  expect(unread(liveness)).not.toContain("timeout");
  expect(unread(controller)).not.toContain("drivernamespace");
});

test("No flag is in both lists, and each flag without effect has a reason", () => {
  for (const [name, { reason }] of Object.entries(WITHOUT_EFFECT)) {
    expect(Object.keys(FLAGS)).not.toContain(name);
    expect(reason).not.toBe("");
  }
});
