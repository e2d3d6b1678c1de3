/**
 * What tests in the virtual machine ask of this machine, where the cluster is: stopping and resuming a daemon, and
 * running one of Ceph's tools, which in emulation takes seconds.
 *
 * Not here: starting and ending daemons (ceph.ts), which tests leave to the rig.
 * Invariants:
 * 1. A daemon that was stopped goes on when the control ends, and a second cluster ends with it.
 * 2. Only Ceph's own tools are run, on the one cluster, for whoever knows the secret in the URL.
 */
import { readFileSync } from "node:fs";
import * as z from "zod";
import { clusterAddress } from "./address.ts";
import { type CephCluster, startCeph } from "./ceph.ts";
import type { Daemon } from "./daemon.ts";
import { type Finished, run } from "./place.ts";

type Signal = "SIGSTOP" | "SIGCONT";

const Request = z.union([
  z.object({ signal: z.enum(["SIGSTOP", "SIGCONT"]), daemon: z.enum(["mon.a", "mgr.x", "osd.0"]) }),
  z.object({ second: z.string() }),
  z.object({ tool: z.array(z.string()).refine(([program = ""]) => ["ceph", "rbd", "rados"].includes(program)) }),
]);
const Answer = z.object({ code: z.number(), stdout: z.string(), stderr: z.string() });

const signalHere = (dir: string, daemon: Daemon, signal: Signal): void => {
  process.kill(Number(readFileSync(`${dir}/run/${daemon}.pid`, "utf8")), signal);
};
const runHere = (conf: string, tool: ReadonlyArray<string>): Promise<Finished> =>
  run({ env: { CEPH_CONF: conf } }, tool);

/** A cluster that has nothing to do with the one of `dir`, with a pool. */
const secondCluster = async (dir: string, pool: string): Promise<CephCluster> => {
  const cluster = await startCeph({ dir: `${dir}-second`, paxosInterval: 0.05 });
  await cluster.createPool(pool);
  return cluster;
};

export interface Control {
  /** For the tests, as CSI_RBD_CONTROL. */
  readonly url: string;
  readonly end: () => Promise<void>;
}

/** Serves the cluster of a folder until `end`. */
export const serveControl = (dir: string): Control => {
  const secret = crypto.randomUUID();
  const stopped = new Set<Daemon>();
  let second: Promise<CephCluster> | undefined;
  const server = Bun.serve({
    hostname: clusterAddress,
    port: 0,
    // a tool may take a minute
    idleTimeout: 120,
    fetch: async (request) => {
      if (new URL(request.url).pathname !== `/${secret}`) return new Response(null, { status: 404 });
      const asked = Request.parse(await request.json());
      if ("second" in asked) {
        const { monitors, adminKey } = await (second ??= secondCluster(dir, asked.second));
        return Response.json({ code: 0, stdout: JSON.stringify({ monitors, key: adminKey }), stderr: "" });
      }
      if ("tool" in asked) return Response.json(await runHere(`${dir}/ceph.conf`, asked.tool));
      signalHere(dir, asked.daemon, asked.signal);
      if (asked.signal === "SIGSTOP") stopped.add(asked.daemon);
      else stopped.delete(asked.daemon);
      return Response.json({ code: 0, stdout: "", stderr: "" });
    },
  });
  return {
    url: `http://${clusterAddress}:${server.port}/${secret}`,
    end: async () => {
      for (const daemon of stopped) signalHere(dir, daemon, "SIGCONT");
      await server.stop(true);
      await (await second)?.stop();
    },
  };
};

const ask = async (url: string, asked: z.infer<typeof Request>): Promise<Finished> => {
  const answer = await fetch(url, { method: "POST", body: JSON.stringify(asked) });
  if (!answer.ok) throw new Error(`the rig refuses ${JSON.stringify(asked)}: HTTP status ${answer.status}`);
  return Answer.parse(await answer.json());
};

const controlUrl = (): string => process.env["CSI_RBD_CONTROL"] ?? "";

/** Signals a daemon of the cluster in `dir`, wherever this process runs. */
export const signalDaemon = async (dir: string, daemon: Daemon, signal: Signal): Promise<void> => {
  if (controlUrl() === "") signalHere(dir, daemon, signal);
  else await ask(controlUrl(), { signal, daemon });
};

/** Runs one of Ceph's tools (ceph, rbd or rados), where the cluster is. */
export const runTool = (conf: string, tool: ReadonlyArray<string>): Promise<Finished> =>
  controlUrl() === "" ? runHere(conf, tool) : ask(controlUrl(), { tool: [...tool] });

const Second = z.object({ monitors: z.array(z.string()), key: z.string() });

/** Another cluster, with a pool of that name: started when it is first asked for, and ended with the control. */
export const otherCluster = async (pool: string): Promise<z.infer<typeof Second>> =>
  Second.parse(JSON.parse((await ask(controlUrl(), { second: pool })).stdout));
