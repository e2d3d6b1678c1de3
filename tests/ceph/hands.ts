/**
 * An administrator's hands on the rig's cluster, for tests of the Ceph layer: users, sessions, daemons that hang.
 *
 * 1. A daemon that was stopped goes on when its test ends, whatever the test did.
 */
import type { Rig } from "../rig/cluster.ts";
import { signalDaemon } from "../rig/control.ts";

export const timed = async <A>(work: Promise<A>): Promise<{ readonly value: A; readonly ms: number }> => {
  const since = performance.now();
  const value = await work;
  return { value, ms: performance.now() - since };
};

/** Stops a daemon's process while `during` runs: its connections stay, answers don't come. */
export const frozen = async (
  { dir }: Rig,
  daemon: "mon.a" | "osd.0" | "mgr.x",
  during: () => Promise<void>,
): Promise<void> => {
  await signalDaemon(dir, daemon, "SIGSTOP");
  try {
    await during();
  } finally {
    await signalDaemon(dir, daemon, "SIGCONT");
  }
};

const environment = ({ conf }: Rig) => ({ ...process.env, CEPH_CONF: conf, LC_ALL: "C" });

const run = async (cluster: Rig, ...command: string[]): Promise<string> => {
  const child = Bun.spawn(command, {
    env: environment(cluster),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000,
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`${command.slice(0, 4).join(" ")}: ${err.trim()}`);
  return out;
};
const ceph = (cluster: Rig, ...command: string[]): Promise<string> => run(cluster, "ceph", ...command);

interface Session {
  readonly entity_name: string;
  readonly addrs: { readonly addrvec: readonly { readonly addr: string; readonly nonce: number }[] };
}

export const tool = {
  ceph,
  rbd: (cluster: Rig, ...command: string[]): Promise<string> => run(cluster, "rbd", ...command),
  /** As `rbd`, while this thread has an image open. */
  rbdNow: (cluster: Rig, ...command: string[]): string =>
    Bun.spawnSync(["rbd", ...command], { env: environment(cluster), timeout: 20_000 }).stdout.toString(),
  /** Makes the user where it is missing. */
  userOf: async (cluster: Rig, user: string, caps: readonly string[]): Promise<{ readonly key: string }> => {
    const [made] = JSON.parse(
      await ceph(cluster, "auth", "get-or-create", `client.${user}`, ...caps, "--format=json"),
    ) as { key: string }[];
    if (made === undefined) throw new Error(`client.${user} was not made`);
    return made;
  },
  /** Addresses from which the user is connected just now. */
  sessionsOf: async (cluster: Rig, user: string): Promise<string[]> => {
    const listed = JSON.parse(await ceph(cluster, "tell", "mon.a", "sessions", "--format=json")) as Session[];
    return listed
      .filter(({ entity_name }) => entity_name === `client.${user}`)
      .flatMap(({ addrs }) => addrs.addrvec.map(({ addr, nonce }) => `${addr}/${nonce}`));
  },
};
