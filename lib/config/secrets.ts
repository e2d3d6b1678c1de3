/**
 * The credentials in a request's secrets: ceph-csi's `userID` and `userKey`, or the one `key` of an in-tree volume's
 * secret. Asks no cluster whether they are right.
 *
 * 1. The key leaves here only as Redacted, and no error holds a value.
 * 2. Whoever logs in, the controller, the node's own calls and the tools that it starts, gets the same user and the same
 *    key: nothing after this file changes them.
 */
import * as Redacted from "effect/Redacted";
import * as Result from "effect/Result";
import * as z from "zod";
import { hasControl } from "../text/printable.ts";
import { InvalidSecret } from "./errors.ts";

export interface Credentials {
  /** cephx name without `client.`. */
  readonly user: string;
  readonly key: Redacted.Redacted;
}

/** Who asks: the credentials, and the secrets that they were read from, in which a key store may have its own. */
export interface Requester {
  readonly credentials: Credentials;
  readonly secrets: Readonly<Record<string, string>>;
}

export interface SecretOptions {
  /** Whether the secret of a migrated in-tree volume is taken: on create, delete, expand and stage. */
  readonly allowMigration: boolean;
}

/** In-tree volumes without a user of their own were made by this one. */
const MIGRATION_USER = "admin";

/**
 * What editors, web pages and `echo` leave around a value, and nobody sees: blanks, newlines, no-break spaces, byte order
 * marks, joiners without width.
 */
const AROUND = /^[\s\uFEFF\u200B-\u200D\u2060]+|[\s\uFEFF\u200B-\u200D\u2060]+$/gu;

const value = z
  .string("is missing from the secrets")
  .transform((text) => text.replaceAll(AROUND, ""))
  .refine((text) => text !== "", "is empty")
  .refine((text) => !hasControl(text), "holds control characters");

const read = (secrets: Readonly<Record<string, string>>, key: string): Result.Result<string, InvalidSecret> => {
  const parsed = value.safeParse(Object.hasOwn(secrets, key) ? secrets[key] : undefined);
  if (parsed.success) return Result.succeed(parsed.data);
  return Result.fail(new InvalidSecret({ key, reason: parsed.error.issues[0]?.message ?? "is wrong" }));
};

const credentials = (user: string, key: string): Credentials => ({
  user,
  key: Redacted.make(key, { label: "cephx key" }),
});

/** Reads credentials. A non-empty `key` marks a migration secret, where one is allowed. */
export const parseCredentials = (
  secrets: Readonly<Record<string, string>>,
  options: SecretOptions,
): Result.Result<Credentials, InvalidSecret> =>
  Result.gen(function* () {
    if (options.allowMigration && Object.hasOwn(secrets, "key") && secrets["key"] !== "") {
      const named = Object.hasOwn(secrets, "adminId") && secrets["adminId"] !== "";
      const user = named ? yield* read(secrets, "adminId") : MIGRATION_USER;
      return credentials(user, yield* read(secrets, "key"));
    }
    const user = yield* read(secrets, "userID");
    return credentials(user, yield* read(secrets, "userKey"));
  });
