/**
 * `Kms` by the files of this pod, its environment, and Kubernetes.
 *
 * 1. Kubernetes is asked only when a KMS needs it: a driver outside of Kubernetes serves the others.
 */
import { readFile } from "node:fs/promises";
import * as Effect from "effect/Effect";
import type * as Layer from "effect/Layer";
import type { KubeAccessWrong } from "../kube/errors.ts";
import type { KubeAccess } from "../kube/kubeconfig.ts";
import { makeKube } from "../kube/request.ts";
import { KmsConfigInvalid, type KmsError, KmsUnreachable } from "./errors.ts";
import { Kms } from "./kms.ts";
import { kubeObjects } from "./kube-objects.ts";

const READ_LIMIT = "5 seconds";

export interface KmsOptions {
  /** Path of the file with its sections. */
  readonly kmsConfig: string;
  readonly access: Effect.Effect<KubeAccess, KubeAccessWrong>;
}

export const kmsLayerLive = ({ kmsConfig, access: found }: KmsOptions): Layer.Layer<Kms> => {
  const env = process.env;
  const access = found.pipe(
    Effect.mapError(({ message: reason }) => new KmsUnreachable({ store: "the Kubernetes API", reason })),
  );
  const podNamespace: Effect.Effect<string, KmsError> = env["POD_NAMESPACE"]
    ? Effect.succeed(env["POD_NAMESPACE"])
    : Effect.flatMap(access, ({ namespace }) => namespace);
  const kube = kubeObjects(Effect.map(access, makeKube));
  return Kms.layer({ file: kmsConfig, readFile: readText, kube, podNamespace, env });
};

/** `undefined`: there is no such file. */
const readText = (path: string): Effect.Effect<string | undefined, KmsError> =>
  Effect.promise(() =>
    readFile(path, "utf8").then(
      (text) => ({ text }),
      (error: unknown) => ({ error }),
    ),
  ).pipe(
    Effect.timeoutOrElse({
      duration: READ_LIMIT,
      orElse: () => Effect.succeed({ error: new Error(`no answer within ${READ_LIMIT}`) }),
    }),
    Effect.flatMap((read): Effect.Effect<string | undefined, KmsError> => {
      if ("text" in read) return Effect.succeed(read.text);
      const code = read.error instanceof Error && "code" in read.error ? String(read.error.code) : String(read.error);
      if (code === "ENOENT" || code === "ENOTDIR") return Effect.succeed(undefined);
      return Effect.fail(new KmsConfigInvalid({ place: path, reason: `cannot be read (${code}): make it readable` }));
    }),
  );
