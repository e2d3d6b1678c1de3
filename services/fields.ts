/**
 * The request fields that several services read: names, IDs and secrets.
 *
 * Not here: the checks (lib/csi/request-fields.ts, lib/config/secrets.ts), and fields of one service only.
 */
import * as Effect from "effect/Effect";
import type { InvalidSecret } from "../lib/config/errors.ts";
import { type Credentials, parseCredentials } from "../lib/config/secrets.ts";
import type { InvalidRequest } from "../lib/csi/errors.ts";
import { requiredText, requiredVolumeId } from "../lib/csi/request-fields.ts";

type Secrets = Readonly<Record<string, string>>;

/** A required name, or the ID of anything but a volume. */
export const text = (field: string, value: string): Effect.Effect<string, InvalidRequest> =>
  Effect.fromResult(requiredText(field, value));

/** A required volume ID. */
export const volumeIdText = (field: string, value: string): Effect.Effect<string, InvalidRequest> =>
  Effect.fromResult(requiredVolumeId(field, value));

export const volumeIdTexts = (
  field: string,
  values: readonly string[],
): Effect.Effect<readonly string[], InvalidRequest> =>
  Effect.forEach(values, (value, i) => volumeIdText(`${field}[${i}]`, value));

/** What a call is about, in the log and for its caller's retry: the volume. */
export const byVolume = ({ volumeId }: { readonly volumeId: string }): string => volumeId;

/** `allowMigration`: the secrets may be those of a volume that the in-tree plugin made. */
export const credentials = (
  secrets: Secrets,
  { allowMigration } = { allowMigration: false },
): Effect.Effect<Credentials, InvalidSecret> => Effect.fromResult(parseCredentials(secrets, { allowMigration }));

/** `undefined`: the request brings no secrets. */
export const optionalCredentials = (secrets: Secrets): Effect.Effect<Credentials | undefined, InvalidSecret> =>
  Object.keys(secrets).length === 0 ? Effect.succeed(undefined) : credentials(secrets);
