/** What a failure of the host says of its outcome: nothing definite is claimed for a call that nobody saw the end of. */
import { expect, test } from "bun:test";
import { Errno } from "../../../lib/cells/cell.ts";
import { CellDown, CellErrno, CellStuck } from "../../../lib/cells/errors.ts";
import { failure, must, outputOf, run, timeLeft } from "../../../lib/host/child.ts";
import { failed } from "../../../lib/host/live.ts";
import { outcomeOf } from "../../../lib/operations/outcomes.ts";

const errno = (midway: boolean) => new CellErrno({ op: "mount", errno: 5, message: "Input/output error", midway });

test.each([
  ["an errno", errno(false), "HostFailed", "HostFailed"],
  ["an errno after the change began", errno(true), "HostFailed", "HostUnexplained"],
  ["a worker that ended", new CellDown({ op: "mount", reason: "exit", ran: true }), "HostFailed", "HostUnexplained"],
  ["a worker that there was none of", new CellDown({ op: "mount", reason: "x", ran: false }), "HostStuck", "HostStuck"],
  [
    "a call that hangs",
    new CellStuck({ op: "mount", subject: "/x", seconds: 40, advice: "Look." }),
    "HostStuck",
    "HostStuck",
  ],
] as const)("%s: of a read and of a change", (_, error, read, change) => {
  expect(failed("mount", "/x", "reads")(error)._tag).toBe(read);
  const changed = failed("mount", "/x", "changes")(error);
  expect([changed._tag, outcomeOf(changed)]).toEqual([change, change === "HostFailed" ? "none" : "unknown"]);
});

test("a call whose time is over begins nothing more, and does not say how far it came", async () => {
  const left = timeLeft("cryptsetup luksFormat", 30);
  expect(left()).toBeLessThanOrEqual(30);
  expect(run(["sleep", "10"], { limit: left() }).timedOut).toBe(true);
  await Bun.sleep(5);
  expect(left).toThrow(/within 0.03 s/);
  expect(left).toThrow(expect.objectContaining({ op: "cryptsetup luksFormat", midway: true }));
});

test("a tool that was killed does not say how far it came, one that exited does", () => {
  const killed = run(["sh", "-c", "kill -9 $$"]);
  expect(killed.code).toBeLessThan(0);
  expect(failure("sh", killed)).toMatchObject({ midway: true, message: "it was killed by a signal" });
  const late = run(["sleep", "10"], { limit: 50 });
  expect(failure("sleep", late)).toMatchObject({ midway: true, message: "it was killed at its time limit" });
  const thrown = (() => {
    try {
      return must(["sh", "-c", "echo no >&2; exit 3"]);
    } catch (error) {
      return error;
    }
  })();
  expect(thrown).toBeInstanceOf(Errno);
  expect(thrown).toMatchObject({ midway: false, message: "no (exit status 3)" });
});

const finished = (stderr: string, stdout = "") => ({ code: 1, stdout, stderr, timedOut: false });

test("a tool that explains its usage at length is quoted by its first lines, which have the reason, and by its last", () => {
  const usage = Array.from({ length: 60 }, (_, at) => `/* option ${at} */\t[-o value ${at}]`);
  const shown = outputOf(
    finished(`Filesystem must be larger than 300MB.\n${usage.join("\n")}\n<value> is a number.\n`),
  );
  expect(shown).toStartWith("Filesystem must be larger than 300MB.; /* option 0 */");
  expect(shown).toEndWith("; <value> is a number. (exit status 1)");
  expect(shown).toContain("; …; ");
  expect(shown.length).toBeLessThan(1000);
});

test("a tool that says one endless line is quoted by its beginning, and one that says little in full", () => {
  const shown = outputOf(finished(`reason ${"x".repeat(5000)}`));
  expect([shown.startsWith("reason xxx"), shown.length < 1000]).toEqual([true, true]);
  const lines = Array.from({ length: 20 }, (_, at) => `line ${at}`);
  expect(outputOf(finished(lines.join("\n")))).toBe(`${lines.join("; ")} (exit status 1)`);
  expect(outputOf(finished("", "only stdout\n"))).toBe("only stdout (exit status 1)");
});

test("what Ceph's tools say on a node without a ceph.conf does not push out the reason", () => {
  const noise = "2026-11-28T16:20:22.237+0000 7fd5f5c23380 -1 Errors while parsing config file!\n\n";
  const shown = outputOf(finished(`did not load config file, using default settings.\n${noise}rbd: the reason\n`));
  expect(shown).toBe("rbd: the reason (exit status 1)");
});
