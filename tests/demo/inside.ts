/**
 * The demo's part in the virtual machine: the driver starts beside this process, the cluster is outside.
 *
 * Not here: who starts the three (./demo.ts).
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { rig } from "../rig/cluster.ts";
import { runTool } from "../rig/control.ts";
import { outputOf } from "../rig/place.ts";
import { OUT } from "../rig/vm.ts";
import { insidePlace, UP, whenReady } from "./driver.ts";
import { tellStory } from "./story.ts";

const main = async (): Promise<void> => {
  const up = join(OUT, UP);
  for (const until = Date.now() + 120_000; !existsSync(up); await Bun.sleep(50)) {
    if (Date.now() > until) throw new Error("the cluster outside the VM did not come up within 120 s");
  }
  process.env["CSI_RBD_RIG"] = readFileSync(up, "utf8");
  const { conf, monitors, key, release } = rig();
  const exec = async (...command: Array<string>) => outputOf(command, await runTool(conf, command));
  await whenReady(insidePlace);
  console.log(`    the driver answers ${(performance.now() / 1000).toFixed(1)} s after its start\n`);
  await tellStory({ conf, monitors, adminKey: key, release, exec }, insidePlace);
};

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? (error.stack ?? error.message) : error);
    process.exit(1);
  },
);
