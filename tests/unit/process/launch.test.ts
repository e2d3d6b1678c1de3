/** A process around one Effect: how long it lasts. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { startProcess } from "../../support/driver-process.ts";

test("A process lasts until a signal, also while its Effect waits for nothing that Bun knows of", async () => {
  const child = startProcess([], { entry: join(import.meta.dir, "waiting-process.ts") });
  const said = child.stdout.getReader();
  expect(new TextDecoder().decode((await said.read()).value)).toBe("still here\n");
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
}, 60_000);
