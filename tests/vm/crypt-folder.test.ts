/**
 * Encrypted folders by `hostLayerLive` on real block devices, with fscrypt, ext4 and the kernel's own encryption; crosswise
 * with folders that fscrypt alone makes and opens, as ceph-csi lays them out. Not here: krbd.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import * as Redacted from "effect/Redacted";
import { CONFIG, CONFIG_PATH } from "../../lib/host/fscrypt.ts";
import type { CryptFolderKey, HostService } from "../../lib/host/host.ts";
import { hostOnLoops } from "./host-on-loops.ts";
import { tool, toolWith } from "./loop.ts";
import { processOf } from "./processes.ts";

const MINUTES = 400_000;
const KEY = "Zm9v-YmFy_c2VjcmV0LWtleQ==".padEnd(88, "0123456789");
const PASSPHRASE = "a passphrase of our own";
const { host: service, loops, run, errorOf } = hostOnLoops();
let host: HostService;

beforeAll(async () => {
  host = await service();
});

/** With a hash of a passphrase that takes no time: what is tested is not how hard it is to guess. */
const makeCheap = () =>
  writeFileSync(CONFIG_PATH, CONFIG.replace('"time": "3"', '"time": "1"').replace('"65536"', '"1024"'));

let count = 0;
/** A filesystem that is mounted, and how it is mounted anew: then its folder is locked again. */
const mounted = async (encryptsFiles = true) => {
  const { device } = loops.make(64);
  const point = `${loops.dir}/point-${count++}`;
  mkdirSync(point);
  await run(host.mkfs({ device, type: "ext4", options: undefined, encryptsFiles }));
  const mount = (...options: string[]) =>
    run(host.mount({ source: device, target: point, type: "ext4", options: ["_netdev", ...options] }));
  await mount();
  return {
    device,
    point,
    folder: `${point}/ceph-csi-encrypted`,
    again: async (...options: string[]) => {
      await run(host.unmount(point));
      await mount(...options);
    },
    state: () => run(host.cryptFolder(point)),
    key: (source: CryptFolderKey["source"], text: string): CryptFolderKey => ({
      point,
      source,
      key: Redacted.make(text),
    }),
  };
};

/** As ceph-csi gives it: the first 32 characters. fscrypt reads it from a file only. */
const rawKeyFile = (): string => {
  const path = `${loops.dir}/raw-key`;
  writeFileSync(path, KEY.slice(0, 32), { mode: 0o600 });
  return path;
};

describe("an encrypted folder", () => {
  test(
    "a folder that is made here keeps its files from mount to mount, locked without its key, and fscrypt alone opens it",
    async () => {
      const { point, folder, again, state, key } = await mounted();
      const raw = key("raw_key", KEY);
      rmSync(CONFIG_PATH, { force: true });
      expect(await state()).toEqual({ kind: "none" });
      await run(host.setUpCryptFolder(raw));
      expect(readFileSync(CONFIG_PATH, "utf8")).toBe(CONFIG);
      expect(readdirSync("/etc").filter((name) => name.startsWith("fscrypt"))).toEqual(["fscrypt.conf"]);
      expect(await state()).toEqual({ kind: "unlocked" });
      writeFileSync(`${folder}/data`, "precious", { flush: true });
      expect(await errorOf(host.setUpCryptFolder(raw))).toMatchObject({ _tag: "HostRefused" });

      await again();
      expect(await state()).toEqual({ kind: "locked" });
      expect(readdirSync(folder)).not.toContain("data");
      const wrong = await errorOf(host.unlockCryptFolder(key("raw_key", "another")));
      expect(wrong).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining("does not unlock") });
      const kind = await errorOf(host.unlockCryptFolder(key("custom_passphrase", PASSPHRASE)));
      expect(kind).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining("is a raw key") });
      expect(await state()).toEqual({ kind: "locked" });
      await run(host.unlockCryptFolder(raw));
      await run(host.unlockCryptFolder(raw));
      expect(readFileSync(`${folder}/data`, "utf8")).toBe("precious");

      await again("ro");
      await run(host.unlockCryptFolder(raw));
      expect(readFileSync(`${folder}/data`, "utf8")).toBe("precious");

      await again();
      tool("fscrypt", "unlock", folder, `--key=${rawKeyFile()}`, "--quiet");
      expect(readFileSync(`${folder}/data`, "utf8")).toBe("precious");
      expect(tool("fscrypt", "status", folder)).toContain('raw key protector "ceph-csi"');
      await run(host.unmount(point));
    },
    MINUTES,
  );

  test(
    "a folder that fscrypt alone has made, as ceph-csi does, opens here, with a raw key and with a passphrase",
    async () => {
      makeCheap();
      for (const [source, text, options, input] of [
        ["raw_key", KEY, [`--key=${rawKeyFile()}`], undefined],
        ["custom_passphrase", PASSPHRASE, [], PASSPHRASE],
      ] as const) {
        const { point, folder, again, state, key } = await mounted();
        tool("fscrypt", "setup", point, "--quiet");
        mkdirSync(folder);
        const named = [`--source=${source}`, "--name=ceph-csi", "--no-recovery", "--quiet"];
        toolWith(input, "fscrypt", "encrypt", folder, ...named, ...options);
        writeFileSync(`${folder}/data`, "precious", { flush: true });
        await again();
        expect(await state()).toEqual({ kind: "locked" });
        const wrong = await errorOf(host.unlockCryptFolder(key(source, "another")));
        expect(wrong).toMatchObject({ message: expect.stringContaining("does not unlock") });
        await run(host.unlockCryptFolder(key(source, text)));
        expect(readFileSync(`${folder}/data`, "utf8")).toBe("precious");
        await run(host.unmount(point));
      }
    },
    MINUTES,
  );

  test(
    "a passphrase that is set up here opens with fscrypt alone, and one with a line end is refused",
    async () => {
      makeCheap();
      const { point, folder, again, state, key } = await mounted();
      const lines = await errorOf(host.setUpCryptFolder(key("custom_passphrase", `${PASSPHRASE}\n`)));
      expect(lines).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining("line end") });
      expect(await state()).toEqual({ kind: "none" });
      await run(host.setUpCryptFolder(key("custom_passphrase", PASSPHRASE)));
      writeFileSync(`${folder}/data`, "precious", { flush: true });
      await again();
      toolWith(PASSPHRASE, "fscrypt", "unlock", folder, "--quiet");
      expect(readFileSync(`${folder}/data`, "utf8")).toBe("precious");
      await run(host.unmount(point));
    },
    MINUTES,
  );
});

describe("proof before an encrypted folder is harmed", () => {
  test(
    "a setup that left keys alone is made again; where anything lies beside them, nothing is changed",
    async () => {
      makeCheap();
      const { point, folder, state, key } = await mounted();
      const raw = key("raw_key", KEY);
      writeFileSync(`${point}/plain`, "somebody's");
      expect(await state()).toMatchObject({ kind: "other", reason: expect.stringContaining("not encrypted (plain)") });
      expect(await errorOf(host.setUpCryptFolder(raw))).toMatchObject({ _tag: "HostRefused" });
      expect(readdirSync(point).toSorted()).toEqual(["lost+found", "plain"]);
      rmSync(`${point}/plain`);
      tool("fscrypt", "setup", point, "--quiet");
      const named = ["--source=raw_key", "--name=ceph-csi", `--key=${rawKeyFile()}`, "--quiet"];
      tool("fscrypt", "metadata", "create", "protector", point, ...named);
      const keys = readdirSync(`${point}/.fscrypt/protectors`);
      expect([keys.length, await state()]).toEqual([1, { kind: "half-made" }]);

      writeFileSync(`${point}/stray`, "somebody's");
      const stray = await errorOf(host.setUpCryptFolder(raw));
      expect(stray).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining("stray") });
      rmSync(`${point}/stray`);
      mkdirSync(folder);
      writeFileSync(`${folder}/plain`, "somebody's");
      const plain = await errorOf(host.setUpCryptFolder(raw));
      expect(plain).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining("holds files (plain)") });
      expect([readdirSync(`${point}/.fscrypt/protectors`), readdirSync(folder)]).toEqual([keys, ["plain"]]);
      rmSync(`${folder}/plain`);

      await run(host.setUpCryptFolder(raw));
      expect(await state()).toEqual({ kind: "unlocked" });
      writeFileSync(`${folder}/data`, "precious", { flush: true });
      // without its keys
      tool("mv", `${point}/.fscrypt`, `${loops.dir}/saved`);
      expect(await state()).toMatchObject({ kind: "other", reason: expect.stringContaining("is missing") });
      tool("fscrypt", "setup", point, "--quiet");
      expect(await state()).toMatchObject({ kind: "other", reason: expect.stringContaining("keys are missing") });
      expect(await errorOf(host.setUpCryptFolder(raw))).toMatchObject({ _tag: "HostRefused" });
      await run(host.unmount(point));
    },
    MINUTES,
  );

  test(
    "a filesystem without the feature is refused with what to do, and serves once that is done",
    async () => {
      const { device, point, state, key } = await mounted(false);
      const raw = key("raw_key", KEY);
      const refused = await errorOf(host.setUpCryptFolder(raw));
      expect(refused).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining("tune2fs -O encrypt") });
      // also now that the folder is there
      expect(await state()).toEqual({ kind: "none" });
      expect(await errorOf(host.setUpCryptFolder(raw))).toMatchObject({ message: expect.stringContaining("tune2fs") });
      await run(host.unmount(point));
      tool("tune2fs", "-O", "encrypt", device);
      await run(host.mount({ source: device, target: point, type: "ext4", options: ["_netdev"] }));
      await run(host.setUpCryptFolder(raw));
      expect(await state()).toEqual({ kind: "unlocked" });
      await run(host.unmount(point));
    },
    MINUTES,
  );

  test(
    "an fscrypt that is killed at any moment leaves what the next one completes",
    async () => {
      const { point, again, folder, state, key } = await mounted();
      const raw = key("raw_key", KEY);
      let killed = 0;
      for (const wait of [50, 150, 400, 800, 1_600]) {
        const { kind } = await state();
        if (kind === "locked" || kind === "unlocked") break;
        const cut = errorOf(host.setUpCryptFolder(raw)).catch(() => undefined);
        const pid = await processOf((line) => line.startsWith("fscrypt\0encrypt\0"), cut);
        await Bun.sleep(wait);
        if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
        if ((await cut)?._tag === "HostUnexplained") killed += 1;
      }
      expect(killed).toBeGreaterThan(0);
      const { kind } = await state();
      if (kind === "none" || kind === "half-made") await run(host.setUpCryptFolder(raw));
      else await run(host.unlockCryptFolder(raw));
      writeFileSync(`${folder}/data`, "precious", { flush: true });
      await again();
      await run(host.unlockCryptFolder(raw));
      expect(readFileSync(`${folder}/data`, "utf8")).toBe("precious");
      await run(host.unmount(point));
    },
    MINUTES,
  );
});
