/**
 * `Host` over this machine: each method is one call in a host cell (./cell.ts), with its limit.
 *
 * Not here: the calls (./mapper, ./block.ts, ./paths.ts).
 *
 * 1. Calls that touch no mounted device (sysfs, /proc, folders) have cells of their own, and so have those that look
 *    into a mounted filesystem. So a device that never answers cannot use up the cells that the others need.
 * 2. While a call of an operation hangs, further changes for the same subject fail at once: see lib/cells/pool.ts 3.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import { CallSubject } from "../cells/call-subject.ts";
import type { CellDown, CellError } from "../cells/errors.ts";
import { type CellPool, makeCellPool } from "../cells/pool.ts";
import { cellUrl } from "../cells/where.ts";
import type { HostOperations } from "./cell.ts";
import {
  DeviceBusy,
  FilesystemDamaged,
  type HostError,
  HostFailed,
  HostRefused,
  HostStuck,
  HostUnexplained,
  MapRefused,
  MapTimedOut,
  PathInTheWay,
  UnexpectedContent,
} from "./errors.ts";
import { Host, type HostService } from "./host.ts";
import { imageSpec, type MappedDevice } from "./mapped-device.ts";
import type { MapAnswer } from "./mapper/mapper.ts";
import { parseMountInfo } from "./mountinfo.ts";
import type { PathAnswer } from "./paths.ts";

export interface HostOptions {
  /** Cells for changes. Those that only look come on top. */
  readonly cells: number;
}

export const hostLayerLive = ({ cells }: HostOptions): Layer.Layer<Host, CellDown> =>
  Layer.effect(
    Host,
    Effect.gen(function* () {
      const url = cellUrl("lib/host/cell.ts");
      // one cell is enough to know that they start; the others cost a node that rests 2 MiB each
      const pools: Pools = {
        look: yield* makeCellPool({ name: "host-look", url, size: 2, advice: ADVICE }),
        peer: yield* makeCellPool({ name: "host-stat", url, size: 2, maxAside: 64, kept: 0, advice: ADVICE }),
        change: yield* makeCellPool({ name: "host", url, size: cells, maxAside: 64, kept: 0, advice: ADVICE }),
      };
      yield* pools.look.call("sweepKeys", undefined, { limit: LIMIT.look, subject: "key files" }).pipe(Effect.ignore);
      return Host.of(hostService(pools));
    }),
  );

interface Pools {
  readonly look: CellPool;
  readonly peer: CellPool;
  readonly change: CellPool;
}

/**
 * Longer than any of these calls takes on a machine that works, and shorter than the two minutes that kubelet waits. A
 * call that passes its limit continues in the background and frees its cell, so hung mounts do not hold up the others.
 */
const LIMIT = {
  look: Duration.seconds(10),
  peer: Duration.seconds(5),
  path: Duration.seconds(20),
  mount: Duration.seconds(40),
  tool: Duration.seconds(100),
  map: Duration.seconds(150),
} as const;

/** For messages about calls that hang. */
const ADVICE = 'Check "ceph -s" and the log of the kernel ("dmesg").';

type Op = keyof HostOperations;
type Answer<K extends Op> = Awaited<ReturnType<HostOperations[K]>>;

/** A failed call as an error. A call that only reads leaves nothing behind, however it fails. */
export const failed =
  (op: string, subject: string, does: "reads" | "changes") =>
  (error: CellError): HostError => {
    const changes = does === "changes";
    if (error._tag === "CellStuck" || (error._tag === "CellDown" && !error.ran)) {
      return new HostStuck({ op, subject, reason: error.message });
    }
    const midway = error._tag === "CellDown" || error.midway;
    if (changes && midway) return new HostUnexplained({ op, subject, reason: error.message });
    return new HostFailed({ op, subject, errno: error._tag === "CellDown" ? 0 : error.errno, reason: error.message });
  };

const hostService = (pools: Pools): HostService => {
  /** A read that no device can hold up. */
  const look = <K extends Op>(op: K, arg: unknown, subject: string, limit: Duration.Duration = LIMIT.look) =>
    Effect.mapError(pools.look.call<Answer<K>>(op, arg, { limit, subject }), failed(op, subject, "reads"));
  /** A look into a filesystem that may not answer. While one look hangs, no other follows it. */
  const peer = <K extends Op>(op: K, arg: unknown, subject: string) =>
    Effect.mapError(
      pools.peer.call<Answer<K>>(op, arg, { limit: LIMIT.peer, subject, key: subject }),
      failed(op, subject, "reads"),
    );
  const change = <K extends Op>(
    op: K,
    arg: unknown,
    subject: string,
    limit: Duration.Duration,
    does: "reads" | "changes" = "changes",
  ) =>
    Effect.flatMap(CallSubject, (madeFor) =>
      Effect.mapError(
        pools.change.call<Answer<K>>(op, arg, { limit, subject, key: madeFor ?? subject }),
        failed(op, subject, does),
      ),
    );
  const path = (op: "makeDirectory" | "makeFile" | "removePath", at: string): Effect.Effect<boolean, HostError> =>
    Effect.flatMap(change(op, at, at, LIMIT.path), (answer: PathAnswer) =>
      answer.kind === "done"
        ? Effect.succeed(answer.made)
        : Effect.fail(new PathInTheWay({ op, subject: at, reason: answer.reason })),
    );

  return {
    mapperFeatures: (mapper) => look("mapperFeatures", mapper, `image features of ${mapper}`, LIMIT.tool),
    mappedDevices: look("mappedDevices", undefined, "mapped devices"),

    map: ({ key, ...request }) =>
      Effect.flatMap(
        change("map", { ...request, key: Redacted.value(key) }, `image ${imageSpec(request)}`, LIMIT.map),
        (answer: MapAnswer): Effect.Effect<MappedDevice, HostError> => {
          const about = { op: "map", subject: `image ${imageSpec(request)}` };
          switch (answer.kind) {
            case "mapped":
              return Effect.succeed(answer.device);
            case "refused":
              return Effect.fail(new MapRefused({ ...about, errno: answer.errno, reason: answer.reason }));
            case "failed":
              return Effect.fail(new HostFailed({ ...about, errno: answer.errno, reason: answer.reason }));
            case "unknown":
              return Effect.fail(new MapTimedOut({ ...about, reason: answer.reason }));
          }
        },
      ),
    unmap: (device, options) =>
      Effect.flatMap(change("unmap", { device, options }, device.path, LIMIT.mount), (answer) =>
        answer.kind === "unmapped"
          ? Effect.void
          : Effect.fail(new DeviceBusy({ op: "unmap", subject: device.path, holders: answer.holders })),
      ),

    probe: (device) => change("probe", device, device, LIMIT.tool, "reads"),
    mkfs: (request) =>
      Effect.flatMap(change("mkfs", request, request.device, LIMIT.tool), (answer): Effect.Effect<void, HostError> => {
        const about = { op: `mkfs.${request.type}`, subject: request.device };
        switch (answer.kind) {
          case "made":
            return Effect.void;
          case "refused":
            return Effect.fail(new HostRefused({ ...about, reason: answer.reason }));
          case "not-blank":
            return Effect.fail(new UnexpectedContent({ ...about, reason: `it holds ${answer.found} by now` }));
        }
      }),
    fsck: (request) =>
      Effect.flatMap(change("fsck", request, request.device, LIMIT.tool), (answer) =>
        answer.damaged
          ? Effect.fail(
              new FilesystemDamaged({
                op: "fsck",
                subject: request.device,
                reason: `map the image on one node, run "fsck.${request.type} -y" on the device, unmap it, then retry. fsck says: ${answer.output}`,
              }),
            )
          : Effect.succeed(answer.output),
      ),
    growFilesystem: (filesystem, point) =>
      change("growFilesystem", { ...filesystem, point }, filesystem.device, LIMIT.tool),
    deviceState: (device) => look("deviceState", device, device),
    setReadOnly: (device, readOnly) => change("setReadOnly", { device, readOnly }, device, LIMIT.path),

    mountTable: Effect.flatMap(look("mountInfo", undefined, "/proc/self/mountinfo"), (text) =>
      Effect.try({
        try: () => parseMountInfo(text),
        catch: (error) =>
          new HostFailed({
            op: "read",
            subject: "/proc/self/mountinfo",
            errno: 0,
            reason: error instanceof Error ? error.message : String(error),
          }),
      }),
    ),
    resolvePath: (at) => look("resolvePath", at, at),
    mount: (request) =>
      Effect.flatMap(change("mount", request, request.target, LIMIT.mount), (answer) =>
        answer.kind === "mounted"
          ? Effect.void
          : Effect.fail(new HostRefused({ op: "mount", subject: request.target, reason: answer.reason })),
      ),
    unmount: (point) => change("unmount", point, point, LIMIT.mount),
    pathKind: (at) => look("pathKind", at, at),
    makeDirectory: (at) => path("makeDirectory", at),
    makeFile: (at) => path("makeFile", at),
    removePath: (at) => Effect.asVoid(path("removePath", at)),
    usage: (point) => peer("usage", point, point),

    readText: (at) => look("readText", at, at),
    writeText: (at, text) => change("writeText", { path: at, text }, at, LIMIT.path),
    removeText: (at) => change("removeText", at, at, LIMIT.path),
  };
};
