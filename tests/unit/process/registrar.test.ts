/** The registrar as a process: in the driver, which then is the node plugin in one container, and alone beside a driver. */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as Result from "effect/Result";
import { parseFlags } from "../../../lib/config/flags.ts";
import { parseRegistrarFlags } from "../../../lib/config/registrar-flags.ts";
import { runProcess, startProcess } from "../../support/driver-process.ts";
import { eventually, temporaryDirectory } from "../../support/grpc-serving.ts";
import { answered, freePort } from "../../support/http-client.ts";
import { KubeletWatcher } from "../../support/kubelet-watcher.ts";

const LIMIT = 120_000;
const NAME = "rbd.csi.ceph.com";
const HOST_PATH = `/var/lib/kubelet/plugins/${NAME}/csi.sock`;

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const aPlace = () => {
  const folder = temporaryDirectory();
  const own = temporaryDirectory();
  ends.push(
    () => rmSync(folder, { recursive: true }),
    () => rmSync(own, { recursive: true }),
  );
  const driver = join(own, "csi.sock");
  const kubelet = new KubeletWatcher({ folder, onHost: (path) => (path === HOST_PATH ? driver : path) });
  kubelet.start();
  ends.push(() => kubelet.stop());
  return { folder, driver, kubelet, socket: join(folder, `${NAME}-reg.sock`) };
};

type Place = ReturnType<typeof aPlace>;

const started = (argv: readonly string[]) => {
  const child = startProcess(argv);
  ends.push(() => child.kill("SIGKILL"));
  return child;
};

const nodeFlags = ({ driver }: Place): readonly string[] => [
  "--type=rbd",
  "--nodeid=node-1",
  "--nodeserver",
  `--endpoint=unix://${driver}`,
  "--csi-addons-endpoint=",
  "--cells=1",
  "--host-cells=1",
];

const registration = ({ folder }: Place): readonly string[] => [
  `--kubelet-registration-path=${HOST_PATH}`,
  `--plugin-registration-path=${folder}`,
];

/** Waits until kubelet has registered the driver for the n-th time, and told so. */
const registers = async ({ kubelet }: Place, times = 1): Promise<void> => {
  const done = () => kubelet.history.filter((line) => line === `registered ${NAME}`).length;
  await eventually(() => done() === times, "kubelet has registered the driver", 60);
  expect(kubelet.registered.get(NAME)?.nodeId).toBe("node-1");
};

describe("the node plugin in one process", () => {
  test(
    "It registers with kubelet, tells its health, and takes its sockets away at the end",
    async () => {
      const place = aPlace();
      const port = await freePort();
      const child = started([...nodeFlags(place), ...registration(place), `--http-endpoint=127.0.0.1:${port}`]);
      await registers(place);
      expect(await answered(port, "/healthz", 200)).toBe("ok");
      expect(await answered(port, "/healthz/registration", 200)).toBe("ok");
      child.kill("SIGTERM");
      expect(await child.exited).toBe(0);
      expect([existsSync(place.socket), existsSync(place.driver)]).toEqual([false, false]);
      await eventually(() => place.kubelet.registered.size === 0, "kubelet has forgotten the driver");
    },
    LIMIT,
  );

  test(
    "It registers again after it was killed and left its socket behind",
    async () => {
      const place = aPlace();
      const killed = started([...nodeFlags(place), ...registration(place)]);
      await registers(place);
      killed.kill("SIGKILL");
      await killed.exited;
      expect(existsSync(place.socket)).toBe(true);
      started([...nodeFlags(place), ...registration(place)]);
      await registers(place, 2);
      expect(place.kubelet.history).toEqual([`registered ${NAME}`, `forgot ${NAME}`, `registered ${NAME}`]);
    },
    LIMIT,
  );

  test(
    "A registration that kubelet refuses is told by the log and at a path of its own, and the driver stays healthy",
    async () => {
      const place = aPlace();
      place.kubelet.refuses = "no CSINode";
      const port = await freePort();
      started([...nodeFlags(place), ...registration(place), `--http-endpoint=127.0.0.1:${port}`]);
      await eventually(() => place.kubelet.history.length > 0, "kubelet has refused it", 60);
      expect(place.kubelet.history[0]).toBe(`refused ${NAME}: no CSINode`);
      expect(await answered(port, "/healthz/registration", 500)).toContain(`kubelet has not registered ${NAME}`);
      expect(await answered(port, "/healthz", 200)).toBe("ok");
    },
    LIMIT,
  );

  test("A driver without a node refuses to register one", () => {
    const argv = ["--type=rbd", "--nodeid=n", "--controllerserver", `--kubelet-registration-path=${HOST_PATH}`];
    expect(Result.match(parseFlags(argv), { onSuccess: () => "", onFailure: String })).toContain(
      "--kubelet-registration-path: kubelet registers nodes; write --nodeserver",
    );
  });
});

describe("the registrar alone", () => {
  test(
    "It registers the driver beside it, answers its health and a question from its command line, and ends on SIGTERM",
    async () => {
      const place = aPlace();
      const port = await freePort();
      const own = [`--csi-address=${place.driver}`, ...registration(place)];
      const child = started(["registrar", ...own, "--connection-timeout=0", `--http-endpoint=127.0.0.1:${port}`]);
      expect(await answered(port, "/healthz", 500)).toContain("cannot be registered yet");
      const question = ["registrar", ...own, "--mode=kubelet-registration-probe"];
      const unregistered = await runProcess(question);
      expect([unregistered.code, unregistered.stderr.trim().split("\n").at(-1)]).toEqual([
        1,
        `no registrar answers for ${HOST_PATH} in ${place.folder}: it has no registration socket`,
      ]);
      started(nodeFlags(place));
      await registers(place);
      expect(await answered(port, "/healthz", 200)).toBe("ok");
      expect(await answered(port, "/metrics", 200)).toContain("csi_rbd_registered 1");
      expect((await runProcess(question)).code).toBe(0);
      child.kill("SIGTERM");
      expect(await child.exited).toBe(0);
      expect(existsSync(place.socket)).toBe(false);
    },
    LIMIT,
  );

  test.each([
    [[], "--kubelet-registration-path is missing"],
    [["--kubelet-registration-path=plugins/csi.sock"], "write an absolute path of at most 107 bytes"],
    [[`--kubelet-registration-path=/${"x".repeat(107)}`], "write an absolute path of at most 107 bytes"],
    [[`--kubelet-registration-path=${HOST_PATH}`, "--health-port=1", "--http-endpoint=:2"], "exclude each other"],
  ])("The flags %p are refused", (argv, text) => {
    const failure = Result.match(parseRegistrarFlags(argv), { onSuccess: () => "", onFailure: String });
    expect(failure).toContain(text);
  });

  test("The flags of every release of node-driver-registrar are taken", () => {
    const argv = [
      "--v=5",
      "--csi-address=/csi/csi.sock",
      `-kubelet-registration-path=${HOST_PATH}`,
      "--connection-timeout=15s",
      "--timeout=10s",
      "--enable-pprof=false",
      "--automaxprocs",
      "--logging-format=json",
      "--log_file=x",
      "--mode=registration",
      "--health-port=9809",
    ];
    const flags = Result.getOrThrow(parseRegistrarFlags(argv));
    expect(flags).toMatchObject({
      csiAddress: "unix:///csi/csi.sock",
      kubeletRegistrationPath: HOST_PATH,
      pluginRegistrationPath: "/registration",
      healthPort: 9809,
      warnings: [],
    });
  });
});
