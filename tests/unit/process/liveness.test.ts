/** `--type=liveness` beside a driver that lives, hangs, is away or comes back; and `--type=controller` without a Kubernetes. */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Result from "effect/Result";
import { parseFlags } from "../../../lib/config/flags.ts";
import { Identity } from "../../../lib/gen/csi_pb.ts";
import { serve } from "../../../lib/grpc/server.ts";
import { served } from "../../../lib/grpc/service.ts";
import { RpcError } from "../../../lib/grpc/status.ts";
import { whatFlagsAsk } from "../../../lib/process/command-line.ts";
import { livenessRole } from "../../../services/liveness.ts";
import { rolesOf } from "../../../services/main.ts";
import { runProcess, startController, startProcess } from "../../support/driver-process.ts";
import { client } from "../../support/grpc-client.ts";
import { eventually, temporaryDirectory } from "../../support/grpc-serving.ts";
import { freePort } from "../../support/http-client.ts";
import { virtualTime } from "../../support/virtual-time.ts";

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const aSocket = (): string => {
  const directory = temporaryDirectory();
  ends.push(() => rmSync(directory, { recursive: true }));
  return join(directory, "csi.sock");
};

/** The text of the metrics, once the gauge has this value. */
const gaugeAt = async (port: number, path: string, value: 0 | 1): Promise<string> => {
  for (;;) {
    const text = await fetch(`http://127.0.0.1:${port}${path}`).then(
      (response) => response.text(),
      () => "",
    );
    if (text.includes(`\ncsi_liveness ${value}\n`)) return text;
    await Bun.sleep(5);
  }
};

/** Probes that socket in this process. */
const probing = async (path: string, ...more: readonly string[]) => {
  const port = await freePort();
  const argv = [
    "--type=liveness",
    `--endpoint=unix://${path}`,
    `--metricsport=${port}`,
    "--metricspath=/live",
    ...more,
  ];
  const asked = whatFlagsAsk(Result.getOrThrow(parseFlags(argv)), rolesOf, String);
  if ("text" in asked) throw new Error("it runs");
  const fiber = Effect.runFork(Effect.scoped(asked.run));
  ends.push(() => Effect.runPromise(Fiber.interrupt(fiber)));
  return (value: 0 | 1) => gaugeAt(port, "/live", value);
};

/** An Identity at the socket whose Probe answers so. */
const answering = async (path: string, probe: Effect.Effect<{ ready?: boolean }, RpcError>) => {
  const services = [served(Identity, { probe: () => probe })];
  const moments = Effect.sync(() => ({ drainBy: Date.now(), closeBy: Date.now() }));
  const running = Effect.andThen(serve({ endpoint: path, services, stop: moments }), Effect.never);
  const fiber = Effect.runFork(Effect.scoped(running));
  ends.push(() => Effect.runPromise(Fiber.interrupt(fiber)));
  await eventually(() => existsSync(path), "it listens");
  return () => Effect.runPromise(Fiber.interrupt(fiber));
};

describe("the liveness probe", () => {
  test("The gauge is 1 while the driver answers, 0 while it is away, and 1 again when it is back", async () => {
    const path = aSocket();
    const gauge = await probing(path, "--polltime=20ms");
    await gauge(0);
    const stop = await answering(path, Effect.succeed({ ready: true }));
    const text = await gauge(1);
    expect(text).toContain("# TYPE csi_liveness gauge\n");
    await stop();
    await gauge(0);
    await answering(path, Effect.succeed({}));
    await gauge(1);
  });

  test.each<[string, Effect.Effect<{ ready?: boolean }, RpcError>]>([
    ["is not ready", Effect.succeed({ ready: false })],
    ["fails", Effect.fail(new RpcError({ code: 13, message: "broken" }))],
    ["hangs past --timeout", Effect.never],
  ])("The gauge falls to 0 when Probe %s", async (_, answer) => {
    const path = aSocket();
    let probes = 0;
    let now: typeof answer = Effect.succeed({ ready: true });
    await answering(
      path,
      Effect.suspend(() => ((probes += 1), now)),
    );
    const gauge = await probing(path, "--polltime=20ms", "--timeout=100ms");
    await gauge(1);
    now = answer;
    await gauge(0);
    const before = probes;
    await eventually(() => probes > before + 1, "it goes on to probe");
  });

  test("A probe comes after each interval, and none before the first one is over", async () => {
    const path = aSocket();
    let probes = 0;
    await answering(
      path,
      Effect.sync(() => ((probes += 1), { ready: true })),
    );
    const time = virtualTime();
    const flags = Result.getOrThrow(parseFlags(["--type=liveness", `--endpoint=unix://${path}`, "--polltime=1m"]));
    const work = Effect.scoped(livenessRole(flags).runs ?? Effect.void);
    const fiber = Effect.runFork(Effect.provide(work, time.layer));
    ends.push(() => Effect.runPromise(Fiber.interrupt(fiber)));
    await time.pass("59 seconds");
    expect(probes).toBe(0);
    await time.pass("1 second");
    await eventually(() => probes === 1, "the first probe");
  });
});

describe("the processes of ceph-csi's other containers", () => {
  test("The probe leaves the driver's socket to the driver, and ends with code 0 on SIGTERM", async () => {
    const path = aSocket();
    const driver = await startController(path);
    ends.push(() => driver.kill("SIGKILL"));
    const port = await freePort();
    const flags = ["--type=liveness", `--endpoint=unix://${path}`, `--metricsport=${port}`, "--polltime=100ms"];
    const child = startProcess(flags);
    ends.push(() => child.kill("SIGKILL"));
    await gaugeAt(port, "/metrics", 1);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    const identity = client(Identity, path);
    ends.push(identity.close);
    expect((await identity.probe({}, { timeoutMs: 5000 })).ready).toBe(true);
  }, 120_000);

  test("--type=controller makes no socket, and ends with a line that names the flag where it reaches no Kubernetes", async () => {
    const path = aSocket();
    const flags = ["--type=controller", "--drivername=d.example.com", `--endpoint=unix://${path}`];
    const { stderr, code } = await runProcess(flags, { environment: { KUBERNETES_SERVICE_HOST: "" } });
    expect(code).toBe(1);
    expect(stderr.trim().split("\n").at(-1)).toContain(
      "this process does not run in a pod: name a file with --kubeconfig",
    );
    expect(existsSync(path)).toBe(false);
  }, 120_000);

  test("A probe whose port is taken ends with one line that says so", async () => {
    const taken = Bun.serve({ port: 0, hostname: "0.0.0.0", fetch: () => new Response() });
    ends.push(() => taken.stop(true));
    const { stderr, code } = await runProcess(["--type=liveness", `--metricsport=${taken.port}`]);
    expect(code).toBe(1);
    expect(stderr.trim().split("\n").at(-1)).toContain(`--metricsport: cannot listen on 0.0.0.0:${taken.port}`);
  }, 120_000);
});
