/** The executable's command line, as somebody types it: verbs, help, and one line for what is wrong. */
import { describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runProcess } from "../../support/driver-process.ts";
import { temporaryDirectory } from "../../support/grpc-serving.ts";

const LIMIT = 60_000;

describe("the command line", () => {
  test.each([
    [["--type=rbd"], "--nodeid is missing: write --nodeid=NAME, this node's name"],
    [["--nodeservr"], "--type is missing: write --type=rbd"],
    [["driver", "--type=nvmeof"], "--type=nvmeof: this driver serves RBD only"],
    [
      ["verson", "--type=rbd"],
      'unknown verb "verson": write driver, registrar, attacher, livenessprobe, help, version, or no verb and --flag=value for the driver. Did you mean version?',
    ],
    [
      ["constructor"],
      'unknown verb "constructor": write driver, registrar, attacher, livenessprobe, help, version, or no verb and --flag=value for the driver.',
    ],
    [
      ["--type=rbd", "--nodeid=n", "--controllerserver", "--endpoint=unix:///no/such/dir/csi.sock"],
      "directory /no/such/dir of the socket does not exist; create it first",
    ],
  ])(
    "The driver refuses %p in one line on stderr, with exit code 1",
    async (argv, line) => {
      expect(await runProcess(argv)).toEqual({ stdout: "", stderr: `${line}\n`, code: 1 });
    },
    LIMIT,
  );

  test.each([[["help"]], [["--help"]], [["-h"]], [["driver", "--help"]]])(
    "The driver prints verbs and flags for %p",
    async (argv) => {
      const { stdout, stderr, code } = await runProcess(argv);
      expect({ stderr, code }).toEqual({ stderr: "", code: 0 });
      for (const text of ["\n  version ", "\n  --nodeid="]) expect(stdout).toContain(text);
    },
    LIMIT,
  );

  test.each([[["version"]], [["--version"]]])(
    "The driver prints its version, its commit, Bun and Ceph's libraries for %p",
    async (argv) => {
      const { stdout, stderr, code } = await runProcess(argv);
      expect(stdout).toMatch(/^csi-rbd \d+\.\d+\.\d+\ncommit +\S.*\nBun +\d+\.\d+\.\d+\nCeph client +\S.*\n$/);
      expect({ stderr, code }).toEqual({ stderr: "", code: 0 });
    },
    LIMIT,
  );

  test(
    "The driver prints its version where Ceph's libraries cannot be loaded, and says so",
    async () => {
      const folder = temporaryDirectory();
      // the loader takes the first file of the name, whatever it is
      writeFileSync(join(folder, "librados.so.2"), "");
      const { stdout, stderr, code } = await runProcess(["--version"], { environment: { LD_LIBRARY_PATH: folder } });
      rmSync(folder, { recursive: true });
      expect(stdout).toMatch(
        /^csi-rbd \d.*\n(.*\n){2}Ceph client +cannot be loaded; install librados2 and librbd1 of Ceph \(/,
      );
      expect({ stderr, code }).toEqual({ stderr: "", code: 0 });
    },
    LIMIT,
  );
});
