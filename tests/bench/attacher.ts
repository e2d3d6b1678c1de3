/**
 * Our attacher beside Kubernetes' own csi-attacher, one after the other on one API server: how long many attachments at
 * once take, how many requests each costs, and the memory while many are attached.
 *
 * Not here: the API server, and what is in it (./attacher-plane.ts).
 *
 * 1. The attachments are there before the attacher starts, and time runs from its first request for one to its last.
 * 2. Both have their own defaults. By these the other one makes 5 requests per second: it is measured so, as it is
 *    installed, with fewer attachments, and without that limit, where both wait for the API server most of the time.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { ControlPlane } from "../rig/kubernetes/control-plane.ts";
import { sidecarFolder } from "../rig/kubernetes/sidecars.ts";
import { startProcess } from "../support/driver-process.ts";
import { temporaryDirectory } from "../support/grpc-serving.ts";
import { PublishingDriver } from "../support/publishing-driver.ts";
import { type Asked, askedBy, bulkOf, logEnd, startBenchPlane } from "./attacher-plane.ts";
import { cpuMsOf, memoryMiB, middle } from "./measure.ts";
import { column, judged, type Line } from "./report.ts";

/** Times and memory are ours over the other's. */
const TARGETS = {
  controllerMiB: 150,
  trivialRequests: 1,
  publishRequests: 3,
  timeAsInstalled: 0.5,
  timeUnlimited: 1,
  memory: 1,
};
const SETTLED_MS = 15_000;

type Side = "ours" | "unlimited" | "installed";
const FAST: readonly Side[] = ["ours", "unlimited"];
const TITLES: Readonly<Record<Side, string>> = {
  ours: "ours",
  unlimited: "csi-attacher without its limit",
  installed: "csi-attacher as installed",
};
const UNLIMITED = ["--kube-api-qps=100000", "--kube-api-burst=100000"];
/** Attachments for the one that is slow: more than the burst that it is allowed, which is 10 requests. */
const FEW = 50;

export interface AttacherLoad {
  readonly atOnce: number;
  readonly rounds: number;
  readonly attached: number;
}

interface Running {
  readonly pid: number;
  readonly end: () => Promise<void>;
}

type Start = (side: Side, driver: PublishingDriver) => Running;

const starter = (plane: ControlPlane, upstream: string): Start => {
  const spawn = (side: Side, flags: readonly string[]) => {
    if (side === "ours") return startProcess(["attacher", ...flags]);
    const more = side === "unlimited" ? UNLIMITED : [];
    return Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", upstream, ...more, ...flags], {
      stdio: ["ignore", "ignore", "ignore"],
    });
  };
  return (side, driver) => {
    const child = spawn(side, [`--csi-address=${driver.path}`, `--kubeconfig=${plane.kubeconfigOf(side)}`]);
    return {
      pid: child.pid,
      end: async () => {
        child.kill("SIGKILL");
        await child.exited;
      },
    };
  };
};

let drivers = 0;

const withDriver = async <A>(publishes: boolean, work: (driver: PublishingDriver) => Promise<A>): Promise<A> => {
  const directory = temporaryDirectory();
  const name = `bench${(drivers += 1)}.csi.example.com`;
  const driver = new PublishingDriver(name, join(directory, "csi.sock"));
  driver.publishes = publishes;
  await driver.start();
  try {
    return await work(driver);
  } finally {
    await driver.stop();
    rmSync(directory, { recursive: true });
  }
};

interface Place {
  readonly plane: ControlPlane;
  readonly start: Start;
}

interface Round extends Asked {
  /** Of the attacher, its start included. */
  readonly cpuMs: number;
}

const round = ({ plane, start }: Place, side: Side, publishes: boolean, count: number): Promise<Round> =>
  withDriver(publishes, async (driver) => {
    const { node, volumes, attachments, untilAttached, deleteAll } = await bulkOf(plane, driver.name);
    await node();
    await volumes(count);
    await attachments(count);
    const from = logEnd(plane);
    const attacher = start(side, driver);
    await untilAttached(count);
    const asked = { ...askedBy(plane, side, from), cpuMs: cpuMsOf(attacher.pid) };
    await deleteAll();
    await attacher.end();
    return asked;
  });

interface Result {
  readonly msEach: number;
  readonly requests: number;
}

const resultOf = (side: Side, count: number, rounds: readonly Round[]): Result => {
  const ms = middle(rounds.map(({ milliseconds }) => milliseconds));
  const cpu = middle(rounds.map(({ cpuMs }) => cpuMs));
  const requests = middle(rounds.map((asked) => asked.requests)) / count;
  const kinds = Object.entries(rounds.at(-1)?.kinds ?? {}).map(([kind, many]) => `${many} ${kind}`);
  console.log(
    `  ${TITLES[side].padEnd(31)}${column(count, 5, 0)} in ${column(ms, 6, 0)} ms, with ${column(cpu, 5, 0)} ms of its CPU and ` +
      `${column(requests, 5)} requests each: ${kinds.join(", ")}`,
  );
  return { msEach: ms / count, requests };
};

/** The middle round of each side. */
const compared = async (
  place: Place,
  publishes: boolean,
  { atOnce, rounds }: AttacherLoad,
): Promise<Readonly<Record<Side, Result>>> => {
  console.log(`\nattachments at once, ${publishes ? "by ControllerPublishVolume" : "without asking the driver"}`);
  const found: Record<Side, Round[]> = { ours: [], unlimited: [], installed: [] };
  for (let n = 0; n < rounds; n++)
    for (const side of FAST) found[side].push(await round(place, side, publishes, atOnce));
  found.installed.push(await round(place, "installed", publishes, FEW));
  return {
    ours: resultOf("ours", atOnce, found.ours),
    unlimited: resultOf("unlimited", atOnce, found.unlimited),
    installed: resultOf("installed", FEW, found.installed),
  };
};

const memoryOf = (pid: number) => ({ now: memoryMiB(pid, "VmRSS"), peak: memoryMiB(pid, "VmHWM") });

/** Memory of each side, started anew beside so many volumes and attachments that are attached, after one more. */
const memories = ({ plane, start }: Place, count: number) =>
  withDriver(true, async (driver) => {
    const { node, volumes, attachments, untilAttached } = await bulkOf(plane, driver.name);
    await node();
    await volumes(count + FAST.length);
    await attachments(count);
    console.log(`\n${count} volumes and attachments`);
    const first = start("ours", driver);
    await untilAttached(count);
    const { now, peak } = memoryOf(first.pid);
    console.log(`  ours, having attached them:${column(now, 8, 0)} MiB, at most ${peak.toFixed(0)}`);
    await first.end();
    const result = { ours: 0, unlimited: 0, installed: 0 };
    for (const [index, side] of FAST.entries()) {
      const attacher = start(side, driver);
      await attachments(1, count + index);
      await untilAttached(count + index + 1);
      await Bun.sleep(SETTLED_MS);
      const memory = memoryOf(attacher.pid);
      result[side] = memory.now;
      console.log(
        `  ${TITLES[side]}, started beside them:${column(memory.now, 8, 0)} MiB, at most ${memory.peak.toFixed(0)}`,
      );
      await attacher.end();
    }
    return result;
  });

/** Of the driver's controller with its attacher in one process, at rest beside so many of its attachments. */
const controllerMemory = async (plane: ControlPlane, work: string, count: number): Promise<number> => {
  const name = "bench.csi.example.com";
  const { node, volumes, attachments, untilAttached } = await bulkOf(plane, name);
  await node();
  await volumes(count);
  await attachments(count);
  const child = startProcess([
    "--type=rbd",
    "--nodeid=bench",
    "--controllerserver",
    "--attacher",
    `--drivername=${name}`,
    `--endpoint=unix://${join(work, "controller.sock")}`,
    `--csi-addons-endpoint=unix://${join(work, "csi-addons.sock")}`,
    `--kubeconfig=${plane.kubeconfigOf("ours")}`,
  ]);
  await untilAttached(count);
  await Bun.sleep(SETTLED_MS);
  const { now, peak } = memoryOf(child.pid);
  console.log(`  controller with attacher, having attached them:${column(now, 8, 0)} MiB, at most ${peak.toFixed(0)}`);
  child.kill("SIGTERM");
  await child.exited;
  return now;
};

export const attacher = async (work: string, load: AttacherLoad): Promise<readonly Line[]> => {
  const plane = await startBenchPlane(join(work, "plane"), Object.keys(TITLES));
  try {
    const place = { plane, start: starter(plane, join(await sidecarFolder(), "csi-attacher")) };
    const trivial = await compared(place, false, load);
    const publish = await compared(place, true, load);
    const memory = await memories(place, load.attached);
    const controller = await controllerMemory(plane, work, load.atOnce);
    const over = ({ ours, ...others }: typeof trivial, side: keyof typeof others) => ours.msEach / others[side].msEach;
    const { trivialRequests, publishRequests, timeAsInstalled, timeUnlimited } = TARGETS;
    return [
      judged("API requests of a trivial attach", trivial.ours.requests, "at most", trivialRequests),
      judged("API requests of an attach with a publish", publish.ours.requests, "at most", publishRequests),
      judged("trivial attach: time over csi-attacher's", over(trivial, "installed"), "at most", timeAsInstalled),
      judged("attach: time over csi-attacher's", over(publish, "installed"), "at most", timeAsInstalled),
      judged("trivial attach: over its time without limit", over(trivial, "unlimited"), "at most", timeUnlimited),
      judged("attach: over its time without limit", over(publish, "unlimited"), "at most", timeUnlimited),
      judged("memory of the controller with its attacher, MiB", controller, "at most", TARGETS.controllerMiB),
      judged("attacher: memory over csi-attacher's", memory.ours / memory.unlimited, "at most", TARGETS.memory),
    ];
  } finally {
    await plane.stop();
  }
};
