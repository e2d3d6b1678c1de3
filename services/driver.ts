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
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Flags } from "../lib/config/flags.ts";
import { Controller, GroupController, Identity, Node, SnapshotMetadata } from "../lib/gen/csi_pb.ts";
import { served } from "../lib/grpc/service.ts";
import { driverLayer, runService, serveAll } from "../lib/process/compose.ts";
import { volumeOptions } from "../lib/config/settings.ts";
import { controller, controllerLayer } from "./controller.ts";
import { groupController } from "./group-controller.ts";
import { identity } from "./identity.ts";
import { node, nodeLayer, nodeOptions } from "./node.ts";
import { snapshotMetadata } from "./snapshot-metadata.ts";

class NotServed extends Data.TaggedError("NotServed")<{ readonly message: string }> {}

const driver = (flags: Flags) =>
  Effect.gen(function* () {
    if (flags.type !== "rbd") {
      return yield* new NotServed({ message: `--type=${flags.type}: this release serves RBD only; write --type=rbd` });
    }
    const { driverName: name, controllerServer, nodeServer } = flags;
    const about = {
      name,
      controller: controllerServer,
      groupController: controllerServer,
      snapshotMetadata: controllerServer,
    };
    const who = served(Identity, identity({ ...about, accessibilityConstraints: true, ready: Effect.succeed(true) }));
    const forController = controllerLayer.pipe(Layer.provideMerge(driverLayer(flags)));
    const forBoth = nodeLayer(flags).pipe(Layer.provideMerge(forController));
    const forNode = nodeLayer(flags).pipe(Layer.provideMerge(driverLayer(flags)));
    const volumes = volumeOptions(flags);
    const controlling = [
      served(Controller, controller(volumes)),
      served(GroupController, groupController(volumes)),
      served(SnapshotMetadata, snapshotMetadata()),
    ];
    if (!nodeServer) return yield* serveAll(flags, forController, [who, ...controlling]);
    const atNode = served(Node, node(nodeOptions(flags)));
    if (!controllerServer) return yield* serveAll(flags, forNode, [who, atNode]);
    yield* serveAll(flags, forBoth, [who, ...controlling, atNode]);
  });

if (import.meta.main) runService(process.argv.slice(2), driver);
