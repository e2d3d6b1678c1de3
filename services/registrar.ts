/**
 * The registrar: makes a CSI driver known to the kubelet of its node. A role beside the driver's own by
 * `--kubelet-registration-path`, or alone beside any driver by the verb `registrar`.
 *
 * Not here: how it registers (lib/registrar/registrar.ts).
 */
import * as Data from "effect/Data";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import type { Flags } from "../lib/config/flags.ts";
import type { RegistrarFlags } from "../lib/config/registrar-flags.ts";
import { type AnyRole, type Role, role } from "../lib/process/role.ts";
import { wrongWithRegistration, wrongWithSocket } from "../lib/registrar/check.ts";
import { clearRegistration, makeRegistrar, type Registrar, type RegistrarOptions } from "../lib/registrar/registrar.ts";
import { Metrics } from "../lib/telemetry/metrics.ts";

class NoRegistrar extends Data.TaggedError("NoRegistrar")<{ readonly message: string }> {}

/** The registrar's work, with a gauge that says whether kubelet has registered the driver. */
const working = ({ run, lacks }: Registrar) =>
  Effect.gen(function* () {
    const help = "Whether kubelet has registered the driver: 1 or 0.";
    const value = () => (lacks() === undefined ? 1 : 0);
    const metrics = yield* Metrics;
    yield* metrics.add(() => [{ name: "csi_rbd_registered", help, labels: {}, value: value() }]);
    return yield* run;
  });

/** The registrar of the driver in this process. */
export const registrarRole = (flags: Flags): Role<never> => {
  const { driverName: name, pluginRegistrationPath: folder } = flags;
  const registrar = makeRegistrar({
    driver: flags.endpoint,
    kubeletPath: flags.kubeletRegistrationPath,
    folder,
    limit: flags.healthTimeout,
  });
  return role({
    name: "registrar",
    layer: Layer.empty,
    // kubelet tries what the last boot has left, and then waits for up to two minutes
    first: clearRegistration(folder, name),
    runs: working(registrar),
    // a path of its own: to start the driver anew would not help
    checks: { "/healthz/registration": Effect.sync(registrar.lacks) },
  });
};

/** The registrar of a driver in another process; or a question to it, by `--mode`. */
export const registrarRoles = (flags: RegistrarFlags): readonly AnyRole[] => {
  const { csiAddress: driver, kubeletRegistrationPath: kubeletPath, pluginRegistrationPath: folder } = flags;
  if (flags.mode === "kubelet-registration-probe") {
    return [role({ name: "registration probe", layer: Layer.empty, runs: probe(folder, kubeletPath, flags) })];
  }
  const options: RegistrarOptions = { driver, kubeletPath, folder, limit: flags.timeout };
  const registrar = makeRegistrar(options);
  const checks = {
    "/healthz": Effect.suspend(() => wrongWith(registrar, flags)),
    "/healthz/registration": Effect.sync(registrar.lacks),
  };
  return [role({ name: "registrar", layer: Layer.empty, runs: working(registrar), checks })];
};

/** As node-driver-registrar's: the registration socket is there, and answers for the driver. */
const wrongWith = ({ offered, lacks }: Registrar, { timeout }: RegistrarFlags): Effect.Effect<string | undefined> => {
  const now = offered();
  return now === undefined ? Effect.succeed(lacks()) : wrongWithSocket(now.path, now.name, timeout);
};

const probe = (folder: string, kubeletPath: string, { timeout }: RegistrarFlags): Effect.Effect<void, NoRegistrar> =>
  Effect.flatMap(wrongWithRegistration(folder, kubeletPath, timeout), (message) =>
    message === undefined ? Effect.void : Effect.fail(new NoRegistrar({ message })),
  );
