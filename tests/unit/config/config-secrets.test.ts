// Credentials from a request's secrets. What matters most: no value ever shows.
import { describe, expect, test } from "bun:test";
import { inspect } from "node:util";
import * as Redacted from "effect/Redacted";
import * as Result from "effect/Result";
import { parseCredentials } from "../../../lib/config/secrets.ts";

const KEY = "AQBsecretsecretsecret==";
const read = (secrets: Record<string, string>, allowMigration = false) => {
  const parsed = parseCredentials(secrets, { allowMigration });
  return Result.isSuccess(parsed)
    ? `${parsed.success.user} ${Redacted.value(parsed.success.key)}`
    : parsed.failure.message;
};

describe("credentials", () => {
  test.each<[string, Record<string, string>, boolean, string]>([
    ["plain", { userID: "u", userKey: KEY }, false, `u ${KEY}`],
    ["newlines at the end", { userID: "u\n", userKey: `${KEY}\r\n` }, false, `u ${KEY}`],
    ["blanks around them", { userID: " u\t", userKey: ` ${KEY} ` }, false, `u ${KEY}`],
    ["a byte order mark before them", { userID: "\ufeffu", userKey: `\ufeff${KEY}` }, false, `u ${KEY}`],
    ["no-break spaces around them", { userID: "\u00a0u", userKey: `\u00a0${KEY}\u202f\n` }, false, `u ${KEY}`],
    ["joiners without width", { userID: "u\u200b", userKey: `\u2060${KEY}\u200d` }, false, `u ${KEY}`],
    ["migrated, with a blank", { key: ` ${KEY}\n`, adminId: " kube" }, true, `kube ${KEY}`],
    ["nothing but a blank", { userID: "u", userKey: "\u00a0 \n" }, false, "secret userKey: is empty"],
    ["other keys do not matter", { userID: "u", userKey: KEY, adminKey: "x" }, false, `u ${KEY}`],
    ["migrated", { key: KEY }, true, `admin ${KEY}`],
    ["migrated with a user", { key: KEY, adminId: "kube" }, true, `kube ${KEY}`],
    ["migrated with an empty user", { key: KEY, adminId: "" }, true, `admin ${KEY}`],
    ["migrated comes first", { key: KEY, userID: "u", userKey: "other" }, true, `admin ${KEY}`],
    ["an empty key marks no migration", { key: "", userID: "u", userKey: KEY }, true, `u ${KEY}`],
    ["not allowed to be migrated", { key: "other", userID: "u", userKey: KEY }, false, `u ${KEY}`],
    ["none", {}, false, "secret userID: is missing from the secrets"],
    ["no key", { userID: "u" }, false, "secret userKey: is missing from the secrets"],
    ["migration not allowed", { key: KEY }, false, "secret userID: is missing from the secrets"],
    ["empty user", { userID: "", userKey: KEY }, false, "secret userID: is empty"],
    ["empty key", { userID: "u", userKey: "\n" }, false, "secret userKey: is empty"],
    ["NUL", { userID: "u", userKey: `${KEY}\0` }, false, "secret userKey: holds control characters"],
    ["a line within", { key: `${KEY}\n${KEY}` }, true, "secret key: holds control characters"],
  ])("The reader reads or refuses the credentials: %s", (_, secrets, allowMigration, expected) => {
    expect(read(secrets, allowMigration)).toBe(expected);
  });
});

test("Printed credentials show no value", () => {
  const good = Result.getOrThrow(parseCredentials({ userID: "u", userKey: KEY }, { allowMigration: false }));
  const bad = parseCredentials({ userID: "u", userKey: `${KEY}\0` }, { allowMigration: false });
  const shown = [good, bad]
    .map((it) => `${inspect(it, { depth: 9 })} ${JSON.stringify(it)} ${Bun.inspect(it)}`)
    .join(" ");
  expect(shown).not.toContain(KEY.slice(0, 8));
});
