/**
 * How fast the driver serves after its start, and what the node plugin of one container takes while it rests: the Node
 * service, the registrar and /healthz in one process.
 *
 * 1. No cluster is asked: a driver serves, and rests, before it knows any.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startProcess } from "../support/driver-process.ts";
import { answered, freePort } from "../support/http-client.ts";
import { cpuMsOf, emptySample, memoryMiB, quantile } from "./measure.ts";
import { column, judged, type Line } from "./report.ts";

const TARGETS = { startMs: 300, residentMiB: 120 };
/** When cells that nobody needs have ended (lib/cells). */
const AT_REST_MS = 16_000;

const nodePlugin = (dir: string, port: number) => {
  const socket = join(dir, "csi.sock");
  const child = startProcess([
    "--type=rbd",
    "--nodeid=bench",
    "--nodeserver",
    `--endpoint=unix://${socket}`,
    `--csi-addons-endpoint=unix://${join(dir, "csi-addons.sock")}`,
    `--kubelet-registration-path=${socket}`,
    `--plugin-registration-path=${dir}`,
    `--http-endpoint=127.0.0.1:${port}`,
  ]);
  return { child, socket };
};

const serves = async (socket: string): Promise<void> => {
  while (!existsSync(socket)) await Bun.sleep(1);
};

const residentMiB = (pid: number): Record<string, number> => ({
  all: memoryMiB(pid, "VmRSS"),
  own: memoryMiB(pid, "RssAnon"),
  files: memoryMiB(pid, "RssFile"),
});

export const starts = async (rounds: number): Promise<readonly Line[]> => {
  const dir = mkdtempSync(join(tmpdir(), "csi-bench-start-"));
  const port = await freePort();
  const [wall, cpu] = [emptySample(), emptySample()];
  for (let round = 0; round < rounds; round++) {
    const started = performance.now();
    const { child, socket } = nodePlugin(dir, port);
    await serves(socket);
    wall.latencies.push(performance.now() - started);
    cpu.latencies.push(cpuMsOf(child.pid));
    child.kill("SIGTERM");
    await child.exited;
  }
  console.log(
    `\nnode plugin, start to serving: p50 ${column(quantile(wall, 0.5), 6, 0)} ms, ${column(quantile(cpu, 0.5), 6, 0)} ms of CPU`,
  );
  const { child, socket } = nodePlugin(dir, port);
  await serves(socket);
  await answered(port, "/healthz", 200);
  await Bun.sleep(AT_REST_MS);
  const { all = Number.NaN, own = Number.NaN, files = Number.NaN } = residentMiB(child.pid);
  console.log(`at rest: ${column(all, 6)} MiB, ${column(own, 6)} of its own and ${column(files, 6)} of files`);
  child.kill("SIGTERM");
  await child.exited;
  rmSync(dir, { recursive: true });
  return [
    judged("start to serving, p50, ms", quantile(wall, 0.5), "at most", TARGETS.startMs),
    judged("memory of the node plugin at rest, MiB", all, "at most", TARGETS.residentMiB),
  ];
};
