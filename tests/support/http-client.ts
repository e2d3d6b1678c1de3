/** For tests of what a process tells over HTTP. */

/** A port that nothing listens on. */
export const freePort = async (): Promise<number> => {
  const taken = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = taken;
  await taken.stop(true);
  return port ?? 0;
};

export interface Answer {
  readonly status: number;
  readonly text: string;
}

/** What 127.0.0.1 answers; `undefined`: nothing listens. */
export const answerOf = async (port: number, path: string): Promise<Answer | undefined> => {
  try {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: response.status, text: await response.text() };
  } catch {
    return undefined;
  }
};

/** Asks again and again until the answer has this status; fails after half a minute. */
export const answered = async (port: number, path: string, status: number): Promise<string> => {
  let last: Answer | undefined;
  for (const limit = Date.now() + 30_000; Date.now() < limit; await Bun.sleep(10)) {
    last = await answerOf(port, path);
    if (last?.status === status) return last.text;
  }
  throw new Error(`${path} is not ${status} within half a minute, but ${last?.status}: ${last?.text}`);
};
