/** LUKS by `hostLayerLive` on real block devices, with cryptsetup and the kernel's dm-crypt. Not here: krbd. */
import { beforeAll, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import * as Redacted from "effect/Redacted";
import type { HostService } from "../../lib/host/host.ts";
import { layerOver } from "../../lib/host/crypt-layers.ts";
import { shownBy } from "../../lib/node/staged-device.ts";
import { mountsAt } from "../../lib/host/mountinfo.ts";
import { FAST_KEY, mountTable, tool, toolWith, withUsualKeys } from "./loop.ts";
import { hostOnLoops } from "./host-on-loops.ts";

const MIB = 1n << 20n;
/** An emulated processor is slow at all that cryptsetup does. */
const MINUTES = 400_000;
const KEY = "Zm9v-YmFy_c2VjcmV0LWtleQ==aa";
const { host: service, loops, run, errorOf } = hostOnLoops();
let host: HostService;

beforeAll(async () => {
  host = await service();
});

const key = Redacted.make(KEY);
const format = (device: string, over: "blank" | "half-made" = "blank") =>
  host.formatCrypt({ device, key, cipher: [], over });
const open = (device: string, name: string, more: { key?: Redacted.Redacted; readOnly?: boolean } = {}) =>
  host.openCrypt({ device, name, key, readOnly: false, ...more });
const dumpOf = (device: string) => JSON.parse(tool("cryptsetup", "luksDump", "--dump-json-metadata", device));

/** With a key that is derived in no time, and otherwise as ceph-csi does it. */
const formatByHand = (device: string, more: readonly string[] = []) =>
  toolWith(KEY, "cryptsetup", "-q", "luksFormat", "--type", "luks2", ...FAST_KEY, ...more, device, "-d", "-");
/** The areas of our own headers. */
const AREAS = ["--luks2-metadata-size", "4096k", "--luks2-keyslots-size", "8192k"];

describe("a LUKS layer", () => {
  test(
    "a LUKS layer is made, opened, grown with its device, and closed, and keeps what is written to it",
    async () => {
      const disk = loops.make(64);
      const { device, file } = disk;
      const cipher = ["--cipher", "aes-xts-plain64", "--key-size", "256", "--sector-size", "512"];
      const header = await withUsualKeys(() => run(host.formatCrypt({ device, key, cipher, over: "blank" })));
      expect(header).toBe(16n * MIB);
      const { keyslots, config, segments } = dumpOf(device);
      expect([keyslots["0"].kdf.memory, config.json_size, segments["0"].offset]).toEqual([
        32768,
        "4190208",
        "16777216",
      ]);
      expect(segments["0"]).toMatchObject({ encryption: "aes-xts-plain64", sector_size: 512 });
      expect(await run(host.probe(device))).toEqual({ kind: "other", type: "crypto_LUKS" });

      const { crypt, headerBytes } = await run(open(device, "luks-rbd-grown"));
      expect([crypt.name, crypt.path, crypt.sizeBytes, headerBytes]).toEqual([
        "luks-rbd-grown",
        "/dev/mapper/luks-rbd-grown",
        48n * MIB,
        16n * MIB,
      ]);
      expect(layerOver({ path: device })).toEqual(crypt);
      expect(await run(host.probe(crypt.path))).toMatchObject({ kind: "blank" });
      await run(host.mkfs({ device: crypt.path, type: "ext4", options: undefined }));

      const point = `${loops.dir}/grown`;
      mkdirSync(point);
      await run(host.mount({ source: crypt.path, target: point, type: "ext4", options: ["_netdev"] }));
      writeFileSync(`${point}/data`, "precious", { flush: true });
      const node = `${loops.dir}/grown-node`;
      writeFileSync(node, "");
      await run(host.mount({ source: crypt.path, target: node, options: ["bind", "_netdev"] }));
      const shown = (at: string) => {
        const entry = mountsAt(mountTable(), at).at(-1);
        return entry && shownBy(entry, [{ mapped: { ...nothing, crypt }, top: crypt }])?.kind;
      };
      expect([shown(point), shown(node)]).toEqual(["filesystem", "block"]);

      const busy = await errorOf(host.closeCrypt(crypt));
      expect(busy).toMatchObject({ _tag: "DeviceBusy", message: expect.stringContaining(point) });
      loops.grow(disk, 96);
      expect(await run(host.resizeCrypt(crypt, device))).toBe(80n * MIB);
      expect(await run(host.resizeCrypt(crypt, device))).toBe(80n * MIB);
      expect(layerOver({ path: device })?.sizeBytes).toBe(80n * MIB);
      expect(await run(host.growFilesystem({ device: crypt.path, type: "ext4" }, point))).toBe(80n * MIB);
      await run(host.unmount(node));
      await run(host.unmount(point));
      await run(host.closeCrypt(crypt));
      await run(host.closeCrypt(crypt));
      expect(layerOver({ path: device })).toBeUndefined();
      expect(existsSync(crypt.path)).toBe(false);
      expect(readFileSync(file).includes("precious")).toBe(false);

      const again = await run(open(device, "luks-rbd-again"));
      await run(host.mount({ source: again.crypt.path, target: point, type: "ext4", options: ["_netdev"] }));
      expect(readFileSync(`${point}/data`, "utf8")).toBe("precious");
      await run(host.unmount(point));
      await run(host.closeCrypt(again.crypt));
    },
    MINUTES,
  );

  test(
    "a LUKS layer opens with its key alone, and the message for another one says what to do",
    async () => {
      const { device } = loops.make(64);
      formatByHand(device);
      const { _tag, message } = await errorOf(open(device, "luks-rbd-wrong", { key: Redacted.make("another") }));
      expect([_tag, message]).toEqual(["HostRefused", expect.stringMatching(/passphrase.*key store/)]);
      expect(message).not.toContain("another");
      expect(layerOver({ path: device })).toBeUndefined();
      toolWith(KEY, "cryptsetup", "luksOpen", device, "luks-rbd-by-hand", "--disable-keyring", "-d", "-");
      const crypt = layerOver({ path: device });
      expect(crypt?.name).toBe("luks-rbd-by-hand");
      await run(host.closeCrypt(crypt!));
    },
    MINUTES,
  );

  test(
    "a LUKS layer that was made by hand opens, with any cipher, and over a read-only device",
    async () => {
      for (const more of [[], ["--cipher", "serpent-xts-plain64", "--key-size", "256", "--sector-size", "512"]]) {
        const { device } = loops.make(64);
        formatByHand(device, more);
        expect(await run(host.cryptHeader(device))).toEqual({ kind: "whole" });
        tool("blockdev", "--setro", device);
        const { crypt } = await run(open(device, "luks-rbd-hand", { readOnly: true }));
        expect(crypt.readOnly).toBe(true);
        await run(host.closeCrypt(crypt));
        tool("blockdev", "--setrw", device);
      }
    },
    MINUTES,
  );

  test(
    "a cipher that does not exist is refused with its name",
    async () => {
      const { device } = loops.make(64);
      const cipher = ["--cipher", "rot13-xts-plain64"];
      const { _tag, message } = await errorOf(host.formatCrypt({ device, key, cipher, over: "blank" }));
      expect([_tag, message]).toEqual(["HostRefused", expect.stringContaining("rot13")]);
      expect((await run(host.cryptHeader(device))).kind).not.toBe("whole");
    },
    MINUTES,
  );
});

describe("a device to be formatted with LUKS", () => {
  test(
    "a device that holds something is never given a LUKS header",
    async () => {
      const filesystem = loops.make(64);
      await run(host.mkfs({ device: filesystem.device, type: "ext4", options: undefined }));
      const luks = loops.make(64);
      formatByHand(luks.device);
      const unknown = loops.make(64);
      writeFileSync(unknown.file, "unknown data", { flag: "r+" });
      tool("blockdev", "--flushbufs", unknown.device);
      for (const { device, file } of [filesystem, luks, unknown]) {
        for (const over of ["blank", "half-made"] as const) {
          const before = Bun.hash(readFileSync(file));
          expect((await errorOf(format(device, over)))._tag).toBe("UnexpectedContent");
          expect(Bun.hash(readFileSync(file))).toBe(before);
        }
      }
    },
    MINUTES,
  );

  test(
    "a format that was killed before its key slot is known, and made again only when asked to",
    async () => {
      const torn = loops.make(64);
      formatByHand(torn.device, AREAS);
      // as after the write of the binary header, before that of the text behind it, in header and copy
      const fd = openSync(torn.device, "r+");
      for (const at of [0, 4 << 20]) writeSync(fd, Buffer.alloc(64 << 10), 0, 64 << 10, at + 4096);
      closeSync(fd);
      const slotless = loops.make(64);
      formatByHand(slotless.device);
      tool("cryptsetup", "-q", "luksErase", slotless.device);
      for (const { device } of [torn, slotless]) {
        expect(await run(host.cryptHeader(device))).toEqual({ kind: "half-made" });
        expect((await errorOf(open(device, "luks-rbd-half")))._tag).toBe("HostRefused");
        expect((await errorOf(format(device)))._tag).toBe("UnexpectedContent");
      }
      expect(await run(format(torn.device, "half-made"))).toBe(16n * MIB);
      expect(await run(host.cryptHeader(torn.device))).toEqual({ kind: "whole" });
    },
    MINUTES,
  );

  test(
    "cryptsetup that is killed at any moment of a format leaves a device that may be formatted again, or that opens",
    async () => {
      for (const milliseconds of [50, 200, 400, 700, 1_000, 1_500]) {
        const { device } = loops.make(64);
        const child = Bun.spawn(
          ["cryptsetup", "-q", "luksFormat", "--type", "luks2", ...FAST_KEY, ...AREAS, device, "-d", "-"],
          { stdin: Buffer.from(KEY), env: { ...process.env, DM_DISABLE_UDEV: "1" } },
        );
        await Promise.race([child.exited, Bun.sleep(milliseconds)]);
        child.kill("SIGKILL");
        await child.exited;
        const header = await run(host.cryptHeader(device));
        if (header.kind === "none") expect(header.zeroed).toBe(true);
        if (header.kind !== "whole") continue;
        const { crypt } = await run(open(device, "luks-rbd-killed"));
        await run(host.closeCrypt(crypt));
      }
    },
    MINUTES,
  );
});

describe("the name of a LUKS layer", () => {
  test(
    "a name that another device has is refused with that device, and nothing is closed",
    async () => {
      const [first, second] = [loops.make(64), loops.make(64)];
      formatByHand(first.device);
      formatByHand(second.device);
      const { crypt } = await run(open(first.device, "luks-rbd-name"));
      const refused = await errorOf(open(second.device, "luks-rbd-name"));
      expect(refused).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining("luks-rbd-name already") });
      expect(layerOver({ path: first.device })).toEqual(crypt);
      // a layer of the same name that was opened later is another one
      await run(host.closeCrypt({ ...crypt, minor: crypt.minor + 99 }));
      expect(layerOver({ path: first.device })).toEqual(crypt);
      await run(host.closeCrypt(crypt));
    },
    MINUTES,
  );

  test(
    "a LUKS layer that a pod has opened itself, under a name of its own, is none of the driver's",
    async () => {
      const { device } = loops.make(64);
      formatByHand(device);
      toolWith(KEY, "cryptsetup", "luksOpen", device, "of-a-pod", "-d", "-");
      expect(readdirSync(`/sys/block/${device.slice("/dev/".length)}/holders`)).toHaveLength(1);
      expect(layerOver({ path: device })).toBeUndefined();
      tool("cryptsetup", "close", "of-a-pod");
    },
    MINUTES,
  );
});

const nothing = {
  mapper: "krbd" as const,
  path: "/dev/rbd99",
  major: 252,
  minor: 1584,
  pool: "",
  namespace: "",
  image: "",
  imageId: "",
  snapshot: "",
  fsid: "",
  watcherId: "",
  addresses: [],
  cookie: "",
  served: true,
  sizeBytes: 0n,
  readOnly: false,
};
