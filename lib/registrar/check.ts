/**
 * Asks a registrar, which may be another process, whether it would answer kubelet.
 *
 * Not here: whether kubelet has registered the driver, which only the registrar itself knows (./registrar.ts).
 */
import { readdirSync } from "node:fs";
import type * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import { Registration } from "../gen/pluginregistration_pb.ts";
import { ask } from "../grpc/ask.ts";
import { join } from "node:path";

/** What is wrong with the registration socket of a driver; `undefined`: it answers as kubelet expects. */
export const wrongWithSocket = (
  path: string,
  name: string,
  limit: Duration.Duration,
): Effect.Effect<string | undefined> =>
  ask(Registration.method.getInfo, path, {}, limit).pipe(
    Effect.map((info) => (info.name === name ? undefined : `${path} registers ${info.name}, not ${name}`)),
    Effect.catch((error) => Effect.succeed(`${path}: ${error.message}`)),
  );

/** What is wrong with the registration of the driver whose socket kubelet knows by that path. */
export const wrongWithRegistration = (
  folder: string,
  kubeletPath: string,
  limit: Duration.Duration,
): Effect.Effect<string | undefined> =>
  Effect.gen(function* () {
    const wrong: string[] = [];
    for (const path of registrationsIn(folder)) {
      const info = yield* Effect.result(ask(Registration.method.getInfo, path, {}, limit));
      if (info._tag === "Success" && info.success.endpoint === kubeletPath) return undefined;
      wrong.push(
        info._tag === "Success" ? `${path} is for ${info.success.endpoint}` : `${path}: ${info.failure.message}`,
      );
    }
    const found = wrong.length === 0 ? "it has no registration socket" : wrong.join("; ");
    return `no registrar answers for ${kubeletPath} in ${folder}: ${found}`;
  });

/** Paths of the sockets that kubelet would look at. */
const registrationsIn = (folder: string): readonly string[] => {
  try {
    return readdirSync(folder)
      .filter((name) => /^[^.].*-reg\.sock$/.test(name))
      .map((name) => join(folder, name));
  } catch {
    return [];
  }
};
