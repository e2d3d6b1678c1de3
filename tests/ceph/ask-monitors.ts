/**
 * A process that asks the rig's cluster for its pool through each of the lists of monitors in its argument, first with the
 * right user and then with one that does not exist, and prints the tags of the answers as JSON. A process of its own can
 * have its own /etc/hosts (connect.test.ts).
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as ManagedRuntime from "effect/ManagedRuntime";
import * as Redacted from "effect/Redacted";
import * as z from "zod";
import { cephLayerLive } from "../../lib/ceph/live/live.ts";
import { Rados } from "../../lib/ceph/rados.ts";
import { rig } from "../rig/cluster.ts";

const cluster = rig();
const lists = z.array(z.array(z.string())).parse(JSON.parse(process.argv[2] ?? "[]"));

const ask = (monitors: readonly string[], user: string) =>
  Effect.flatMap(Rados, (rados) =>
    rados.poolId({ monitors, user, key: Redacted.make(cluster.key) }, cluster.pool).pipe(
      Effect.as("OK"),
      Effect.catch((error) => Effect.succeed(error._tag === "Unreachable" ? error.message : error._tag)),
    ),
  );

const main = async (): Promise<void> => {
  const layer = cephLayerLive({ cells: 1, connectTimeout: Duration.seconds(10), cephConf: "" });
  const runtime = ManagedRuntime.make(layer);
  const answers = Effect.forEach(lists, (monitors) =>
    Effect.all([ask(monitors, cluster.user), ask(monitors, "nobody")]),
  );
  console.log(JSON.stringify(await runtime.runPromise(answers)));
  await runtime.dispose();
  process.exit(0);
};

if (import.meta.main) void main();
