/** The rig's own counting: a run that crashed, skipped or failed must never look like one that passed. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { argvAt, must, run } from "./place.ts";
import { judge, readReport, runSuite } from "./suite.ts";

const work = mkdtempSync(join(tmpdir(), "csi-rbd-suite-"));
afterAll(() => rmSync(work, { recursive: true }));

const runOf = async (name: string, body: string, limitMs = 20_000) => {
  writeFileSync(join(work, `${name}.test.ts`), `import { expect, test } from "bun:test";\n${body}`);
  const report = join(work, `${name}.xml`);
  const child = Bun.spawn(
    [process.execPath, "test", "--reporter=junit", `--reporter-outfile=${report}`, join(work, `${name}.test.ts`)],
    { stdout: "ignore", stderr: "ignore", timeout: limitMs },
  );
  return judge(name, report, await child.exited, Date.now());
};

test("counts what passed, failed and was skipped, by name", async () => {
  const outcome = await runOf(
    "mixed",
    `test("a < b", () => {}); test("no", () => { throw new Error("not 'so'\\nbut"); }); test.skip("later & 'more'", () => {});`,
  );
  expect(outcome).toMatchObject({ passed: 1, failed: 1 });
  expect(outcome.skipped).toEqual([expect.stringContaining("later & 'more'")]);
  expect(outcome.failures).toEqual([expect.stringMatching(/mixed\.test\.ts: no: not 'so'$/)]);
}, 20_000);

test("who asks for some tests by name is not told of the others", () => {
  const report = join(work, "chosen.xml");
  const other = `<testcase name="other" file="a.test.ts"><skipped /></testcase>`;
  writeFileSync(report, `<testsuites name="bun test" tests="2" failures="0" skipped="1">${other}</testsuites>`);
  expect(judge("chosen", report, 0, Date.now())).toMatchObject({ passed: 1, skipped: ["a.test.ts: other"] });
  expect(judge("chosen", report, 0, Date.now(), ["-t=one"])).toMatchObject({ passed: 1, skipped: [] });
});

test("a comparison that failed says what was different, on one line", async () => {
  const outcome = await runOf("differs", `test("no", () => expect({ "drop INTERNAL: lost": 3 }).toEqual({}));`);
  expect(outcome.failures).toEqual([
    expect.stringMatching(
      /: no: expect\(received\)\.toEqual\(expected\) - \{\} \+ \{ \+ "drop INTERNAL: lost": 3, \+ \}$/,
    ),
  ]);
}, 20_000);

test("a process that dies is a failure", async () => {
  const outcome = await runOf("dies", `test("dies", async () => { process.kill(process.pid, "SIGKILL"); await 0; });`);
  expect(outcome).toMatchObject({ passed: 0, failed: 1, cutShort: "exit status 137, and no report" });
}, 20_000);

test("an exit status that the report does not explain is a failure", () => {
  const report = join(work, "given.xml");
  writeFileSync(report, `<?xml version="1.0"?>\n<testsuites name="bun test" tests="3" failures="0" skipped="0">`);
  expect(readReport(report)).toEqual({ tests: 3, failed: 0, skipped: [], failures: [] });
  const unexplained = judge("given", report, 1, Date.now());
  expect(unexplained).toMatchObject({ passed: 3, failed: 1 });
  expect(unexplained.failures?.join()).toStartWith("exit status 1, although each test passed");
  expect(judge("given", report, 0, Date.now())).toMatchObject({ passed: 3, failed: 0 });
});

test("a run past its limit is killed with what it started, and is a failure", async () => {
  const outcome = await runSuite({
    name: "endless",
    folders: ["tests/rig/no-such-folder"],
    place: {},
    reports: work,
    limitMs: 1,
    testLimitMs: 1000,
  });
  expect(outcome).toMatchObject({ passed: 0, failed: 1 });
}, 20_000);

test("a command past its limit rejects; a failing one tells what it said", async () => {
  const late = await run({}, ["sleep", "30"], { timeoutMs: 50 }).catch((error: unknown) => String(error));
  expect(late).toContain("no end within 50 ms");
  const failing = await must({}, ["sh", "-c", "echo why >&2; exit 3"]).catch((error: unknown) => String(error));
  expect(failing).toMatch(/exit status 3\nwhy/);
}, 20_000);

test("another root is entered in a mount namespace of its own, read-only where asked", () => {
  const argv = argvAt({ root: "/r", cwd: "/c", binds: [{ path: "/c", readOnly: true }, { path: "/d" }] }, ["true"]);
  expect(argv.slice(0, 3)).toEqual(["unshare", "--mount", "--"]);
  expect(argv.slice(argv.indexOf("/r"))).toEqual(["/r", "/c", "ro", "/c", "rw", "/d", "--", "true"]);
});
