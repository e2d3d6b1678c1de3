/** What fscrypt is given: the bytes of a raw key, and its configuration. Not here: fscrypt itself (tests/vm/crypt-folder.test.ts). */
import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { CONFIG, ensureConfig, rawKey } from "../../../lib/host/fscrypt.ts";

const checkout = join(import.meta.dir, "../../..");

test("A raw key is the first 32 bytes of a text, with zeros after a shorter one", () => {
  const text = "abcdefghijklmnopqrstuvwxyz0123456789".padEnd(88, "-");
  expect(Buffer.from(rawKey(text)).toString()).toBe("abcdefghijklmnopqrstuvwxyz012345");
  expect(Buffer.from(rawKey("short")).toString("latin1")).toBe(`short${"\0".repeat(27)}`);
  // in the middle of a character: bytes count
  expect(Buffer.from(rawKey(`${"a".repeat(31)}é`)).toString("hex")).toBe(`${"61".repeat(31)}c3`);
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 60 }), (any) => {
      const bytes = Buffer.concat([Buffer.from(any), Buffer.alloc(32)]).subarray(0, 32);
      expect(Buffer.from(rawKey(any))).toEqual(bytes);
    }),
  );
});

test("The configuration is written whole where it is missing, for all to read, and one that is there stays", () => {
  const folder = mkdtempSync(join(tmpdir(), "csi-rbd-fscrypt-"));
  try {
    const path = join(folder, "fscrypt.conf");
    ensureConfig(path);
    expect([readFileSync(path, "utf8"), statSync(path).mode & 0o777]).toEqual([CONFIG, 0o644]);
    writeFileSync(path, "somebody's");
    ensureConfig(path);
    expect([readFileSync(path, "utf8"), readdirSync(folder)]).toEqual(["somebody's", ["fscrypt.conf"]]);
    expect(() => ensureConfig(join(folder, "missing", "fscrypt.conf"))).toThrow("ENOENT");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("The configuration asks for a hash that no node lacks the memory for, and for what ceph-csi's volumes have", () => {
  const { hash_costs: costs, options, ...more } = JSON.parse(CONFIG);
  expect(Number(costs.memory)).toBeLessThanOrEqual(128 << 10);
  expect(costs.truncation_fixed).toBe(true);
  expect(options).toEqual({
    padding: "32",
    contents: "AES_256_XTS",
    filenames: "AES_256_CTS",
    policy_version: "2",
  });
  expect(more.use_fs_keyring_for_v1_policies).toBe(true);
});

test("The container image has the same configuration", () => {
  const written = readFileSync(join(checkout, "container/collect"), "utf8");
  expect(written).toContain(`cat >"$tree/etc/fscrypt.conf" <<'END'\n${CONFIG}END\n`);
});
