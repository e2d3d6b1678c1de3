/**
 * The driver: the services that the flags ask for, on one socket. `bun run start -- --type=rbd …` runs this file, and
 * so does the compiled executable.
 *
 * Not here: what a service does (the files beside this one).
 *
 * 1. `--controllerserver` and `--nodeserver` choose as in ceph-csi: one, both, or with neither given both.
 * 2. Nothing here talks to a cluster: a driver starts, and answers Probe, while its clusters are away.
 */
import * as Data from "effect/Data";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { type Flags } from "../lib/config/flags.ts";
import { Controller, Identity, Node } from "../lib/gen/csi_pb.ts";
import { serve } from "../lib/grpc/server.ts";
import { served } from "../lib/grpc/service.ts";
import { driverLayer, drainAtEnd, runService } from "../lib/platform.ts";
import { Purge } from "../lib/purge.ts";
import { controller } from "./controller.ts";
import { identity } from "./identity.ts";
import { node, nodeLayer, nodeOptions } from "./node.ts";

class NotServed extends Data.TaggedError("NotServed")<{ readonly message: string }> {}

const driver = (flags: Flags) =>
  Effect.gen(function* () {
    if (flags.type !== "rbd") {
      return yield* new NotServed({ message: `--type=${flags.type}: this release serves RBD only; write --type=rbd` });
    }
    const base = driverLayer(flags);
    const context = yield* Layer.build(
      Layer.mergeAll(Purge.layer, flags.nodeServer ? nodeLayer(flags) : Layer.empty).pipe(Layer.provideMerge(base)),
    );
    const services = [
      served(
        Identity,
        identity({ name: flags.driverName, controller: flags.controllerServer, ready: Effect.succeed(true) }),
      ),
      ...(flags.controllerServer ? [served(Controller, controller(flags))] : []),
      ...(flags.nodeServer ? [served(Node, node(nodeOptions(flags)))] : []),
    ];
    yield* Effect.gen(function* () {
      yield* drainAtEnd(flags);
      yield* serve({
        endpoint: flags.endpoint,
        services,
        graceSeconds: Duration.toSeconds(flags.gracePeriod),
        ...(flags.socketGroup && { group: flags.socketGroup }),
      });
    }).pipe(Effect.provideContext(context));
  });

if (import.meta.main) runService(process.argv.slice(2), driver);
