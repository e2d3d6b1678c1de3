/** The flags of the programs that stand in for sidecars: values that the originals start with start these, too. */
import { describe, expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Result from "effect/Result";
import { parseAttacherFlags } from "../../../lib/config/attacher-flags.ts";
import { parseLivenessprobeFlags } from "../../../lib/config/livenessprobe-flags.ts";
import { parseRegistrarFlags } from "../../../lib/config/registrar-flags.ts";

const attacher = (...argv: readonly string[]) => Result.getOrThrowWith(parseAttacherFlags(argv), Error);
const livenessprobe = (...argv: readonly string[]) => Result.getOrThrowWith(parseLivenessprobeFlags(argv), Error);
const registrar = (...argv: readonly string[]) =>
  Result.getOrThrowWith(parseRegistrarFlags(["--kubelet-registration-path=/a/csi.sock", ...argv]), Error);
const programs = { attacher, livenessprobe, registrar };

describe.each(Object.entries(programs))("%s", (_, parse) => {
  test.each([
    ["/csi/csi.sock", "unix:///csi/csi.sock"],
    ["unix:/csi/csi.sock", "unix:///csi/csi.sock"],
    ["localhost:10000", "tcp://localhost:10000"],
  ])("The driver may be at %s", (address, endpoint) => {
    expect(parse(`--csi-address=${address}`)).toMatchObject({ csiAddress: endpoint, endpoint });
  });

  test.each([
    "--connection-timeout=-1s",
    "--connection-timeout=99999h",
    "--v=-1",
    "--v=0x5",
    "--automaxprocs=T",
    "--enable-pprof=f",
    "--logtostderr=TRUE",
    "--log-flush-frequency=5s",
    "--vmodule=a=1\nb=2",
  ])("The value of %j is accepted, as Go's flags read it", (argument) => {
    expect(parse(argument).warnings).toEqual([]);
  });
});

describe("attacher", () => {
  test.each(["-1", "1e3", "5.", ".5", "+5", "0x1p4", "inf"])("A limit of %s requests per second is accepted", (qps) => {
    expect(attacher(`--kube-api-qps=${qps}`, "--kube-api-burst=-1").withoutEffect).toHaveLength(2);
  });

  test.each(["--kube-api-qps=fast", "--kube-api-burst=1.5", "--kube-api-qps=1e999", "--connection-timeout=5"])(
    "The value of %s is refused, as by Go",
    (argument) => {
      expect(Result.isFailure(parseAttacherFlags([argument]))).toBe(true);
    },
  );

  test.each<[string, string, number]>([
    ["--resync=0", "resync", 0],
    ["--resync=-1s", "resync", 0],
    ["--resync=1.5h", "resync", 5_400_000],
    ["--reconcile-sync=0", "reconcileSync", 1000],
    ["--retry-interval-start=0s", "retryStart", 100],
    ["--retry-interval-max=-1m", "retryMax", 100],
    ["--timeout=1h30m", "timeout", 5_400_000],
  ])("%s lasts: %s is %p ms", (argument, key, ms) => {
    const flags: Record<string, unknown> = attacher(argument);
    expect(Duration.toMillis(flags[key] as Duration.Duration)).toBe(ms);
  });

  test("A duration of more than a year is one that nobody lives to see the end of", () => {
    expect(Duration.toDays(attacher("--timeout=200000h").timeout)).toBe(365);
  });

  test("More workers than are of use are as many as are, and fewer than no volumes per page are none", () => {
    expect(attacher("--worker-threads=1_000_000", "--max-entries=-1")).toMatchObject({
      workerThreads: 10_000,
      maxEntries: 0,
    });
  });

  test("What only an election reads is not looked at without one", () => {
    const argv = ["--leader-election-lease-duration=0", "--leader-election-labels=a"];
    expect(attacher(...argv, "--leader-election=false").leaderElection).toBe(false);
    const elected = parseAttacherFlags([...argv, "--leader-election"]);
    expect(Result.isFailure(elected) ? elected.failure : "").toContain("--leader-election-lease-duration");
    expect(Result.isFailure(parseAttacherFlags(["--leader-election-lease-duration=soon"]))).toBe(true);
  });

  test("An HTTP server may have any port, and the path of its metrics may lack its slash", () => {
    expect(attacher("--http-endpoint=:0", "--metrics-path=figures")).toMatchObject({
      httpEndpoint: [{ hostname: "0.0.0.0", port: 0 }],
      metricsPath: "/figures",
    });
  });
});

describe("livenessprobe", () => {
  test("The default port stands beside --http-endpoint, even if it is written", () => {
    expect(livenessprobe("--http-endpoint=:1", "--health-port=9808").healthPort).toBe(0);
    const other = parseLivenessprobeFlags(["--http-endpoint=:1", "--health-port=9809"]);
    expect(Result.isFailure(other) ? other.failure : "").toContain("exclude each other");
  });
});

describe("registrar", () => {
  test("A mode that nobody knows registers, and the log warns of it", () => {
    expect(registrar("--mode=Registration").warnings).toEqual([
      '--mode="Registration" is not a mode: it registers the driver',
    ]);
    expect(registrar("--mode=").warnings).toEqual([]);
  });

  test("A negative port is none, and a folder may be relative", () => {
    expect(registrar("--health-port=-1", "--http-endpoint=:1").healthPort).toBe(0);
    expect(registrar("--plugin-registration-path=x").pluginRegistrationPath).toBe(`${process.cwd()}/x`);
  });
});
