/** A process whose Effect waits for ever, for nothing that Bun knows of. It says so if it is still there a moment later. */
import * as Effect from "effect/Effect";
import { launch } from "../../../lib/process/launch.ts";

launch(Effect.never);
// such a timer does not keep a process: it fires only where something else does
setTimeout(() => console.log("still here"), 20).unref();
