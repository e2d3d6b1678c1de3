/** Servers that tests start: a port for one, and the wait until it listens there. */
import type { Subprocess } from "bun";

/** A port of 127.0.0.1 that was free a moment ago. */
export const freePort = (): number => {
  const taken = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port } = taken;
  void taken.stop(true);
  return port ?? 0;
};

const PAUSE_MS = 100;

const listens = async (port: number): Promise<boolean> => {
  try {
    const socket = await Bun.connect({ hostname: "127.0.0.1", port, socket: { data: () => {} } });
    socket.end();
    return true;
  } catch {
    return false;
  }
};

/** Waits until the server takes a connection; rejects, with its last words, if it ends before. */
export const untilListening = async (child: Subprocess<"ignore", "ignore", "pipe">, port: number): Promise<void> => {
  while (!(await listens(port))) {
    if (child.exitCode !== null) throw new Error(`the server ended: ${await new Response(child.stderr).text()}`);
    await Bun.sleep(PAUSE_MS);
  }
};
