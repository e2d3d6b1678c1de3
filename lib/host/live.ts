/**
 * `Host` over this machine: each method is one call in a host cell (./cell.ts), with its limit.
 *
 * Not here: the calls (./mapper, ./block.ts, ./crypt.ts, ./fscrypt.ts, ./paths.ts).
 *
 * 1. Calls that touch no mounted device (sysfs, /proc, folders) have cells of their own, and so have those that look
 *    into a mounted filesystem. So a device that never answers cannot use up the cells that the others need.
 * 2. Of cryptsetup, and of what fscrypt does with keys, two run at once at most, in cells of their own: each takes a processor, and the memory that the header
 *    asks for.
 * 3. What goes through all of a device does so in calls of seconds, two of which run at once at most, in cells of their own:
 *    no volume waits for that of another.
 * 4. A call that takes long holds up those of other volumes for its patience at most, not until its limit.
 * 5. While a call of an operation hangs, further changes for the same subject in cells of the same kind fail at once: see
 *    lib/cells/pool.ts 3. In those of another kind they run, so that a call that formats begins no further write once it is
 *    put aside, and no mapping ends while a tool has it open.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Redacted from "effect/Redacted";
import { CallSubject } from "../cells/call-subject.ts";
import type { CellDown, CellError } from "../cells/errors.ts";
import { type CellPool, makeCellPool, type PoolOptions } from "../cells/pool.ts";
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
import { cryptService } from "./live-crypt.ts";
import { Host, type HostService, type MapRequest } from "./host.ts";
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
      const pool = (name: string, size: number, patience: Duration.Duration, more: Partial<PoolOptions> = {}) =>
        makeCellPool({ name, url, size, patience, maxAside: 64, kept: 0, advice: ADVICE, ...more });
      const pools: Pools = {
        // one cell is enough to know that they start; the others cost a node that rests 2 MiB each
        look: yield* pool("host-look", 2, PATIENCE.look, { kept: 1, maxAside: 8 }),
        peer: yield* pool("host-stat", 2, PATIENCE.peer),
        change: yield* pool("host", cells, PATIENCE.change),
        crypt: yield* pool("host-crypt", 2, PATIENCE.crypt),
        wipe: yield* pool("host-wipe", 2, PATIENCE.crypt),
      };
      yield* pools.look.call("sweepKeys", undefined, { limit: LIMIT.look, subject: "key files" }).pipe(Effect.ignore);
      return Host.of(hostService(pools));
    }),
  );

interface Pools {
  readonly look: CellPool;
  readonly peer: CellPool;
  readonly change: CellPool;
  readonly crypt: CellPool;
  readonly wipe: CellPool;
}

/**
 * Longer than any of these calls takes on a machine that works, and shorter than the two minutes that kubelet waits. A
 * call that passes its limit continues in the background and frees its cell, so hung mounts do not hold up the others.
 */
const LIMIT = {
  look: Duration.seconds(10),
  /** Who asks how a volume is has an answer in two seconds. */
  peer: Duration.millis(1500),
  path: Duration.seconds(20),
  mount: Duration.seconds(40),
  tool: Duration.seconds(100),
  map: Duration.seconds(150),
  /** Deriving a key from a passphrase takes seconds of a processor, and many more where there is none to spare. */
  crypt: Duration.seconds(150),
} as const;

/** After that long a call no longer holds up those of other volumes: they get a further cell (lib/cells/pool.ts 5). */
const PATIENCE = {
  look: Duration.seconds(2),
  /** So that many that hang are told apart from those that work within the two seconds of LIMIT.peer. */
  peer: Duration.millis(150),
  change: Duration.seconds(5),
  /** A call that works for that long waits for its device, and takes no processor. */
  crypt: Duration.seconds(30),
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
    pool: CellPool = pools.change,
  ) =>
    Effect.flatMap(CallSubject, (madeFor) =>
      Effect.mapError(
        pool.call<Answer<K>>(op, arg, { limit, subject, madeFor, key: madeFor ?? subject }),
        failed(op, subject, does),
      ),
    );
  const path = (op: "makeDirectory" | "makeFile" | "removePath", at: string): Effect.Effect<boolean, HostError> =>
    Effect.flatMap(change(op, at, at, LIMIT.path), (answer: PathAnswer) =>
      answer.kind === "done"
        ? Effect.succeed(answer.made)
        : Effect.fail(new PathInTheWay({ op, subject: at, reason: answer.reason })),
    );

  const mapping = (op: "map" | "attach", { key, ...request }: MapRequest, more: object = {}) => {
    const about = { op, subject: `image ${imageSpec(request)}` };
    return Effect.flatMap(
      change(op, { ...request, ...more, key: Redacted.value(key) }, about.subject, LIMIT.map),
      (answer: MapAnswer): Effect.Effect<MappedDevice, HostError> => {
        switch (answer.kind) {
          case "mapped":
            return Effect.succeed(answer.device);
          case "refused":
            return Effect.fail(
              new MapRefused({ ...about, errno: answer.errno, reason: answer.reason, unfit: answer.unfit }),
            );
          case "failed":
            return Effect.fail(new HostFailed({ ...about, errno: answer.errno, reason: answer.reason }));
          case "unknown":
            return Effect.fail(new MapTimedOut({ ...about, reason: answer.reason }));
        }
      },
    );
  };

  return {
    mapperFeatures: (mapper) => look("mapperFeatures", mapper, `image features of ${mapper}`, LIMIT.tool),
    mappedDevices: look("mappedDevices", undefined, "mapped devices"),
    mappedClusters: look("mappedClusters", undefined, "mapped clusters"),

    map: (request) => mapping("map", request),
    attach: (device, request) => mapping("attach", request, { device }),
    detach: (device) => change("detach", device, device.path, LIMIT.mount),
    unmap: (device, options) =>
      Effect.flatMap(change("unmap", { device, options }, device.path, LIMIT.mount), (answer) =>
        answer.kind === "unmapped"
          ? Effect.void
          : Effect.fail(new DeviceBusy({ op: "unmap", subject: device.path, holders: answer.holders })),
      ),

    ...cryptService((op, arg, subject, does, cells = "crypt") =>
      change(op, arg, subject, LIMIT.crypt, does, pools[cells]),
    ),
    cryptFolder: (point) => change("cryptFolder", { point }, point, LIMIT.mount, "reads"),

    filesystemLack: (type) => look("filesystemLack", type, `filesystem ${type}`, LIMIT.tool),
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
                reason: `on a node where no pod of the volume is to run, map the image${request.device.startsWith("/dev/mapper/") ? ', open it with "cryptsetup open"' : ""}, run "fsck.${request.type} -y" on the device, undo that, then retry. fsck says: ${answer.output}`,
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
    trim: (point, stretch) =>
      Effect.flatMap(change("trim", { point, ...stretch }, point, LIMIT.tool), (answer) =>
        answer.kind === "trimmed"
          ? Effect.succeed(answer.bytes)
          : Effect.fail(new HostRefused({ op: "fstrim", subject: point, reason: answer.reason })),
      ),
    usage: (point) => peer("usage", point, point),
    trouble: (request) => look("trouble", request, request.path, LIMIT.peer),

    limitIo: (request) => change("limitIo", request, `control group of pod ${request.podUid}`, LIMIT.path),

    readText: (at) => look("readText", at, at),
    writeText: (at, text) => change("writeText", { path: at, text }, at, LIMIT.path),
    removeText: (at) => change("removeText", at, at, LIMIT.path),
    endLog: (log) => change("endLog", log, log.path, LIMIT.tool),
  };
};
