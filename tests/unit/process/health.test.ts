/** `/healthz`: of a driver that lives, hangs, is away or is busy; in the driver's own process, and beside it. */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, rmSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { parseFlags } from "../../../lib/config/flags.ts";
import { type LivenessprobeFlags, parseLivenessprobeFlags } from "../../../lib/config/livenessprobe-flags.ts";
import { Controller, Identity } from "../../../lib/gen/csi_pb.ts";
import { serve } from "../../../lib/grpc/server.ts";
import { served } from "../../../lib/grpc/service.ts";
import { RpcError } from "../../../lib/grpc/status.ts";
import { compose } from "../../../lib/process/compose.ts";
import { role } from "../../../lib/process/role.ts";
import { healthRoute } from "../../../lib/telemetry/http.ts";
import { makeMetrics, Metrics } from "../../../lib/telemetry/metrics.ts";
import { healthRole, livenessprobeRoles } from "../../../services/health.ts";
import { runProcess, startController, startProcess } from "../../support/driver-process.ts";
import { client } from "../../support/grpc-client.ts";
import { eventually, temporaryDirectory } from "../../support/grpc-serving.ts";
import { answered, answerOf, freePort } from "../../support/http-client.ts";
import { creation } from "../../support/world.ts";

const LIMIT = 120_000;
const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const aSocket = (): string => {
  const directory = temporaryDirectory();
  ends.push(() => rmSync(directory, { recursive: true }));
  return join(directory, "csi.sock");
};

const running = (main: Effect.Effect<unknown, unknown>) => {
  const fiber = Effect.runFork(main);
  const end = () => Effect.runPromise(Fiber.interrupt(fiber));
  ends.push(end);
  return end;
};

type Probe = Effect.Effect<{ ready?: boolean }, RpcError>;

const identityOf = (probe: Probe) =>
  served(Identity, { probe: () => probe, getPluginInfo: () => Effect.succeed({ name: "d.example.com" }) });

/** A driver at the socket whose Probe answers so. */
const aDriver = async (path: string, probe: Probe) => {
  const moments = Effect.sync(() => ({ drainBy: Date.now(), closeBy: Date.now() }));
  const server = serve({ endpoint: path, services: [identityOf(probe)], stop: moments });
  const end = running(Effect.scoped(Effect.andThen(server, Effect.never)));
  await eventually(() => existsSync(path), "it listens");
  return end;
};

/** With metrics of its own, as a process has them. */
const composed = (flags: LivenessprobeFlags) =>
  Effect.provideService(Effect.scoped(compose(flags, livenessprobeRoles(flags))), Metrics, makeMetrics());

/** `csi-rbd livenessprobe` beside it, in this process. */
const aProbe = async (path: string, ...more: readonly string[]): Promise<number> => {
  const port = await freePort();
  const argv = [`--csi-address=${path}`, `--http-endpoint=127.0.0.1:${port}`, ...more];
  const flags = Result.getOrThrow(parseLivenessprobeFlags(argv));
  running(composed(flags));
  return port;
};

describe("the probe beside a driver", () => {
  test(
    "It is ok while the driver answers, an error that says why while it is away, and ok again when it is back",
    async () => {
      const path = aSocket();
      const port = await aProbe(path);
      expect(await answered(port, "/healthz", 500)).toContain(`connect ENOENT ${path}`);
      const end = await aDriver(path, Effect.succeed({ ready: true }));
      expect(await answered(port, "/healthz", 200)).toBe("ok");
      await end();
      await answered(port, "/healthz", 500);
      await aDriver(path, Effect.succeed({}));
      await answered(port, "/healthz", 200);
    },
    LIMIT,
  );

  test.each<[string, Probe, string]>([
    ["is not ready", Effect.succeed({ ready: false }), "the driver says that it is not ready"],
    ["fails", Effect.fail(new RpcError({ code: 13, message: "broken" })), "INTERNAL: broken"],
    ["takes longer than --probe-timeout", Effect.never, "DEADLINE_EXCEEDED"],
  ])(
    "It is an error when Probe %s",
    async (_, probe, text) => {
      const path = aSocket();
      await aDriver(path, probe);
      const port = await aProbe(path, "--probe-timeout=200ms");
      expect(await answered(port, "/healthz", 500)).toContain(text);
    },
    LIMIT,
  );

  test(
    "It tells the metrics of its calls, by the driver's name, the method and Go's name of the code",
    async () => {
      const path = aSocket();
      let answer: Probe = Effect.succeed({});
      await aDriver(
        path,
        Effect.suspend(() => answer),
      );
      const port = await aProbe(path);
      await answered(port, "/healthz", 200);
      answer = Effect.fail(new RpcError({ code: 14, message: "later" }));
      await answered(port, "/healthz", 500);
      const counted = (method: string, code: string) =>
        `csi_sidecar_operations_seconds_count{driver_name="d.example.com",method_name="/csi.v1.Identity/${method}",grpc_status_code="${code}"} 1`;
      const text = await answered(port, "/metrics", 200);
      expect(text).toContain(counted("Probe", "OK"));
      expect(text).toContain(counted("Probe", "Unavailable"));
    },
    LIMIT,
  );

  test(
    "With --metrics-address metrics are there, and only there",
    async () => {
      const path = aSocket();
      await aDriver(path, Effect.succeed({}));
      const [health, metrics] = [await freePort(), await freePort()];
      const argv = [`--csi-address=${path}`, `--health-port=${health}`, `--metrics-address=127.0.0.1:${metrics}`];
      const flags = Result.getOrThrow(parseLivenessprobeFlags([...argv, "--metrics-path=/figures"]));
      running(composed(flags));
      await answered(health, "/healthz", 200);
      expect(await answered(metrics, "/figures", 200)).toContain("csi_sidecar_operations_seconds");
      expect((await answerOf(metrics, "/healthz"))?.status).toBe(404);
      expect((await answerOf(health, "/figures"))?.status).toBe(404);
    },
    LIMIT,
  );

  test.each([
    [["--http-endpoint=:1", "--health-port=9809"], "--http-endpoint and --health-port exclude each other"],
    [["--http-endpoint=:1", "--metrics-address=:2"], "--http-endpoint and --metrics-address exclude each other"],
    [["--http-endpoint=nowhere"], "write host:port, or :port for all addresses"],
    [["--probe-timeout=0"], "write a duration above 0"],
    [["now"], "unexpected argument"],
  ])("The flags %p are refused", (argv, text) => {
    const failure = Result.match(parseLivenessprobeFlags(argv), { onSuccess: () => "", onFailure: String });
    expect(failure).toContain(text);
  });

  test("Without flags it serves at port 9808 of all addresses, and asks /run/csi/socket for up to 3 s", () => {
    const flags = Result.getOrThrow(parseLivenessprobeFlags([]));
    expect(flags).toMatchObject({ healthPort: 9808, csiAddress: "unix:///run/csi/socket", enableProfiling: false });
    expect(Duration.toSeconds(flags.healthTimeout)).toBe(3);
  });
});

describe("the check in the driver's own process", () => {
  test(
    "It is an error once the socket is removed, because kubelet no longer reaches the driver",
    async () => {
      const path = aSocket();
      const port = await freePort();
      const argv = ["--type=rbd", "--nodeid=n", `--endpoint=unix://${path}`, `--http-endpoint=127.0.0.1:${port}`];
      const flags = Result.getOrThrow(parseFlags(argv));
      const identity = role({ name: "identity", layer: Layer.empty, serves: [identityOf(Effect.succeed({}))] });
      running(Effect.scoped(compose(flags, [identity, healthRole(flags)])));
      await answered(port, "/healthz", 200);
      unlinkSync(path);
      await answered(port, "/healthz", 500);
    },
    LIMIT,
  );

  test("Who asks while a check runs gets its answer, and starts no other one", async () => {
    let checks = 0;
    const waiting: ((wrong: string | undefined) => void)[] = [];
    const check = Effect.callback<string | undefined>((resume) => {
      checks += 1;
      waiting.push((wrong) => resume(Effect.succeed(wrong)));
    });
    const route = healthRoute(check);
    const both = Promise.all([route(), route()]);
    waiting.shift()?.("broken");
    const [first, second] = await both;
    expect([checks, first.status, second.status, await first.text(), await second.text()]).toEqual([
      1,
      500,
      500,
      "broken\n",
      "broken\n",
    ]);
    const again = route();
    waiting.shift()?.(undefined);
    expect([(await again).status, checks]).toEqual([200, 2]);
  });

  test(
    "The driver is healthy while an operation hangs",
    async () => {
      const path = aSocket();
      const port = await freePort();
      const driver = await startController(path, [`--http-endpoint=127.0.0.1:${port}`], {
        entry: join(import.meta.dir, "stuck-driver.ts"),
      });
      ends.push(() => driver.kill("SIGKILL"));
      const controller = client(Controller, path);
      ends.push(controller.close);
      const hanging = controller.createVolume(creation(), { timeoutMs: 60_000 });
      hanging.catch(() => undefined);
      const said = driver.stdout.getReader();
      expect(new TextDecoder().decode((await said.read()).value)).toBe("stuck\n");
      expect(await answered(port, "/healthz", 200)).toBe("ok");
    },
    LIMIT,
  );

  test(
    "A driver whose event loop is stuck is an error for the probe beside it, and ok when it goes on",
    async () => {
      const path = aSocket();
      const driver = await startController(path);
      ends.push(() => driver.kill("SIGKILL"));
      const port = await freePort();
      const probe = startProcess([
        "livenessprobe",
        `--csi-address=${path}`,
        `--health-port=${port}`,
        "--probe-timeout=500ms",
      ]);
      ends.push(() => probe.kill("SIGKILL"));
      await answered(port, "/healthz", 200);
      driver.kill("SIGSTOP");
      expect(await answered(port, "/healthz", 500)).toContain("DEADLINE_EXCEEDED");
      driver.kill("SIGCONT");
      await answered(port, "/healthz", 200);
      probe.kill("SIGTERM");
      expect(await probe.exited).toBe(0);
    },
    LIMIT,
  );

  test(
    "A port that is taken ends the start with one line that names the flag",
    async () => {
      const taken = Bun.serve({ port: 0, hostname: "0.0.0.0", fetch: () => new Response() });
      ends.push(() => taken.stop(true));
      const { stderr, code } = await runProcess(["livenessprobe", `--health-port=${taken.port}`]);
      expect(code).toBe(1);
      expect(stderr.trim().split("\n").at(-1)).toContain(`--health-port: cannot listen on 0.0.0.0:${taken.port}`);
    },
    LIMIT,
  );
});
