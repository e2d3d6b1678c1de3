/** The driver as a process: how it starts without a cluster, and how it ends. */
import { afterEach, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Identity } from "../../../lib/gen/csi_pb.ts";
import { startController } from "../../support/driver-process.ts";
import { client } from "../../support/grpc-client.ts";
import { temporaryDirectory } from "../../support/grpc-serving.ts";

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

test("The driver answers without a cluster, and on SIGTERM ends with code 0 and leaves no file", async () => {
  const directory = temporaryDirectory();
  const path = join(directory, "csi.sock");
  const child = await startController(path);
  ends.push(
    () => child.kill("SIGKILL"),
    () => rmSync(directory, { recursive: true }),
  );
  const identity = client(Identity, path);
  ends.push(identity.close);
  const info = await identity.getPluginInfo({}, { timeoutMs: 2000 });
  expect(info.name).toBe("rbd.csi.ceph.com");
  expect(info.vendorVersion).toMatch(/^\d+\.\d+\.\d+/);
  expect((await identity.probe({}, { timeoutMs: 2000 })).ready).toBe(true);
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  expect(existsSync(path)).toBe(false);
}, 90_000);
