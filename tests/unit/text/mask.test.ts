/** No cephx key leaves the process: in the status of a call, in the log, in a span, or in the words of a tool. */
import { describe, expect, test } from "bun:test";
import * as Cause from "effect/Cause";
import * as Console from "effect/Console";
import * as Effect from "effect/Effect";
import { RpcError, statusOf } from "../../../lib/grpc/status.ts";
import { outputOf, run } from "../../../lib/host/child.ts";
import { logLayer } from "../../../lib/telemetry/log.ts";
import { maskKeys } from "../../../lib/text/mask.ts";

/** A key as Ceph makes it: type, seconds, nanoseconds, length, secret. */
const keyOf = (type: number, secretBytes: number): string => {
  const bytes = Buffer.alloc(12 + secretBytes, 0xa7);
  bytes.writeUInt16LE(type, 0);
  bytes.writeUInt16LE(secretBytes, 10);
  return bytes.toString("base64");
};
const KEY = keyOf(1, 16);

describe("maskKeys", () => {
  test.each<[what: string, key: string]>([
    ["the usual one", KEY],
    ["the newer type of Ceph 20", keyOf(2, 32)],
    ["one that was cut short", KEY.slice(0, 30)],
    ["one without its end", KEY.replaceAll("=", "")],
  ])("A key is masked wherever it stands in a text: %s", (_, key) => {
    for (const text of [key, `auth: failed to decode key '${key}'`, `first\n${key}\nlast`, `--key=${key} --id x`]) {
      const masked = maskKeys(text);
      expect(masked).not.toContain(key.slice(0, 12));
      expect(masked).toContain("***");
    }
  });

  test("What Ceph quotes as a key is masked in any form, and so is a key that the caller knows", () => {
    expect(maskKeys("auth: failed to decode key 'no sense'")).toBe("auth: failed to decode key '***'");
    expect(maskKeys("the tool said p4ss, and p4ss again", "p4ss", "")).toBe("the tool said ***, and *** again");
  });

  test.each([
    "csi-vol-11111111-2222-4333-8444-555555555555",
    "0001-0004-east-0000000000000002-11111111-2222-4333-8444-555555555555",
    "/var/lib/kubelet/plugins/kubernetes.io/csi/rbd.csi.ceph.com/aq0a44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff/globalmount",
    'client.admin needs mon "profile rbd"; the key of client.admin is of a newer type',
  ])("A text without a key stays as it is: %s", (text) => {
    expect(maskKeys(text)).toBe(text);
  });
});

describe("a key that a tool or a library has quoted", () => {
  const said = `rbd: cannot read ${KEY}`;

  test("The status of a call does not show it", () => {
    expect(statusOf(Cause.fail(new RpcError({ code: 13, message: said })), "id").message).toBe("rbd: cannot read ***");
  });

  test("A line of the log does not show it, in its message, its annotations, or the error of a cause", async () => {
    const lines: string[] = [];
    const recorded: Console.Console = { ...console, error: (line: unknown) => void lines.push(String(line)) };
    const body = Effect.logError(said, `two\n${KEY}`, Cause.fail(new Error(said))).pipe(
      Effect.annotateLogs({ error: said }),
    );
    await Effect.runPromise(
      body.pipe(
        Effect.provide(logLayer(5, () => ({ subject: said }))),
        Effect.provideService(Console.Console, recorded),
      ),
    );
    expect(lines).toHaveLength(1);
    expect(lines[0]).not.toContain(KEY.slice(0, 12));
    expect(JSON.parse(lines[0] ?? "")).toMatchObject({ annotations: { error: "rbd: cannot read ***" } });
  });

  test("The output of the tool does not show it, in whatever form the tool read it", () => {
    const odd = "not a key at all";
    const done = run(["sh", "-c", `echo 'out ${odd}'; echo 'err ${KEY} ${odd}' >&2; exit 3`], { secrets: [odd] });
    expect(done).toMatchObject({ stdout: "out ***\n", stderr: "err *** ***\n" });
    expect(outputOf(done)).toBe("err *** *** (exit status 3)");
  });
});
