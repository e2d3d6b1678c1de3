/** LUKS with integrity by `hostLayerLive` on real block devices, with cryptsetup, dm-crypt and dm-integrity. */
import { beforeAll, describe, expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, readFileSync, readSync, writeSync } from "node:fs";
import { constants } from "node:os";
import { basename } from "node:path";
import * as Redacted from "effect/Redacted";
import type { DataLook, HostService, PreparedCrypt } from "../../lib/host/host.ts";
import type { CryptDevice } from "../../lib/host/mapped-device.ts";
import { closeLeftOver } from "../../lib/host/crypt.ts";
import { headerWrites, type Piece } from "../../lib/host/crypt-integrity.ts";
import type { HostFailed } from "../../lib/host/errors.ts";
import { layerOver, leftOver } from "../../lib/host/crypt-layers.ts";
import { hostOnLoops } from "./host-on-loops.ts";
import { FAST_KEY, tool, toolWith } from "./loop.ts";
import { processOf } from "./processes.ts";

const MIB = 1n << 20n;
/** An emulated processor is slow at all that cryptsetup does. */
const MINUTES = 600_000;
const KEY = "Zm9v-YmFy_c2VjcmV0LWtleQ==aa";
const { host: service, loops, run, errorOf } = hostOnLoops();
let host: HostService;

beforeAll(async () => {
  host = await service();
});

const key = Redacted.make(KEY);
const HMAC = { cipher: ["--cipher", "aes-xts-plain64"], integrity: "hmac-sha256" } as const;
/** With a key that is derived in no time. */
const FAST = { ...HMAC, cipher: [...HMAC.cipher, ...FAST_KEY] } as const;
const prepare = (device: string, name: string, how: { cipher: readonly string[]; integrity: string } = FAST) =>
  host.prepareCrypt({ device, name, key, over: "blank", ...how });
const wipe = async (crypt: PreparedCrypt["crypt"]): Promise<void> => {
  for (let at = 0n; at < crypt.sizeBytes; ) at = await run(host.wipeCrypt(crypt, at));
};
const headers = () => readdirSync("/tmp/csi/keys").filter((name) => name.startsWith("luks-header-"));
const bytesAt = (file: string, at: number, length: number): Buffer => {
  const fd = openSync(file, "r");
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, at);
  closeSync(fd);
  return bytes;
};
const overwrite = (file: string, at: number, bytes: Uint8Array): void => {
  const fd = openSync(file, "r+");
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
};

describe("a layer with integrity", () => {
  test(
    "a layer with integrity has no header on its device until it is wiped, then opens as any other, and tells changed bytes",
    async () => {
      const { device, file } = loops.make(48);
      const { crypt, header } = await run(prepare(device, "luks-rbd-whole", HMAC));
      expect(crypt).toMatchObject({ name: "luks-rbd-whole", integrity: true });
      expect(layerOver({ path: device })).toEqual(crypt);
      expect(headers()).toEqual([]);
      expect(header.reduce((sum, { bytes }) => sum + bytes.length, 0)).toBeLessThan(1 << 20);
      await wipe(crypt);
      expect(await run(host.cryptHeader(device))).toMatchObject({ kind: "none", zeroed: true, allZeroed: true });
      expect(await lookThrough(crypt)).toEqual({ kind: "zeros", next: crypt.sizeBytes });
      await run(host.closeCrypt(crypt));
      expect(layerOver({ path: device })).toBeUndefined();

      expect(await run(host.sealCrypt({ device, header, over: "blank" }))).toBe(16n * MIB);
      expect((await errorOf(host.sealCrypt({ device, header, over: "blank" })))._tag).toBe("UnexpectedContent");
      const dump = JSON.parse(tool("cryptsetup", "luksDump", "--dump-json-metadata", device));
      expect([dump.segments["0"].offset, dump.segments["0"].integrity.type, dump.config.json_size]).toEqual([
        "16777216",
        "hmac(sha256)",
        "4190208",
      ]);
      const opened = await run(host.openCrypt({ device, name: "luks-rbd-again", key, readOnly: false }));
      expect([opened.headerBytes, opened.crypt.integrity, opened.crypt.sizeBytes]).toEqual([
        16n * MIB,
        true,
        crypt.sizeBytes,
      ]);
      expect((await errorOf(host.resizeCrypt(opened.crypt, device))).message).toContain("integrity");
      await run(host.mkfs({ device: opened.crypt.path, type: "ext4", options: undefined }));
      expect(await run(host.lookForData(opened.crypt.path, 0n))).toEqual({ kind: "data" });
      await run(host.closeCrypt(opened.crypt));

      // By cryptsetup alone, as ceph-csi opens it; then with other bytes somewhere behind the first tags.
      const readsByHand = async (): Promise<void> => {
        toolWith(KEY, "cryptsetup", "luksOpen", device, "luks-rbd-by-hand", "--disable-keyring", "-d", "-");
        const layer = layerOver({ path: device })!;
        expect(layer).toMatchObject({ name: "luks-rbd-by-hand", integrity: true });
        try {
          tool("dd", `if=${layer.path}`, "of=/dev/null", "bs=1M", "iflag=direct");
        } finally {
          await run(host.closeCrypt(layer));
        }
      };
      await readsByHand();
      const place = 24 << 20;
      const stored = bytesAt(file, place, 512);
      overwrite(
        file,
        place,
        stored.map((byte) => byte ^ 1),
      );
      tool("blockdev", "--flushbufs", device);
      expect(await readsByHand().catch(String)).toContain("error reading");
      overwrite(file, place, stored);
      tool("blockdev", "--flushbufs", device);
      await readsByHand();
    },
    MINUTES,
  );

  test(
    "a mode that cryptsetup does not know is refused with its name, and so is one that the cipher does not have",
    async () => {
      const { device } = loops.make(48);
      for (const integrity of ["hmac-sha999", "aead"]) {
        const failure = await errorOf(prepare(device, "luks-rbd-mode", { ...FAST, integrity }));
        expect(failure).toMatchObject({ _tag: "HostRefused", message: expect.stringContaining(integrity) });
      }
      expect([await run(host.cryptHeader(device)), headers(), layerOver({ path: device })]).toMatchObject([
        { kind: "none", allZeroed: true },
        [],
        undefined,
      ]);
    },
    MINUTES,
  );

  test(
    "a device that holds something is neither wiped nor given a header, also where key slots go",
    async () => {
      const other = loops.make(48);
      const { crypt, header } = await run(prepare(other.device, "luks-rbd-other"));
      await run(host.closeCrypt(crypt));
      const filesystem = loops.make(48);
      await run(host.mkfs({ device: filesystem.device, type: "ext4", options: undefined }));
      const slots = loops.make(48);
      const seal = (device: string) => host.sealCrypt({ device, header, over: "blank" });
      const refusals = [(device: string) => prepare(device, "luks-rbd-none"), seal];
      for (const refused of refusals) {
        const before = Bun.hash(readFileSync(filesystem.file));
        expect((await errorOf(refused(filesystem.device)))._tag).toBe("UnexpectedContent");
        expect(Bun.hash(readFileSync(filesystem.file))).toBe(before);
      }
      // Another client writes after this node has read, which it remembers for as long as anybody has the device open.
      for (const refused of refusals) {
        overwrite(slots.file, 15 << 20, Buffer.alloc(4096));
        tool("blockdev", "--flushbufs", slots.device);
        const reader = openSync(slots.device, "r");
        const remembered = Buffer.alloc(16 << 20);
        readSync(reader, remembered, 0, remembered.length, 0);
        overwrite(slots.file, 15 << 20, Buffer.from("unknown data"));
        const before = Bun.hash(readFileSync(slots.file));
        readSync(reader, remembered, 0, remembered.length, 0);
        expect(remembered.every((byte) => byte === 0)).toBe(true);
        expect((await errorOf(refused(slots.device)))._tag).toBe("UnexpectedContent");
        closeSync(reader);
        expect(Bun.hash(readFileSync(slots.file))).toBe(before);
      }
    },
    MINUTES,
  );
});

/** Reads a layer to its end, or up to its data. */
const lookThrough = async ({ path, sizeBytes }: Pick<CryptDevice, "path" | "sizeBytes">): Promise<DataLook> => {
  let look: DataLook = { kind: "zeros", next: 0n };
  while (look.kind === "zeros" && look.next < sizeBytes) look = await run(host.lookForData(path, look.next));
  return look;
};

describe("a format with integrity that was cut off", () => {
  test(
    "each part of a header on a device is one without key slots or the whole one, and the former is sealed again",
    async () => {
      const { device, file } = loops.make(48);
      const { crypt, header } = await run(prepare(device, "luks-rbd-torn"));
      await wipe(crypt);
      await run(host.closeCrypt(crypt));
      await run(host.sealCrypt({ device, header, over: "blank" }));
      const whole = bytesAt(file, 0, 16 << 20);
      // Each piece is stored or not, and those of the write that was cut off in any order.
      const [[begin], [text, rest], [copy], [first]] = headerWrites(header);
      const halves = [[begin], [begin, text], [begin, rest], [begin, text, rest]];
      const put = (pieces: readonly Piece[]) => {
        overwrite(file, 0, Buffer.alloc(16 << 20));
        for (const [at, bytes] of pieces) overwrite(file, at, bytes);
        tool("blockdev", "--flushbufs", device);
      };
      for (const half of halves) {
        put(half);
        expect(await run(host.cryptHeader(device))).toEqual({ kind: "half-made" });
        expect((await errorOf(host.sealCrypt({ device, header, over: "blank" })))._tag).toBe("UnexpectedContent");
        await run(host.sealCrypt({ device, header, over: "half-made" }));
        expect(bytesAt(file, 0, 16 << 20).equals(whole)).toBe(true);
      }
      put([first, text, rest, copy]);
      expect(bytesAt(file, 0, 16 << 20).equals(whole)).toBe(true);
      put([begin, text, rest, copy]);
      expect(await run(host.cryptHeader(device))).toEqual({ kind: "whole", integrity: true });
      const { crypt: opened } = await run(host.openCrypt({ device, name: "luks-rbd-torn", key, readOnly: false }));
      expect(await lookThrough(opened)).toEqual({ kind: "zeros", next: opened.sizeBytes });
      await run(host.closeCrypt(opened));
    },
    MINUTES,
  );

  test(
    "what a cryptsetup leaves that is killed in its own wipe is found and closed from the top down",
    async () => {
      const { device, file } = loops.make(96);
      const argv = ["cryptsetup", "-q", "luksFormat", "--type", "luks2", ...FAST.cipher, "--integrity", FAST.integrity];
      const child = Bun.spawn([...argv, device, "-d", "-"], {
        stdin: Buffer.from(KEY),
        stdout: "ignore",
        stderr: "ignore",
        env: { ...process.env, DM_DISABLE_UDEV: "1" },
      });
      const before = leftOver({ path: device }).length;
      while (leftOver({ path: device }).length < 2 && child.exitCode === null) await Bun.sleep(2);
      child.kill("SIGKILL");
      await child.exited;
      const names = leftOver({ path: device });
      expect([before, names.length, layerOver({ path: device })]).toEqual([0, 2, undefined]);
      for (const name of names) expect(name).toStartWith("temporary-cryptsetup-");
      closeLeftOver({ path: device, major: 7, minor: 0 });
      expect([leftOver({ path: device }), holders(device)]).toEqual([[], []]);
      // Its header is whole, and behind it sectors have no tag.
      expect(await run(host.cryptHeader(device))).toEqual({ kind: "whole", integrity: true });
      const { crypt } = await run(host.openCrypt({ device, name: "luks-rbd-unwiped", key, readOnly: false }));
      overwrite(file, (16 << 20) + 65_536, Buffer.alloc((80 << 20) - 65_536, 7));
      tool("blockdev", "--flushbufs", device);
      const { EILSEQ, EIO } = constants.errno;
      for (const failed of [await errorOf(host.lookForData(crypt.path, 0n)), await errorOf(host.probe(crypt.path))]) {
        expect(failed._tag).toBe("HostFailed");
        expect([EILSEQ, EIO]).toContain((failed as HostFailed).errno);
      }
      await run(host.closeCrypt(crypt));
    },
    MINUTES,
  );

  test(
    "half a layer, and what a cryptsetup leaves that is killed in its format, are found and closed; what is in use stays",
    () => {
      const { device } = loops.make(48);
      for (const name of ["luks-rbd-left_dif", "temporary-cryptsetup-ea05b1dd-b6a6-4323-aead-ba5fe696c497"]) {
        tool("integritysetup", "-q", "format", "--no-wipe", device);
        tool("integritysetup", "open", device, name);
        expect([leftOver({ path: device }), layerOver({ path: device })]).toEqual([[name], undefined]);
        const sectors = readFileSync(`/sys/block/${holders(device)[0]}/size`, "utf8").trim();
        tool("dmsetup", "create", "of-a-person", "--table", `0 ${sectors} linear /dev/mapper/${name} 0`);
        expect(leftOver({ path: device })).toEqual([]);
        tool("dmsetup", "remove", "of-a-person");
        closeLeftOver({ path: device, major: 7, minor: 0 });
        expect(leftOver({ path: device })).toEqual([]);
        tool("dd", "if=/dev/zero", `of=${device}`, "bs=1M", "count=1", "conv=fsync");
      }
    },
    MINUTES,
  );

  test(
    "what a cryptsetup leaves that is killed before its table is live is removed, and what is in use stays",
    async () => {
      const { device } = loops.make(48);
      const sectors = tool("blockdev", "--getsz", device).trim();
      const unborn = (name: string, uuid: string) => tool("dmsetup", "create", name, "--notable", "--uuid", uuid);
      const begun = (name: string, uuid: string) => {
        unborn(name, uuid);
        tool("dmsetup", "load", name, "--table", `0 ${sectors} linear ${device} 0`);
      };
      begun("luks-rbd-begun_dif", "CRYPT-SUBDEV-1-luks-rbd-begun_dif");
      expect(leftOver({ path: device })).toEqual(["luks-rbd-begun_dif"]);
      closeLeftOver({ path: device, major: 7, minor: 0 });
      expect([leftOver({ path: device }), holders(device)]).toEqual([[], []]);

      begun("luks-rbd-begun", "CRYPT-LUKS2-1-luks-rbd-begun");
      const layer = layerOver({ path: device })!;
      expect(layer.name).toBe("luks-rbd-begun");
      await run(host.closeCrypt(layer));
      expect([layerOver({ path: device }), holders(device)]).toEqual([undefined, []]);

      // One that lives and is open is neither closed nor removed.
      begun("luks-rbd-begun", "CRYPT-LUKS2-1-luks-rbd-begun");
      tool("dmsetup", "resume", "luks-rbd-begun");
      tool("dmsetup", "mknodes");
      const open = openSync("/dev/mapper/luks-rbd-begun", "r");
      expect((await errorOf(host.closeCrypt(layerOver({ path: device })!)))._tag).toBe("DeviceBusy");
      closeSync(open);
      await run(host.closeCrypt(layerOver({ path: device })!));

      await run(host.formatCrypt({ device, key, cipher: FAST.cipher, over: "blank" }));
      unborn("luks-rbd-unborn", "CRYPT-LUKS2-1-luks-rbd-unborn");
      const opening = host.openCrypt({ device, name: "luks-rbd-unborn", key, readOnly: false });
      expect((await errorOf(opening)).message).toContain("already exists");
      const { crypt } = await run(opening);
      await run(host.closeCrypt(crypt));
    },
    MINUTES,
  );

  test(
    "a wipe whose xfs_io is killed fails, and the device is prepared again",
    async () => {
      const { device } = loops.make(64);
      const { crypt } = await run(prepare(device, "luks-rbd-killed"));
      const failed = errorOf(host.wipeCrypt(crypt, 0n));
      const pid = await writer(failed);
      process.kill(pid, "SIGKILL");
      expect((await failed)._tag).toBe("HostUnexplained");
      await run(host.closeCrypt(crypt));
      const again = await run(prepare(device, "luks-rbd-killed"));
      await wipe(again.crypt);
      await run(host.closeCrypt(again.crypt));
    },
    MINUTES,
  );
});

const holders = (device: string) => readdirSync(`/sys/block/${basename(device)}/holders`);

/** The process that writes through a layer, for a call that does not end before it is found. */
const writer = (call: Promise<unknown>): Promise<number> => processOf((line) => line.includes("xfs_io\0-d\0"), call);
