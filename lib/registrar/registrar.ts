/**
 * Registers a CSI driver with the kubelet of its node: makes the socket by which kubelet finds the driver, answers
 * kubelet's questions there, and begins anew whatever ends the registration.
 *
 * Not here: the flags and the role (services/registrar.ts), and questions to a registrar (./check.ts).
 *
 * The six steps: the driver is asked for its name; the socket `<name>-reg.sock` appears in kubelet's folder; kubelet asks it
 * for the driver's path (GetInfo), asks the driver for the node (NodeGetInfo), writes Node and CSINode, and tells the
 * outcome (NotifyRegistrationStatus).
 *
 * 1. The socket appears under its name when it listens, and only after the driver has answered: kubelet asks the driver at
 *    once.
 * 2. Kubelet never repeats a registration that failed, nor looks for a socket that somebody removed. Both get a new
 *    socket: after a pause of 1 s, which doubles up to 60 s, or at once.
 * 3. The newest registrar of a driver wins: it takes the place of one that listens. That one waits until the place is free.
 * 4. At the end the socket is removed if it is still ours; kubelet then forgets the driver.
 * 5. Nothing ends the registrar but its scope: a driver that is away, or a folder that is missing, is waited for.
 */
import { unlinkSync } from "node:fs";
import { join } from "node:path";
import * as Clock from "effect/Clock";
import * as Deferred from "effect/Deferred";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import { Identity } from "../gen/csi_pb.ts";
import { Registration } from "../gen/pluginregistration_pb.ts";
import { ask } from "../grpc/ask.ts";
import { serve } from "../grpc/server.ts";
import { served } from "../grpc/service.ts";
import { ListenError, occupantOf, removeStaleSocket } from "../grpc/socket.ts";
import { oneLine } from "../text/printable.ts";

export interface RegistrarOptions {
  /** Where this process reaches the driver. */
  readonly driver: string;
  /** The driver's socket as kubelet reaches it: a path of the host. */
  readonly kubeletPath: string;
  /** Kubelet's folder of registration sockets, as this process sees it. */
  readonly folder: string;
  /** Limit of one question to the driver. */
  readonly limit: Duration.Duration;
}

export interface Registrar {
  /** Registers, and keeps registered, until its scope closes. */
  readonly run: Effect.Effect<never, never, Scope.Scope>;
  /** What the registration lacks; `undefined`: kubelet has registered the driver. */
  readonly lacks: () => string | undefined;
  /** The socket that is offered to kubelet now, and the driver's name. */
  readonly offered: () => { readonly path: string; readonly name: string } | undefined;
}

/** How often the registrar looks after its socket. */
const LOOK = Duration.seconds(1);
const FIRST_PAUSE = Duration.seconds(1);
const LONGEST_PAUSE = Duration.seconds(60);
/** For the answer by which kubelet learns that we know of its refusal. */
const LAST_ANSWER_MS = 1_000;

/** Path of the registration socket of a driver. */
export const registrationSocket = (folder: string, name: string): string => join(folder, `${name}-reg.sock`);

/** Removes what a driver of that name has left there, if nobody listens on it. */
export const clearRegistration = (folder: string, name: string): Effect.Effect<void> =>
  removeStaleSocket(registrationSocket(folder, name)).pipe(Effect.ignore);

/** How one offer to kubelet ended: by its refusal, with why, or because the socket is gone. */
type Ended = { readonly refused: string } | "gone";

export const makeRegistrar = (options: RegistrarOptions): Registrar => {
  let lacks: string | undefined = "it has not begun";
  let offered: ReturnType<Registrar["offered"]>;
  let pause = FIRST_PAUSE;
  /** Notes what is missing, and logs it if it is new. */
  const wait = (missing: string): Effect.Effect<void> => {
    if (lacks === missing) return Effect.void;
    lacks = missing;
    return Effect.logWarning(missing);
  };

  const askName = Effect.gen(function* () {
    for (;;) {
      const info = yield* Effect.result(ask(Identity.method.getPluginInfo, options.driver, {}, options.limit));
      if (info._tag === "Success" && isDriverName(info.success.name)) return info.success.name;
      const why = info._tag === "Success" ? `it calls itself ${oneLine(info.success.name)}` : info.failure.message;
      yield* wait(`the driver at ${options.driver} cannot be registered yet: ${why}`);
      yield* Effect.sleep(FIRST_PAUSE);
    }
  });

  /** Answers kubelet until it refuses, or until the socket is no longer ours. */
  const offer = (name: string, path: string): Effect.Effect<Ended, ListenError> =>
    Effect.gen(function* () {
      const refused = yield* Deferred.make<Ended>();
      const info = { type: "CSIPlugin", name, endpoint: options.kubeletPath, supportedVersions: ["1.0.0"] };
      const service = served(Registration, {
        getInfo: () => Effect.succeed(info),
        notifyRegistrationStatus: ({ pluginRegistered, error }) => {
          if (!pluginRegistered)
            return Effect.as(Deferred.succeed(refused, { refused: `it says ${oneLine(error)}` }), {});
          lacks = undefined;
          pause = FIRST_PAUSE;
          return Effect.as(Effect.logInfo(`kubelet has registered ${name}`), {});
        },
      });
      const stop = Effect.map(Clock.currentTimeMillis, (now) => ({
        drainBy: now + LAST_ANSWER_MS,
        closeBy: now + LAST_ANSWER_MS,
      }));
      const { isThere } = yield* serve({ endpoint: path, services: [service], stop });
      lacks = `kubelet has not registered ${name} yet: its socket is ${path}`;
      offered = { path, name };
      const gone = Effect.sleep(LOOK).pipe(Effect.repeat({ while: () => isThere() }), Effect.as<Ended>("gone"));
      return yield* Effect.race(Deferred.await(refused), gone);
    }).pipe(Effect.scoped, Effect.ensuring(Effect.sync(() => (offered = undefined))));

  const keepOffering = (name: string, path: string) =>
    Effect.gen(function* () {
      for (;;) {
        yield* untilFree(path).pipe(Effect.ignore);
        const ended = yield* offer(name, path).pipe(
          Effect.catch((error) => Effect.succeed<Ended>({ refused: error.message })),
        );
        if (ended === "gone") {
          yield* wait(`the registration socket ${path} is gone; it is made anew`);
          continue;
        }
        yield* wait(
          `kubelet has not registered ${name}: ${ended.refused}; the next attempt is in ${Duration.format(pause)}`,
        );
        const now = pause;
        pause = Duration.min(Duration.times(pause, 2), LONGEST_PAUSE);
        yield* Effect.sleep(now);
      }
    });

  /** Waits while a newer registrar of the driver has the place. */
  const untilFree = (path: string): Effect.Effect<void, ListenError> =>
    Effect.gen(function* () {
      while ((yield* occupantOf(path)).kind === "listener") {
        yield* wait(`another process registers the driver: it listens on ${path}; this one waits until that ends`);
        yield* Effect.sleep(LOOK);
      }
    });

  const run = Effect.gen(function* () {
    const name = yield* askName;
    const path = registrationSocket(options.folder, name);
    yield* takeOver(path);
    return yield* keepOffering(name, path);
  });
  return { run, lacks: () => lacks, offered: () => offered };
};

/** A name that kubelet can look for: its socket must not be hidden, nor in another folder. */
const isDriverName = (name: string): boolean => /^[a-zA-Z0-9][-a-zA-Z0-9.]*$/.test(name);

/** Takes the place of an older registrar, which sees that and waits. */
const takeOver = (path: string): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { kind } = yield* removeStaleSocket(path);
    if (kind !== "listener") return;
    yield* Effect.logInfo(`takes the registration over from the process that listens on ${path}`);
    yield* Effect.try({
      try: () => unlinkSync(path),
      catch: (error) => new ListenError({ message: `${path}: ${String(error)}` }),
    });
  }).pipe(Effect.ignore);
