/** `csi-rbd attacher` beside a driver on a socket, with an API server over HTTPS; and `--attacher` in the driver. */
import { afterEach, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Logger from "effect/Logger";
import * as Result from "effect/Result";
import { parseAttacherFlags } from "../../../lib/config/attacher-flags.ts";
import { parseFlags } from "../../../lib/config/flags.ts";
import { Code, RpcError } from "../../../lib/grpc/status.ts";
import { whatFlagsAsk } from "../../../lib/process/command-line.ts";
import { attacherRoles } from "../../../services/attacher.ts";
import { rolesOf } from "../../../services/main.ts";
import { ATTACHMENTS, NODES, VOLUMES } from "../../../lib/attacher/objects.ts";
import { MEMORY_KEY } from "../../support/ceph-memory/memory.ts";
import { aNodeObject, CLIENT, listed, TAINT, withRecord } from "../../support/fencing-world.ts";
import { eventually, temporaryDirectory } from "../../support/grpc-serving.ts";
import { freePort } from "../../support/http-client.ts";
import { kubeconfigFor, kubeServer } from "../../support/kube-server.ts";
import { VOLUME } from "../../support/node-world.ts";
import { PublishingDriver } from "../../support/publishing-driver.ts";
import { memoryWorld } from "../../support/one-world.ts";
import { aCluster } from "../../support/world.ts";

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const NAME = "test.csi.example.com";

const world = () => {
  const directory = temporaryDirectory();
  ends.push(() => rmSync(directory, { recursive: true }));
  const server = kubeServer();
  ends.push(server.stop);
  const kubeconfig = kubeconfigFor(server, directory);
  const driver = new PublishingDriver(NAME, join(directory, "csi.sock"));
  ends.push(() => driver.stop());
  const { memory } = server;
  memory.create(NODES, { metadata: { name: "n1" }, spec: { drivers: [{ name: NAME, nodeID: "id-1" }] } });
  const attachment = (name: string, attacher = NAME) => {
    const csi = { driver: attacher, volumeHandle: `h-${name}` };
    memory.create(VOLUMES, { metadata: { name: `pv-${name}` }, spec: { csi, accessModes: ["ReadWriteOnce"] } });
    const spec = { attacher, nodeName: "n1", source: { persistentVolumeName: `pv-${name}` } };
    memory.create(ATTACHMENTS, { metadata: { name }, spec, status: { attached: false } });
  };
  const status = (name: string) =>
    memory.find(`${ATTACHMENTS}/${name}`)?.["status"] as Record<string, unknown> | undefined;
  return { directory, kubeconfig, driver, memory, attachment, status };
};

const attaching = (...argv: readonly string[]) => {
  const asked = whatFlagsAsk(Result.getOrThrow(parseAttacherFlags(argv)), attacherRoles, String);
  if ("text" in asked) throw new Error("it runs");
  const fiber = Effect.runFork(Effect.scoped(asked.run).pipe(Effect.provide(Logger.layer([]))));
  const stop = () => Effect.runPromise(Fiber.interrupt(fiber));
  ends.push(stop);
  return stop;
};

describe("the attacher beside a driver", () => {
  test("It waits for the driver, attaches by its calls, tells its metrics and health, and gives the lease back", async () => {
    const { kubeconfig, driver, memory, attachment, status } = world();
    const port = await freePort();
    const stop = attaching(
      `--csi-address=${driver.path}`,
      `--kubeconfig=${kubeconfig}`,
      "--leader-election",
      "--retry-interval-start=100ms",
      `--http-endpoint=127.0.0.1:${port}`,
      "--kube-api-qps=20",
    );
    attachment("va-1");
    await driver.start();
    await eventually(() => status("va-1")?.["attached"] === true, "the attachment is attached");
    expect(status("va-1")).toEqual({ attached: true, attachmentMetadata: { device: "of-h-va-1" } });
    const lease = () =>
      memory.get(
        `/apis/coordination.k8s.io/v1/namespaces/storage/leases/external-attacher-leader-test-csi-example-com`,
      );
    expect(lease()["spec"]).toMatchObject({ leaseDurationSeconds: 15 });
    const get = async (path: string) => (await fetch(`http://127.0.0.1:${port}${path}`)).text();
    const metrics = await get("/metrics");
    expect(metrics).toContain('workqueue_depth{name="csi-attacher-va"} 0');
    expect(metrics).toContain('leader_election_master_status{name="external-attacher-leader-test-csi-example-com"} 1');
    expect(metrics).toContain('method_name="/csi.v1.Controller/ControllerPublishVolume"');
    expect(await get("/healthz/leader-election")).toBe("ok");

    driver.around = () => new RpcError({ code: Code.INTERNAL, message: "no path" });
    attachment("va-2");
    await eventually(() => status("va-2")?.["attachError"] !== undefined, "the error is written");
    expect(status("va-2")?.["attachError"]).toMatchObject({
      errorCode: 13,
      message: "ControllerPublishVolume: INTERNAL: no path",
    });
    await driver.stop();
    driver.around = () => Effect.void;
    memory.remove(`${ATTACHMENTS}/va-1`);
    await eventually(() => status("va-1")?.["detachError"] !== undefined, "the driver is missed");
    await driver.start();
    await eventually(() => status("va-2")?.["attached"] === true, "the driver is back");
    await eventually(() => status("va-1") === undefined, "the detach has ended");

    await stop();
    expect(lease()["spec"]).toMatchObject({ holderIdentity: "" });
  }, 60_000);
});

test("The driver with --attacher attaches its own volumes by one write each, and asks nobody", async () => {
  const { directory, memory, attachment, status } = world();
  const argv = ["--type=rbd", "--nodeid=n", "--controllerserver", "--csi-addons-endpoint=", "--attacher"];
  const flags = Result.getOrThrow(parseFlags([...argv, `--endpoint=unix://${join(directory, "own.sock")}`]));
  const cluster = aCluster();
  const asked = whatFlagsAsk(flags, (given) => rolesOf(given, memoryWorld(cluster, given, { kube: memory })), String);
  if ("text" in asked) throw new Error("it runs");
  const fiber = Effect.runFork(Effect.scoped(asked.run).pipe(Effect.provide(Logger.layer([]))));
  ends.push(() => Effect.runPromise(Fiber.interrupt(fiber)));
  attachment("va-1", "rbd.csi.ceph.com");
  attachment("va-2", "other.csi.example.com");
  await eventually(() => status("va-1")?.["attached"] === true, "the attachment is attached");
  expect(memory.requests.filter((request) => request.startsWith("patch"))).toEqual([
    `patch ${ATTACHMENTS}/va-1/status`,
  ]);
  expect(status("va-2")).toEqual({ attached: false });
});

test("The driver with --attacher and --enable-fencing fences a lost node when its attachment is deleted", async () => {
  const { directory, memory, status } = world();
  const argv = ["--type=rbd", "--nodeid=n", "--controllerserver", "--csi-addons-endpoint=", "--attacher"];
  const endpoint = `--endpoint=unix://${join(directory, "own.sock")}`;
  const flags = Result.getOrThrow(parseFlags([...argv, endpoint, "--enable-fencing"]));
  const cluster = await withRecord();
  const asked = whatFlagsAsk(flags, (given) => rolesOf(given, memoryWorld(cluster, given, { kube: memory })), String);
  if ("text" in asked) throw new Error("it runs");
  const fiber = Effect.runFork(Effect.scoped(asked.run).pipe(Effect.provide(Logger.layer([]))));
  ends.push(() => Effect.runPromise(Fiber.interrupt(fiber)));
  const name = "rbd.csi.ceph.com";
  const secret = { name: "rbd", namespace: "ceph" };
  const data = { userID: btoa("admin"), userKey: btoa(MEMORY_KEY) };
  memory.create("/api/v1/namespaces/ceph/secrets", { metadata: secret, data });
  memory.create("/api/v1/nodes", aNodeObject("node-a"));
  memory.create(NODES, { metadata: { name: "node-a" }, spec: { drivers: [{ name, nodeID: "node-a" }] } });
  const csi = { driver: name, volumeHandle: VOLUME, controllerPublishSecretRef: secret };
  memory.create(VOLUMES, { metadata: { name: "pv" }, spec: { csi, accessModes: ["ReadWriteOnce"] } });
  const spec = { attacher: name, nodeName: "node-a", source: { persistentVolumeName: "pv" } };
  memory.create(ATTACHMENTS, { metadata: { name: "va" }, spec, status: { attached: false } });
  await eventually(() => status("va")?.["attached"] === true, "the attachment is attached");
  expect(listed(cluster)).toEqual([]);
  memory.merge("/api/v1/nodes/node-a", { spec: { taints: [TAINT] } });
  memory.remove(`${ATTACHMENTS}/va`);
  await eventually(() => memory.find(`${ATTACHMENTS}/va`) === undefined, "the attachment is gone");
  expect(listed(cluster)).toEqual([`client ${CLIENT}`]);
});

describe("the flags of external-attacher", () => {
  const parsed = (...argv: readonly string[]) => parseAttacherFlags(argv);
  const wrong = (...argv: readonly string[]) => Result.getOrThrow(Result.flip(parsed(...argv)));

  test("Those of 2.1 and of the newest are accepted, and what has no effect is named", () => {
    const flags = Result.getOrThrow(
      parsed(
        "--v=5",
        "--csi-address=/csi/csi.sock",
        "--leader-election=true",
        "--leader-election-namespace=x",
        "--timeout=60s",
        "--retry-interval-start=500ms",
        "--default-fstype=ext4",
        "--max-entries=50",
        "--worker-threads=100",
        "--kube-api-qps=5.5",
        "--kube-api-burst=10",
        "--max-grpc-log-length=-1",
        "--feature-gates=ReleaseLeaderElectionOnExit=true",
        "--automaxprocs",
        "--metrics-address=:8080",
      ),
    );
    expect(flags).toMatchObject({ csiAddress: "unix:///csi/csi.sock", workerThreads: 100, leaderElection: true });
    expect(flags.warnings).toEqual([]);
    expect(flags.withoutEffect.map((each) => each.split(" ")[0])).toEqual([
      "--kube-api-qps",
      "--kube-api-burst",
      "--max-grpc-log-length",
      "--feature-gates",
      "--automaxprocs",
    ]);
  });

  test("Values that contradict each other are refused in one line that says what to write", () => {
    expect(wrong("--worker-threads=0")).toContain("write a whole number from 1 to");
    const addresses = wrong("--http-endpoint=:1", "--metrics-address=:2");
    expect(addresses).toContain("--http-endpoint and --metrics-address exclude each other");
    expect(wrong("--leader-election", "--leader-election-renew-deadline=20s")).toContain("must be shorter than");
    expect(wrong("--leader-election", "--leader-election-retry-period=9s")).toContain("1.2 times");
  });
});
