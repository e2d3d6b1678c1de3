/**
 * The rig's promise that a dead daemon ends a run at once, loudly and as a failure, kept on a cluster that this test
 * breaks.
 */
import { expect, spyOn, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { startCeph } from "../rig/ceph.ts";
import type { Daemon } from "../rig/daemon.ts";
import { checkout, runSuite } from "../rig/suite.ts";
import { testFolder } from "./driver.ts";

/** A suite that would go on for a minute, as tests do that wait for an OSD. */
const toySuite = (dir: string): string => {
  const folder = join(dir, "toy");
  mkdirSync(folder);
  writeFileSync(
    join(folder, "toy.test.ts"),
    `import { test } from "bun:test";
     import { writeFileSync } from "node:fs";
     test("goes on", async () => { writeFileSync(${JSON.stringify(join(folder, "begun"))}, ""); await Bun.sleep(60_000); });`,
  );
  return folder;
};

const deaths: ReadonlyArray<readonly [Daemon, NodeJS.Signals, RegExp]> = [
  // a daemon catches it and reports the crash itself
  ["osd.0", "SIGSEGV", /osd\.0 ended with signal SIGSEGV.*\nIts last words:[^]*Caught signal \(Segmentation fault\)/],
  ["mgr.x", "SIGKILL", /mgr\.x ended with signal SIGKILL.*\nIts last words:\n {4}\S/],
  ["mon.a", "SIGTERM", /mon\.a ended with (signal SIGTERM|exit status 0).*\nIts last words:\n {4}\S/],
];

test.each(deaths)(
  "A suite ends at once when %s ends with %s, and shows the daemon's last words",
  async (daemon, signal, words) => {
    const dir = testFolder("death");
    const toy = toySuite(dir);
    const death = new AbortController();
    const ceph = await startCeph({
      dir: join(dir, "ceph"),
      paxosInterval: 0.05,
      onDeath: (told) => death.abort(new Error(told)),
    });
    // last words in the output of a run that passes would alarm its readers
    const printed = spyOn(console, "error").mockImplementation(() => undefined);
    try {
      const suite = {
        name: "toy",
        folders: [relative(checkout, toy)],
        place: {},
        reports: dir,
        limitMs: 60_000,
        testLimitMs: 60_000,
        needs: death.signal,
      };
      const started = performance.now();
      const outcome = runSuite(suite);
      while (!(await Bun.file(join(toy, "begun")).exists())) await Bun.sleep(20);
      expect(death.signal.aborted).toBe(false);
      ceph.signal(daemon, signal);
      const first = { passed: 0, failed: 1, cutShort: expect.stringContaining(`${daemon} ended with`) };
      expect(await outcome).toMatchObject(first);
      expect(performance.now() - started).toBeLessThan(30_000);
      expect(String(death.signal.reason)).toMatch(words);
      expect(String(death.signal.reason).split("\n").length).toBeLessThan(35);
      // and no later one of that cluster is begun
      expect(await runSuite(suite)).toMatchObject({
        passed: 0,
        failed: 1,
        cutShort: expect.stringContaining("not begun"),
      });
      const [loudly = "", shortly = ""] = printed.mock.calls.map(([line]) => String(line));
      expect(loudly).toMatch(words);
      expect(shortly.trim().split("\n").length).toBe(1);
    } finally {
      printed.mockRestore();
      await ceph.stop();
    }
  },
  60_000,
);

test("A daemon that the rig itself stops does not count as dead", async () => {
  const told: string[] = [];
  const dir = join(testFolder("death"), "ceph");
  const ceph = await startCeph({ dir, paxosInterval: 0.05, onDeath: (words) => told.push(words) });
  await ceph.stopMgr();
  await ceph.startMgr();
  await ceph.stop();
  await Bun.sleep(100);
  expect(told).toEqual([]);
}, 60_000);
