/**
 * A command in a throwaway virtual machine over this machine's root: for krbd, nbd, dm-crypt and xfs, which a
 * container's kernel may lack.
 *
 * Not an image: the guest sees this machine's files read-only below an overlay in memory. By software emulation
 * only, since a nested KVM may hang; booting takes seconds, work inside about ten times its usual time.
 * Invariants:
 * 1. Nothing that the guest writes stays, except under `out` (OUT in the guest's environment).
 * 2. The exit status is the command's own; a guest that ends without telling one is a rejection.
 *
 * By hand: bun tests/rig/vm.ts -- COMMAND [ARGUMENT …]
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { must } from "./place.ts";
import { guestKernel, type Kernel } from "./kernel.ts";

export interface VmOptions {
  readonly command: ReadonlyArray<string>;
  /** Folder shared with the guest, writable; there it is at /mnt/out. */
  readonly out: string;
  /** Another release's root to run over (see roots.ts); this machine's by default. */
  readonly root?: string | undefined;
  /** Folders of this machine that another root must see too, read-only, under the same path. */
  readonly shares?: ReadonlyArray<string>;
  readonly env?: Readonly<Record<string, string>>;
  /** Working directory in the guest. */
  readonly cwd?: string;
  /** An address of this machine's loopback other than 127.0.0.1: what listens there is reached in the guest, too. */
  readonly loopback?: string;
  /** With `loopback`: a port of that address here at which a port of the guest is reached. */
  readonly forward?: { readonly from: number; readonly to: number };
  /** Modules of the guest's kernel to load; by default all that a volume's life may need, as a node's host has them. */
  readonly modules?: ReadonlyArray<string>;
  /** Aborted, with the reason, when what the command needs is gone: the guest ends at once, and so does the promise. */
  readonly needs?: AbortSignal;
  /** A disk's content as a raw file: /dev/vda, with the module virtio_blk. What the guest writes to it is in the file. */
  readonly disk?: string;
  readonly memMiB?: number;
  readonly limitMs?: number;
  /** Gets each line of the console; printed by default. */
  readonly line?: (text: string) => void;
}

export interface GuestNetwork {
  readonly card: string;
  /** With the length of the network's prefix. */
  readonly address: string;
  readonly gateway: string;
}

const userNetwork: GuestNetwork = { card: "eth0", address: "10.0.2.15/24", gateway: "10.0.2.2" };

/** Where the guest sees the folder `out`. */
export const OUT = "/mnt/out";

const allModules = ["rbd", "nbd", "dm-crypt", "xfs", "ext4", "loop"];
const initModules = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
export const words = (text: string): Array<string> => text.split(" ");
export const shellWord = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;

const initScript = (shares: ReadonlyArray<string>) => `#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
while read -r m; do $B insmod "/mods/$m"; done < /mods/order
P=trans=virtio,version=9p2000.L,msize=512000
over() { # tag, path: a read-only share with a writable layer in memory on top
  $B mkdir -p "/lower/$1" "/rw/$1/u" "/rw/$1/w" "$2"
  $B mount -t 9p -o $P,cache=loose,ro "$1" "/lower/$1"
  $B mount -t overlay overlay -o "lowerdir=/lower/$1,upperdir=/rw/$1/u,workdir=/rw/$1/w" "$2"
}
$B mkdir /rw; $B mount -t tmpfs -o size=80% rw /rw
over root /newroot
over kernel /newroot/lib/modules
${shares.map((path, index) => `over share${index} ${shellWord(`/newroot${path}`)}`).join("\n")}
$B mkdir -p /newroot/mnt/out; $B mount -t 9p -o $P out /newroot/mnt/out
for d in dev proc sys; do $B mount --move /$d /newroot/$d; done
exec $B switch_root /newroot /bin/bash /mnt/out/.guest
`;

/**
 * The guest's way to an address of this machine's loopback: QEMU's user network connects to it from here. Its kernel
 * would keep all of 127.0.0.0/8 to itself; the longer route, in the table that is asked first, takes one address out.
 */
const routeToLoopback = (loopback: string, { card, address, gateway }: GuestNetwork) => `
modprobe virtio_net
ip addr add ${address} dev ${card}; ip link set ${card} up
echo 1 > /proc/sys/net/ipv4/conf/${card}/route_localnet
ip route add ${loopback}/32 via ${gateway} dev ${card} table local`;

/** The script that the guest runs once it has its root. */
const guestScript = (options: VmOptions, network: GuestNetwork) => `
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root OUT=${OUT} LC_ALL=C.UTF-8
mount -t tmpfs run /run; mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
ip link set lo up; hostname rig-vm
${options.loopback === undefined ? "" : routeToLoopback(options.loopback, network)}
for m in ${(options.modules ?? allModules).join(" ")}; do modprobe $m || echo "vm: no module $m"; done
${Object.entries(options.env ?? {})
  .map(([name, value]) => `export ${name}=${shellWord(value)}`)
  .join("\n")}
cd ${shellWord(options.cwd ?? process.cwd())} || cd /
${options.command.map(shellWord).join(" ")} </dev/null
echo $? > ${OUT}/.rc
sync; echo o > /proc/sysrq-trigger; sleep 60
`;

const makeInitrd = async (folder: string, kernel: Kernel, shares: ReadonlyArray<string>): Promise<string> => {
  const tree = join(folder, "initrd");
  for (const sub of ["bin", "mods", "newroot", "proc", "sys", "dev", "lower"]) {
    mkdirSync(join(tree, sub), { recursive: true });
  }
  await must({}, ["cp", "/bin/busybox", join(tree, "bin")]);
  const order: Array<string> = [];
  for (const module of initModules) {
    const shown = await must({}, ["modprobe", "-d", kernel.dir, "-S", kernel.version, "--show-depends", module]);
    for (const [, file = ""] of shown.matchAll(/^insmod (\S+)/gm)) if (!order.includes(file)) order.push(file);
  }
  for (const file of order) await must({}, ["cp", file, join(tree, "mods")]);
  writeFileSync(join(tree, "mods", "order"), order.map((file) => `${file.replace(/.*\//, "")}\n`).join(""));
  writeFileSync(join(tree, "init"), initScript(shares));
  chmodSync(join(tree, "init"), 0o755);
  const image = join(folder, "initrd.gz");
  await must({ cwd: tree }, ["sh", "-c", 'find . | cpio -o -H newc --quiet | gzip -1 > "$0"', image]);
  return image;
};

const share = (tag: string, path: string, readOnly: boolean): Array<string> => [
  "-fsdev",
  `local,id=${tag},path=${path},security_model=none,multidevs=remap${readOnly ? ",readonly=on" : ""}`,
  "-device",
  `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`,
];

const networkCard = ({ loopback, forward }: VmOptions): string => {
  if (loopback === undefined) return "-nic none";
  const reached = forward === undefined ? "" : `,hostfwd=tcp:${loopback}:${forward.from}-:${forward.to}`;
  return `-nic user,model=virtio-net-pci${reached}`;
};

const diskDrive = ({ disk }: VmOptions): Array<string> =>
  disk === undefined ? [] : ["-drive", `file=${disk},format=raw,if=virtio,cache=unsafe`];

const eachLine = async (stream: ReadableStream<Uint8Array>, line: (text: string) => void): Promise<void> => {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const text of lines) line(text.replaceAll("\r", ""));
  }
  if (rest !== "") line(rest);
};

/** What a VM needs that is missing here. */
export const vmLacks = (): string | undefined => {
  const missing = ["qemu-system-x86_64", "modprobe", "depmod", "cpio", "apt-get"].filter(
    (program) => Bun.which(program, { PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` }) === null,
  );
  if (!existsSync("/bin/busybox")) missing.push("busybox");
  return missing.length === 0 ? undefined : `no ${missing.join(", no ")}`;
};

/** MiB. */
export const memoryOf = ({ memMiB }: VmOptions): number => memMiB ?? Math.min(6144, Math.floor(totalmem() / 2 ** 21));

/** Runs the machine until it is off, and in it the command; resolves to the command's exit status. */
export const runMachine = async (
  argv: ReadonlyArray<string>,
  options: VmOptions,
  network: GuestNetwork,
): Promise<number> => {
  const [script, status] = [join(options.out, ".guest"), join(options.out, ".rc")];
  mkdirSync(options.out, { recursive: true });
  rmSync(status, { force: true });
  const limitMs = options.limitMs ?? 15 * 60_000;
  let late = false;
  let end = () => {};
  const timer = setTimeout(() => {
    late = true;
    end();
  }, limitMs);
  try {
    writeFileSync(script, guestScript(options, network), { mode: 0o600 });
    const machine = Bun.spawn([...words("setpriv --pdeathsig KILL -- setsid"), ...argv], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    end = () => machine.kill("SIGKILL");
    options.needs?.addEventListener("abort", end);
    if (options.needs?.aborted === true) end();
    await Promise.all([eachLine(machine.stdout, options.line ?? console.log), machine.exited]);
    options.needs?.throwIfAborted();
    if (late) throw new Error(`the virtual machine did not end within ${limitMs / 1000} s`);
    if (!existsSync(status)) throw new Error("the virtual machine ended without an exit status: see its console above");
    return Number(await Bun.file(status).text());
  } finally {
    options.needs?.removeEventListener("abort", end);
    clearTimeout(timer);
    for (const file of [script, status]) rmSync(file, { force: true });
  }
};

/** Runs a command as root in the guest; resolves to its exit status. */
export const runInVm = async (options: VmOptions): Promise<number> => {
  const kernel = await guestKernel();
  const root = options.root ?? "/";
  const shares = options.root === undefined ? [] : (options.shares ?? []);
  const work = mkdtempSync(join(tmpdir(), "csi-rbd-vm-"));
  try {
    const initrd = await makeInitrd(work, kernel, shares);
    return await runMachine(
      [
        ...words("qemu-system-x86_64 -accel tcg,thread=multi -cpu max"),
        ...words(`-smp ${Math.min(cpus().length, 4)} -m ${memoryOf(options)} -display none -vga none -monitor none`),
        ...words("-serial stdio -no-reboot"),
        ...words(networkCard(options)),
        ...diskDrive(options),
        "-kernel",
        kernel.image,
        "-initrd",
        initrd,
        "-append",
        "console=ttyS0 quiet panic=-1",
        ...share("root", root, true),
        ...share("kernel", join(kernel.dir, "lib", "modules"), true),
        ...shares.flatMap((path, index) => share(`share${index}`, path, true)),
        ...share("out", options.out, false),
      ],
      options,
      userNetwork,
    );
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
};

if (import.meta.main) {
  // Bun itself takes the first "--" away, where it comes right after the script's name
  const command = process.argv.slice(process.argv[2] === "--" ? 3 : 2);
  if (command.length === 0) {
    console.error("usage: bun tests/rig/vm.ts -- COMMAND [ARGUMENT …]");
    process.exit(2);
  }
  const out = mkdtempSync(join(tmpdir(), "csi-rbd-out-"));
  process.exitCode = await runInVm({ command, out });
  if (readdirSync(out).length === 0) rmSync(out, { recursive: true });
  else console.log(`vm: its files are in ${out}`);
}
