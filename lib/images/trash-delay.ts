/**
 * `--rbdtrashmaxdelay`: removed images stay in the trash. Ceph protects them for that time, and an administrator purges
 * them, as in ceph-csi 3.16.
 *
 * Not here: the move to the trash (./removal.ts).
 *
 * 1. With a delay this process removes nothing from the trash and asks the manager for no removal, not even of what
 *    earlier processes left there. Without one the purge is what it was.
 */
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import { driversMark } from "../ceph/rbd.ts";
import { DriverSettings } from "../config/settings.ts";
import { Purge } from "./purge.ts";

export const withTrashDelay: Layer.Layer<Purge, never, Purge | DriverSettings> = Layer.effect(
  Purge,
  Effect.gen(function* () {
    const purge = yield* Purge;
    let keepSeconds = Math.ceil(Duration.toSeconds((yield* DriverSettings).trashDelay));
    // a time that is a driver's mark would say that the image may go
    while (driversMark(keepSeconds) !== undefined) keepSeconds += 1;
    return keepSeconds === 0
      ? purge
      : Purge.of({ ...purge, keepSeconds, discard: () => Effect.void, visit: () => Effect.void });
  }),
);
