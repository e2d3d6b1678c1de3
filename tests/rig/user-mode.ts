/**
 * A command in a kernel that is itself a program of this machine (User Mode Linux), over this machine's root: with krbd, nbd,
 * dm-crypt and xfs as in ./vm.ts, and at this machine's own speed, since nothing is emulated.
 *
 * Not here: the emulated machine (./vm.ts), which has several processors, a distribution's own kernel, and fscrypt.
 * Invariants:
 * 1. Nothing that the guest writes stays, except under `out` (OUT in the guest's environment).
 * 2. The exit status is the command's own; a guest that ends without telling one is a rejection.
 * 3. The guest's network card on this machine goes with the guest, unless this process is killed.
 */
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must, systemPath } from "./place.ts";
import { cacheFolder, codenames, makeOfDebian } from "./roots.ts";
import { unpacked } from "./unpacked.ts";
import { memoryOf, OUT, runMachine, type VmOptions, words } from "./vm.ts";

/** The newest Debian release that the rig knows: its kernel knows the registers of today's processors. */
const CODENAME = codenames[20];

interface Program {
  readonly file: string;
  readonly modules: string;
  readonly version: string;
}

const describe = (root: string): Program => {
  const modules = join(root, "usr/lib/uml/modules");
  return { file: join(root, "usr/bin/linux.uml"), modules, version: readdirSync(modules)[0] ?? "" };
};

/** The program, with a C library of its own beside it; fetched (40 MB) on first use. */
const program = async (): Promise<Program> => {
  const final = join(cacheFolder("kernel"), `user-mode-${CODENAME}`);
  if (existsSync(final)) return describe(final);
  console.log("fetching the kernel that is a program");
  const libraries = join(final, "usr/lib/x86_64-linux-gnu");
  const patch = join(await unpacked("patchelf"), "usr/bin/patchelf");
  const own = ["--set-interpreter", join(libraries, "ld-linux-x86-64.so.2"), "--set-rpath", libraries];
  await makeOfDebian(final, {
    codename: CODENAME,
    wanted: ["--variant=extract", "--include=user-mode-linux"],
    finish: (root) => must({}, [patch, ...own, describe(root).file]),
  });
  return describe(final);
};

interface Card {
  readonly name: string;
  readonly ours: string;
  readonly guests: string;
}

/** A network of two: this machine, where the guest reaches the loopback's addresses, too, and the guest. */
const withCard = async <A>(use: (card: Card) => Promise<A>): Promise<A> => {
  const [high, low] = [(process.pid >> 8) & 0x7f, process.pid & 0xff];
  const card = { name: `rig${process.pid}`, ours: `10.${128 + high}.${low}.1`, guests: `10.${128 + high}.${low}.2` };
  await must({}, ["ip", "tuntap", "add", card.name, "mode", "tap"]);
  try {
    await must({}, ["ip", "addr", "add", `${card.ours}/30`, "dev", card.name]);
    await must({}, ["ip", "link", "set", card.name, "up"]);
    writeFileSync(`/proc/sys/net/ipv4/conf/${card.name}/route_localnet`, "1");
    return await use(card);
  } finally {
    await must({}, ["ip", "tuntap", "del", card.name, "mode", "tap"]);
  }
};

const initScript = ({ modules, version }: Program, out: string) => `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
shopt -s expand_aliases; alias mount='mount -n'
mount -t proc proc /proc; mount -t sysfs sys /sys
insmod ${modules}/${version}/kernel/fs/overlayfs/overlay.ko
mount -t tmpfs -o size=80% rw /mnt; mkdir /mnt/u /mnt/w /mnt/new /mnt/mu /mnt/mw
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/new
mkdir -p /mnt/new/lib/modules /mnt/new${OUT}
mount -t overlay overlay -o lowerdir=${modules},upperdir=/mnt/mu,workdir=/mnt/mw /mnt/new/lib/modules
mount -t hostfs -o ${out} none /mnt/new${OUT}
for d in dev proc sys; do mount --move /$d /mnt/new/$d; done
exec switch_root /mnt/new /bin/bash ${OUT}/.guest
`;

/** What such a kernel needs that is missing here. */
export const userModeLacks = (): string | undefined => {
  // Debian has the program for this processor alone
  if (process.arch !== "x64") return "no User Mode Linux for this processor";
  const missing = ["mmdebstrap", "ip"].filter((name) => Bun.which(name, { PATH: systemPath }) === null);
  if (!existsSync("/dev/net/tun")) missing.push("/dev/net/tun");
  return missing.length === 0 ? undefined : `no ${missing.join(", no ")}`;
};

/** Runs a command as root in the guest; resolves to its exit status. */
export const runInUserMode = async (options: VmOptions): Promise<number> => {
  const linux = await program();
  const work = mkdtempSync(join(tmpdir(), "csi-rbd-user-mode-"));
  try {
    const init = join(work, "init");
    writeFileSync(init, initScript(linux, options.out), { mode: 0o700 });
    return await withCard(({ name, ours, guests }) => {
      const argv = [
        linux.file,
        `mem=${memoryOf(options)}M`,
        ...words("seccomp=auto rootfstype=hostfs rootflags=/ ro quiet con=null con0=null,fd:1 panic=-1"),
        `uml_dir=${work}`,
        `init=${init}`,
        `vec0:transport=tap,ifname=${name},depth=64,gro=1`,
      ];
      return runMachine(argv, options, { address: `${guests}/30`, gateway: ours, card: "vec0" });
    });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
};
