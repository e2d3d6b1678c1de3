/** What a failure of the host says of its outcome: nothing definite is claimed for a call that nobody saw the end of. */
import { expect, test } from "bun:test";
import { Errno } from "../../../lib/cells/cell.ts";
import { CellDown, CellErrno, CellStuck } from "../../../lib/cells/errors.ts";
import { failure, must, run } from "../../../lib/host/child.ts";
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

test("a tool that was killed does not say how far it came, one that exited does", () => {
  const killed = run(["sh", "-c", "kill -9 $$"]);
  expect(killed.code).toBeLessThan(0);
  expect(failure("sh", killed)).toMatchObject({ midway: true, message: "it was killed by a signal" });
  const late = run(["sleep", "10"], 50);
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
