/** Calls on a connection that is kept: it outlives them, and none waits for a server on one that has failed. */
import { afterEach, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Result from "effect/Result";
import { Controller } from "../../../lib/gen/csi_pb.ts";
import { type KeptAsk, keptAsk } from "../../../lib/grpc/kept-ask.ts";
import { Code, RpcError } from "../../../lib/grpc/status.ts";
import { temporaryDirectory } from "../../support/grpc-serving.ts";
import { PublishingDriver } from "../../support/publishing-driver.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

const withAsk = async (
  work: (driver: PublishingDriver, publish: (volumeId: string) => Effect.Effect<string>) => Effect.Effect<void>,
) => {
  const folder = temporaryDirectory();
  folders.push(folder);
  const driver = new PublishingDriver("test.csi.example.com", join(folder, "csi.sock"));
  await driver.start();
  const publishBy = (ask: KeptAsk) => (volumeId: string) =>
    Effect.result(ask(Controller.method.controllerPublishVolume, { volumeId, nodeId: "n" }, Duration.seconds(30))).pipe(
      Effect.map(
        Result.match({
          onSuccess: () => "published",
          onFailure: (error) => ("code" in error ? String(error.code) : error.message),
        }),
      ),
    );
  const asking = Effect.flatMap(keptAsk(driver.path), (ask) => work(driver, publishBy(ask)));
  await Effect.runPromise(Effect.scoped(asking)).finally(() => driver.stop());
};

test("Calls at once on one connection each get their own answer, and an error of one is that of no other", () =>
  withAsk((driver, publish) =>
    Effect.gen(function* () {
      driver.around = (call) =>
        call.startsWith("publish bad ")
          ? new RpcError({ code: Code.NOT_FOUND, message: "no such volume" })
          : Effect.void;
      const answers = yield* Effect.forEach(["a", "bad", "b"], publish, { concurrency: "unbounded" });
      expect(answers).toEqual(["published", String(Code.NOT_FOUND), "published"]);
      expect(yield* publish("after")).toBe("published");
    }),
  ));

test("A server that is away fails a call at once, and the first call after it is back is answered", () =>
  withAsk((driver, publish) =>
    Effect.gen(function* () {
      expect(yield* publish("a")).toBe("published");
      yield* Effect.promise(() => driver.stop());
      for (const name of ["b", "c", "d"]) expect(yield* publish(name)).toBe(String(Code.UNAVAILABLE));
      yield* Effect.promise(() => driver.start());
      expect(yield* publish("e")).toBe("published");
      expect([...driver.published.keys()]).toEqual(["a", "e"]);
    }),
  ));

test("A call on a connection whose server was replaced in between is answered by the new one", () =>
  withAsk((driver, publish) =>
    Effect.gen(function* () {
      expect(yield* publish("a")).toBe("published");
      yield* Effect.promise(() => driver.stop());
      yield* Effect.promise(() => driver.start());
      expect(yield* publish("b")).toBe("published");
    }),
  ));

test("A server that says it is unavailable is asked once more, and then believed", () =>
  withAsk((driver, publish) =>
    Effect.gen(function* () {
      expect(yield* publish("a")).toBe("published");
      driver.around = () => new RpcError({ code: Code.UNAVAILABLE, message: "the storage is away" });
      expect(yield* publish("b")).toBe(String(Code.UNAVAILABLE));
      expect(driver.calls).toEqual(["publish a n", "publish b n", "publish b n"]);
      expect(yield* publish("c")).toBe(String(Code.UNAVAILABLE));
      expect(driver.calls.slice(3)).toEqual(["publish c n"]);
    }),
  ));
