/** What a process makes of roles: their layers, sockets and work, in which order, and when it ends. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as Console from "effect/Console";
import * as Context from "effect/Context";
import * as Effect from "effect/Effect";
import * as Exit from "effect/Exit";
import * as Fiber from "effect/Fiber";
import * as Layer from "effect/Layer";
import * as Result from "effect/Result";
import { parseFlags } from "../../../lib/config/flags.ts";
import { Controller, Identity } from "../../../lib/gen/csi_pb.ts";
import { served } from "../../../lib/grpc/service.ts";
import { Code } from "../../../lib/grpc/status.ts";
import { compose } from "../../../lib/process/compose.ts";
import { type AnyRole, type RoleError, role } from "../../../lib/process/role.ts";
import { liveWorld } from "../../../lib/process/world.ts";
import { driverRoles } from "../../../services/driver.ts";
import { client } from "../../support/grpc-client.ts";
import { eventually, failure, temporaryDirectory } from "../../support/grpc-serving.ts";

class Clock extends Context.Service<Clock, { readonly now: Effect.Effect<string> }>()("test/Clock") {}

const directory = temporaryDirectory();
afterAll(() => rmSync(directory, { recursive: true }));
const path = join(directory, "csi.sock");
const secondPath = join(directory, "second.sock");
const flagsOf = (...more: readonly string[]) =>
  Result.getOrThrow(parseFlags(["--type=rbd", "--nodeid=n", `--endpoint=unix://${path}`, ...more]));

const run = (roles: readonly AnyRole[]) => Effect.runFork(Effect.scoped(compose(flagsOf(), roles)));

const built: string[] = [];
const noted = (name: string) =>
  Effect.acquireRelease(
    Effect.sync(() => void built.push(name)),
    () => Effect.sync(() => void built.push(`${name} ends`)),
  );
const shared = Layer.effect(
  Clock,
  Effect.as(noted("layer"), Clock.of({ now: Effect.sync(() => `${built.length} noted`) })),
);
afterEach(() => void built.splice(0));

const identity = role({
  name: "identity",
  layer: shared,
  serves: [
    served(Identity, {
      getPluginInfo: () => Effect.flatMap(Clock, ({ now }) => Effect.map(now, (name) => ({ name }))),
    }),
  ],
});

describe("run of roles", () => {
  test("Run builds a layer that two roles name once, and serves both on one socket", async () => {
    const other = role({ name: "other", layer: shared, serves: [served(Controller, {})] });
    const ready = role({ name: "ready", layer: Layer.empty, runs: noted("ready") });
    const fiber = run([identity, other, ready]);
    await eventually(() => built.includes("ready"), "both are served");
    const caller = client(Identity, path);
    expect((await caller.getPluginInfo({}, { timeoutMs: 2000 })).name).toBe("2 noted");
    caller.close();
    await Effect.runPromise(Fiber.interrupt(fiber));
    expect(built).toEqual(["layer", "ready", "ready ends", "layer ends"]);
  });

  test("Run starts a role's work when everything listens, and ends the work first", async () => {
    const worker = role({
      name: "worker",
      layer: shared,
      runs: Effect.gen(function* () {
        const caller = client(Identity, path);
        yield* Effect.promise(() => caller.getPluginInfo({}, { timeoutMs: 2000 }));
        caller.close();
        yield* noted("work");
        return yield* Effect.never;
      }).pipe(Effect.onInterrupt(() => Effect.sync(() => void built.push("work is interrupted")))),
    });
    const fiber = run([worker, identity]);
    await eventually(() => built.includes("work"), "the work runs");
    await Effect.runPromise(Fiber.interrupt(fiber));
    expect(built).toEqual(["layer", "work", "work is interrupted", "work ends", "layer ends"]);
  });

  test("A process answers as before when it has dropped its compiled code", async () => {
    const ready = role({ name: "ready", layer: Layer.empty, runs: noted("ready") });
    const fiber = run([identity, ready]);
    await eventually(() => built.includes("ready"), "it is served");
    const caller = client(Identity, path);
    const names: string[] = [];
    for (const _ of [1, 2]) {
      names.push((await caller.getPluginInfo({}, { timeoutMs: 5000 })).name);
      Bun.shrink();
      // it acts when no code of ours runs
      await new Promise((resolve) => setImmediate(resolve));
    }
    caller.close();
    await Effect.runPromise(Fiber.interrupt(fiber));
    expect(names).toEqual(["2 noted", "2 noted"]);
  });

  test("Run does what a role has to do first before it builds any layer", async () => {
    const first = role({ name: "first", layer: shared, first: Effect.sync(() => void built.push("first")) });
    const ready = role({ name: "ready", layer: Layer.empty, runs: Effect.asVoid(noted("ready")) });
    await Effect.runPromise(Fiber.await(run([ready, first])));
    expect(built).toEqual(["first", "layer", "ready", "ready ends", "layer ends"]);
  });

  test("Run ends with the work where nothing is served", async () => {
    const command = role({ name: "command", layer: shared, runs: Effect.asVoid(noted("work")) });
    expect(await Effect.runPromise(Fiber.await(run([command])))).toEqual(Exit.void);
    expect(built).toEqual(["layer", "work", "work ends", "layer ends"]);
  });

  test("Run stops all sockets at once: while one waits for its last call, no other takes a new one", async () => {
    const [calls, answer] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const held = Effect.promise(() => {
      calls.resolve();
      return answer.promise;
    });
    const slow = role({
      name: "slow",
      layer: Layer.empty,
      endpoint: `unix://${secondPath}`,
      serves: [served(Controller, { createVolume: () => Effect.as(held, { volume: { volumeId: "v" } }) })],
    });
    const ready = role({ name: "ready", layer: Layer.empty, runs: noted("ready") });
    const fiber = run([identity, slow, ready]);
    await eventually(() => built.includes("ready"), "both are served");
    const [caller, slowCaller] = [client(Identity, path), client(Controller, secondPath)];
    await caller.getPluginInfo({}, { timeoutMs: 2000 });
    const last = slowCaller.createVolume({}, { timeoutMs: 20_000 });
    await calls.promise;
    const end = Effect.runPromise(Fiber.interrupt(fiber));
    await eventually(() => !existsSync(path) && !existsSync(secondPath), "both sockets are gone");
    expect((await failure(caller.getPluginInfo({}, { timeoutMs: 2000 }))).code).toBe(Code.UNAVAILABLE);
    answer.resolve();
    expect((await last).volume?.volumeId).toBe("v");
    await end;
    caller.close();
    slowCaller.close();
  });

  test("Run goes without a spare socket that it cannot serve, and warns", async () => {
    const endpoint = `unix://${join(directory, "no-folder", "spare.sock")}`;
    const spare = role({
      name: "spare",
      layer: Layer.empty,
      endpoint,
      spareEndpoint: true,
      serves: [served(Controller, {})],
    });
    const needed = role({ name: "needed", layer: Layer.empty, endpoint, serves: [served(Controller, {})] });
    const lines: string[] = [];
    const recorder = { ...globalThis.console, error: (line: unknown) => void lines.push(String(line)) };
    const ready = role({ name: "ready", layer: Layer.empty, runs: noted("ready") });
    const going = Effect.scoped(compose(flagsOf(), [identity, spare, ready]));
    const fiber = Effect.runFork(Effect.provideService(going, Console.Console, recorder));
    await eventually(() => built.includes("ready"), "the rest is served");
    await Effect.runPromise(Fiber.interrupt(fiber));
    const why = `directory ${join(directory, "no-folder")} of the socket does not exist; create it first`;
    expect(lines.join("\n")).toContain(`not served: spare, because of this: ${why}`);
    expect(await Effect.runPromise(Effect.flip(Fiber.join(run([needed]))))).toMatchObject({ message: why });
  });

  test("Run fails when a role's work fails, although another role is served", async () => {
    const error: RoleError = { message: "no more work" };
    const broken = role({ name: "broken", layer: Layer.empty, runs: Effect.fail(error) });
    expect(await Effect.runPromise(Effect.flip(Fiber.join(run([identity, broken]))))).toBe(error);
  });

  test("The compiler refuses a role whose layer lacks what the role asks for", () => {
    // @ts-expect-error -- the layer does not have the Clock that the service asks for
    const lacking = role({ name: "lacking", layer: Layer.empty, serves: identity.serves });
    expect(lacking.name).toBe("lacking");
  });
});

const CONTROLLER = ["identity", "controller", "group controller", "snapshot metadata"];
const ADD_ONS = {
  both: ["CSI-Addons", "fences of networks"],
  controller: ["space of the controller"],
  node: ["space of the node", "key rotation"],
};

describe("the driver's roles", () => {
  test.each([
    [["--controllerserver"], [...CONTROLLER, ...ADD_ONS.both, ...ADD_ONS.controller]],
    [["--nodeserver"], ["identity", "node", ...ADD_ONS.both, ...ADD_ONS.node]],
    [
      ["--nodeserver", "--csi-addons-endpoint="],
      ["identity", "node"],
    ],
    [[], [...CONTROLLER, "node", ...ADD_ONS.both, ...ADD_ONS.controller, ...ADD_ONS.node]],
    [
      ["--nodeserver", "--kubelet-registration-path=/var/lib/kubelet/plugins/d/csi.sock", "--health-port=9808"],
      ["identity", "node", ...ADD_ONS.both, ...ADD_ONS.node, "health", "registrar"],
    ],
  ])("The roles for the flags %p are %p", (flags, names) => {
    const parsed = flagsOf(...flags);
    expect(driverRoles(parsed, liveWorld(parsed)).map(({ name }) => name)).toEqual(names);
  });
});
