// The command line: Go's syntax, every flag of ceph-csi's table with its default, ranges, and one-line refusals.
import { describe, expect, test } from "bun:test";
import * as Duration from "effect/Duration";
import * as Result from "effect/Result";
import * as fc from "fast-check";
import { type Flags, parseFlags, usage } from "../../../lib/config/flags.ts";
import { FLAGS, OTHER_TYPES, WITHOUT_EFFECT } from "../../../lib/config/flag-table.ts";
import { goBool, goDuration, goInteger, isGoFloat } from "../../../lib/text/go-values.ts";

const RBD = ["--type=rbd", "--nodeid=n1"];
const ok = (...argv: ReadonlyArray<string>): Flags => Result.getOrThrowWith(parseFlags([...RBD, ...argv]), Error);
const refused = (...argv: ReadonlyArray<string>): string => {
  const parsed = parseFlags(argv);
  return Result.isFailure(parsed) ? parsed.failure : "(accepted)";
};

describe("Go's flag syntax", () => {
  test.each([
    [["--nodeid=a"]],
    [["-nodeid=a"]],
    [["--nodeid", "a"]],
    [["-nodeid", "a"]],
    [["--nodeid=b", "--nodeid=a"]],
  ])("The parser reads the arguments %p", (argv) => {
    expect(ok(...argv).nodeId).toBe("a");
  });

  test("A flag's value may look like a flag, contain = or be empty", () => {
    expect(ok("--clustername", "--odd").clusterName).toBe("--odd");
    expect(ok("--clustername=a=b").clusterName).toBe("a=b");
    expect(ok("--clustername=").clusterName).toBe("");
  });

  test("A boolean flag stands alone or has one of Go's words, and takes no next argument", () => {
    for (const word of ["1", "t", "T", "true", "TRUE", "True"])
      expect(ok(`--enableprofiling=${word}`).enableProfiling).toBe(true);
    for (const word of ["0", "f", "F", "false", "FALSE", "False"]) {
      expect(ok("--enableprofiling", `--enableprofiling=${word}`).enableProfiling).toBe(false);
    }
    expect(ok("-enableprofiling", "-v=5")).toMatchObject({ enableProfiling: true, verbosity: 5 });
  });

  test("The argument -- ends the flags, and the parser reports what follows it", () => {
    expect(ok("--", "--nonsense")).toMatchObject({ withoutEffect: ['"--nonsense" (after --)'] });
    expect(ok("--").withoutEffect).toEqual([]);
  });

  test.each([
    ["1", 1n],
    ["-7", -7n],
    ["+7", 7n],
    ["0x1F", 31n],
    ["0b11", 3n],
    ["0o17", 15n],
    ["017", 15n],
    ["1_000", 1000n],
    ["0", 0n],
    ["0x_1", 1n],
    ["08", undefined],
    ["1__0", undefined],
    ["_1", undefined],
    ["1_", undefined],
    ["", undefined],
    ["1.0", undefined],
    [" 1", undefined],
    ["1e3", undefined],
    ["9".repeat(100), undefined],
  ] as const)("The integer %p is read as in Go", (text, value) => {
    expect(goInteger(text)).toBe(value);
  });

  test.each([
    ["30s", 30_000_000_000n],
    ["1m30s", 90_000_000_000n],
    ["150ms", 150_000_000n],
    ["1.5h", 5_400_000_000_000n],
    [".5s", 500_000_000n],
    ["1.s", 1_000_000_000n],
    ["2us", 2000n],
    ["2µs", 2000n],
    ["2μs", 2000n],
    ["7ns", 7n],
    ["0", 0n],
    ["-1s", -1_000_000_000n],
    ["+1s", 1_000_000_000n],
    ["0.1ns", 0n],
    ["", undefined],
    ["30", undefined],
    ["s", undefined],
    [".s", undefined],
    ["1d", undefined],
    ["1 s", undefined],
    ["1s ", undefined],
    ["9999999999999h", undefined],
  ] as const)("The duration %p is read as in Go", (text, nanos) => {
    expect(goDuration(text)).toBe(nanos);
  });

  test.each(["5", "-1", "5.", ".5", "1e3", "+1.5E-2", "0x1p4", "0x.8P-1", "inf", "-Infinity", "NaN", "0"])(
    "The number %p is read as in Go",
    (text) => {
      expect(isGoFloat(text)).toBe(true);
    },
  );

  test.each(["", ".", "e3", "1e", "0x1", "1,5", " 1", "1s", "1e999", "--1", "9".repeat(400)])(
    "The text %p is not a number",
    (text) => {
      expect(isGoFloat(text)).toBe(false);
    },
  );

  test.each(["", "yes", "tRUE", "2", " true", "on"])("The text %p is not a boolean", (text) => {
    expect(goBool(text)).toBeUndefined();
  });
});

describe("defaults", () => {
  test("The defaults are those of the table, and each is a text that its own kind reads", () => {
    expect(ok()).toMatchObject({
      type: "rbd",
      endpoint: "unix:///tmp/csi.sock",
      addonsEndpoint: "unix:///tmp/csi-addons.sock",
      driverName: "rbd.csi.ceph.com",
      instanceId: "default",
      clusterName: "",
      rbdHardMaxCloneDepth: 8,
      rbdSoftMaxCloneDepth: 4,
      maxSnapshotsOnImage: 450,
      minSnapshotsOnImage: 250,
      domainLabels: [],
      enableReadAffinity: false,
      crushLocationLabels: [],
      enableProfiling: false,
      metricsPort: 8080,
      metricsPath: "/metrics",
      version: false,
      help: false,
      verbosity: 0,
      configDir: "/etc/ceph-csi-config",
      cephConf: "/etc/ceph/ceph.conf",
      cells: 8,
      hostCells: 8,
      socketGroup: "",
      withoutEffect: [],
    });
    expect(["0", "0s", "24h"].map((text) => Duration.toHours(ok(`--rbdtrashmaxdelay=${text}`).trashDelay))).toEqual([
      0, 0, 24,
    ]);
    expect(Duration.toMillis(ok().trashDelay)).toBe(0);
    expect(Duration.toMillis(ok("--logslowopinterval=0").logSlowOpInterval)).toBe(0);
    const { logSlowOpInterval, osdTimeout, monTimeout, connectTimeout, gracePeriod } = ok();
    const durations = [logSlowOpInterval, osdTimeout, monTimeout, connectTimeout, gracePeriod];
    expect(durations.map(Duration.toSeconds)).toEqual([30, 30, 30, 15, 25]);
  });

  test("A driver without --controllerserver and --nodeserver serves both", () => {
    expect(ok()).toMatchObject({ controllerServer: true, nodeServer: true });
    expect(ok("--controllerserver")).toMatchObject({ controllerServer: true, nodeServer: false });
    expect(ok("--nodeserver=true")).toMatchObject({ controllerServer: false, nodeServer: true });
    expect(ok("--nodeserver", "--controllerserver=1")).toMatchObject({ controllerServer: true, nodeServer: true });
    expect(ok("--controllerserver=false")).toMatchObject({ controllerServer: true, nodeServer: true });
  });

  test("The parsed flags have every key of the table", () => {
    const keys = Object.values(FLAGS).map((flag) => flag.key);
    expect(new Set(keys).size).toBe(keys.length);
    expect(Object.keys(ok()).toSorted()).toEqual([...keys, "withoutEffect", "warnings"].toSorted());
  });
});

describe("ceph-csi's own manifests", () => {
  test("The parser accepts the arguments of the liveness and controller containers, which have no node", () => {
    const liveness = Result.getOrThrow(
      parseFlags(
        "--type=liveness --endpoint=unix:///csi/csi.sock --metricsport=8680 --metricspath=/metrics --polltime=60s --timeout=3s".split(
          " ",
        ),
      ),
    );
    expect(liveness).toMatchObject({ type: "liveness", metricsPort: 8680, withoutEffect: [], warnings: [] });
    expect([liveness.pollTime, liveness.probeTimeout].map(Duration.toSeconds)).toEqual([60, 3]);
    const controller = Result.getOrThrow(
      parseFlags(
        "--type=controller --v=5 --drivername=rbd.csi.ceph.com --drivernamespace=ns --setmetadata=true".split(" "),
      ),
    );
    expect(controller).toMatchObject({ type: "controller", warnings: [] });
  });

  test("The parser accepts the arguments of ceph-csi's node plugin", () => {
    const flags = ok(
      ..."--nodeid=n2 --pluginpath=/var/lib/kubelet/plugins --stagingpath=/var/lib/kubelet/plugins/kubernetes.io/csi/ --type=rbd --nodeserver=true --endpoint=unix:///csi/csi.sock --csi-addons-endpoint=unix:///csi/csi-addons.sock --v=5 --drivername=rbd.csi.ceph.com --enableprofiling=false --pidlimit=-1 --logslowopinterval=30s".split(
        " ",
      ),
    );
    expect(flags).toMatchObject({
      nodeId: "n2",
      nodeServer: true,
      controllerServer: false,
      addonsEndpoint: "unix:///csi/csi-addons.sock",
      verbosity: 5,
    });
    expect(flags.withoutEffect.map((text) => text.split(" ", 1)[0])).toEqual([
      "--pluginpath",
      "--stagingpath",
      "--pidlimit",
    ]);
  });

  test("The parser accepts every flag without effect with ceph-csi's default, and tells the reason of each", () => {
    const values: Readonly<Record<string, string>> = {
      stagingpath: "/var/lib/kubelet/plugins/kubernetes.io/csi/",
      "feature-gates": "SlowGRPCRestart=true",
    };
    const argv = Object.entries(WITHOUT_EFFECT).map(
      ([name, { kind }]) => `--${name}=${values[name] ?? (kind.isBool ? "false" : "1")}`,
    );
    expect(ok(...argv).withoutEffect).toEqual(
      Object.entries(WITHOUT_EFFECT).map(([name, { reason }]) => `--${name} (${reason})`),
    );
  });
});

describe("flags that nobody knows, or that have no effect yet", () => {
  test.each<[ReadonlyArray<string>, string]>([
    [["--new-in-3.20=x"], "unknown flag --new-in-3.20 has no effect: --help lists all flags"],
    [["-new-in-3.20", "x"], "unknown flag --new-in-3.20 has no effect: --help lists all flags"],
    [["--new-in-3.20"], "unknown flag --new-in-3.20 has no effect: --help lists all flags"],
    [["--nodeservr"], "unknown flag --nodeservr has no effect: did you mean --nodeserver?"],
    [["--__proto__=1"], "unknown flag --__proto__ has no effect: --help lists all flags"],
    [["--a\nb=1"], 'unknown flag --"a\\nb" has no effect: --help lists all flags'],
  ])("The arguments %p start the driver, and the log warns of the unknown flag", (argv, warning) => {
    expect(ok(...argv, "--clustername=c")).toMatchObject({ warnings: [warning], clusterName: "c" });
  });

  test("A warning holds no value of an unknown flag, and names a flag once", () => {
    const { warnings } = ok("--token=s3cret", "--token", "s3cret", "--other=s3cret");
    expect(warnings).toHaveLength(2);
    expect(warnings.join()).not.toContain("s3cret");
  });

  test("An unknown flag never takes the next flag as its value", () => {
    expect(ok("--odd", "--clustername=c", "--even", "-v=5")).toMatchObject({ clusterName: "c", verbosity: 5 });
  });

  test("Fencing is off unless it is asked for", () => {
    expect([ok().enableFencing, ok("--enable-fencing").enableFencing]).toEqual([false, true]);
    expect(ok("--enable-fencing=false")).toMatchObject({ enableFencing: false, warnings: [], withoutEffect: [] });
  });

  test("A known feature gate is noted, and an unknown one warned of", () => {
    const reason = "no feature gate changes this driver";
    expect(ok("--feature-gates=SlowGRPCRestart=false")).toMatchObject({
      warnings: [],
      withoutEffect: [`--feature-gates (${reason})`],
    });
    expect(ok("--feature-gates=SlowGRPCRestart=true, Newest=1").warnings).toEqual([
      `--feature-gates="SlowGRPCRestart=true, Newest=1" has no effect: ${reason}`,
    ]);
    expect(ok("--feature-gates=").warnings).toEqual([]);
  });

  test.each([
    "--stagingpath=",
    "--stagingpath=relative",
    "--pidlimit=-7",
    "--pidlimit=0x7fff_ffff_ffff",
    "--setmetadata=T",
    "--kernelmountoptions=a\nb",
    "--stderrthreshold=2",
  ])("The value of %j has no effect, and is accepted as Go's flags read it", (argument) => {
    expect(ok(argument)).toMatchObject({ warnings: [], withoutEffect: [expect.stringContaining("--")] });
  });

  test.each(["--pidlimit=many", "--setmetadata=maybe"])("The value of %s is refused, as by Go", (argument) => {
    expect(refused(...RBD, argument)).toContain(": write ");
  });

  test.each<[string, object]>([
    ["--polltime=0", {}],
    ["--timeout=-1s", {}],
    ["--metricsport=0", { metricsPort: 0 }],
    ["--metricsport=99999", { metricsPort: 8080 }],
    ["--leader-election-retry-period=0", { leaderElection: false }],
    ["--v=-1", { verbosity: -1 }],
    ["--health-port=-1", { healthPort: 0 }],
  ])("The driver starts with %s, which it does not use", (argument, expected) => {
    expect(ok(argument)).toMatchObject(expected);
  });

  test.each<[ReadonlyArray<string>]>([
    [["--enableprofiling", "--metricsport=99999"]],
    [["--leader-election", "--leader-election-retry-period=0"]],
    [["--polltime=soon"]],
  ])("The driver refuses %j", (argv) => {
    expect(refused(...RBD, ...argv)).toContain(": write ");
  });

  test("0 or less is no delay of a removal, and no naming of slow operations", () => {
    expect(Duration.toMillis(ok("--rbdtrashmaxdelay=-1s").trashDelay)).toBe(0);
    expect(Duration.toMillis(ok("--logslowopinterval=-1s").logSlowOpInterval)).toBe(0);
  });

  test.each(["unix:/csi/csi.sock", "/csi/csi.sock", "unix:///csi/csi.sock"])(
    "The liveness probe asks the driver at %s",
    (endpoint) => {
      const parsed = parseFlags(["--type=liveness", `--endpoint=${endpoint}`]);
      expect(Result.getOrThrow(parsed).endpoint).toBe("unix:///csi/csi.sock");
    },
  );

  test("Other types than the driver take any value of its limits", () => {
    for (const type of ["liveness", "controller"]) {
      expect(refused(`--type=${type}`, "--rbdhardmaxclonedepth=0", "--maxsnapshotsonimage=200")).toBe("(accepted)");
      expect(refused(`--type=${type}`, "--rbdhardmaxclonedepth=none")).toContain(": write ");
    }
    expect(refused("--type=liveness", "--polltime=0")).toContain("--polltime");
    expect(refused("--type=controller", "--endpoint=nowhere", "--polltime=0")).toBe("(accepted)");
  });

  test("The flags of --type=liveness are noted where the driver itself runs", () => {
    expect(ok("--polltime=60s", "--timeout=3s").withoutEffect).toEqual([
      "--polltime (for --type=liveness)",
      "--timeout (for --type=liveness)",
    ]);
  });
});

describe("the normal form of values", () => {
  test.each([
    ["--drivername=", { driverName: "rbd.csi.ceph.com" }],
    ["--drivername=Rbd.Example.COM", { driverName: "Rbd.Example.COM" }],
    ["--instanceid=", { instanceId: "default" }],
    ["--endpoint=unix://csi/csi.sock", { endpoint: "unix:///csi/csi.sock" }],
    ["--endpoint=UNIX:////csi/csi.sock", { endpoint: "unix:///csi/csi.sock" }],
    ["--csi-addons-endpoint=", { addonsEndpoint: "" }],
    ["--endpoint=tcp://127.0.0.1:9000", { endpoint: "tcp://127.0.0.1:9000" }],
    ["--endpoint=tcp://[::1]:9000", { endpoint: "tcp://[::1]:9000" }],
    ["--domainlabels=a/zone, b/rack,,", { domainLabels: ["a/zone", "b/rack"] }],
    ["--csi-addons-endpoint=unix:/csi/addons.sock", { addonsEndpoint: "unix:///csi/addons.sock" }],
    ["--crush-location-labels=zone\n, rack", { crushLocationLabels: ["zone", "rack"] }],
    ["--metricspath=metrics", { metricsPath: "/metrics" }],
    ["--cells=0x10", { cells: 16 }],
  ])("The parser brings the value of %s into its normal form", (argument, expected) => {
    expect(ok(argument)).toMatchObject(expected);
  });
});

describe("refused arguments", () => {
  test.each<[ReadonlyArray<string>, string]>([
    [[], "--type is missing: write --type=rbd"],
    [["--type=rbd"], "--nodeid is missing: write --nodeid=NAME, this node's name"],
    [["--type=rbd", "--nodeserver", "--nodeid="], "--nodeid is missing: write --nodeid=NAME, this node's name"],
    [["--type=cephfs"], "--type=cephfs: this driver serves RBD only"],
    [["--type=nfs"], "--type=nfs: this driver serves RBD only"],
    [["--type=nvmeof"], "--type=nvmeof: this driver serves RBD only"],
    [["--type=RBD"], '--type="RBD": write rbd, liveness, controller'],
    [["--type=constructor"], '--type="constructor": write rbd'],
    [["--enable-fencing=maybe"], '--enable-fencing="maybe": write true or false'],
    [["--feature-gates=SlowGRPCRestart"], '--feature-gates="SlowGRPCRestart": write Name=true,Name=false'],
    [["--feature-gates=A=true,B=maybe"], "write Name=true,Name=false"],
    [["--rbdtrashmaxdelay=1d"], '--rbdtrashmaxdelay="1d": write 0 or a duration such as 24h'],
    [["--nodeid"], "--nodeid has no value: write --nodeid=value"],
    [["--nodeserver=maybe"], '--nodeserver="maybe": write true or false'],
    [["--nodeserver="], "--nodeserver=: write true or false"],
    [
      ["--nodeserver", "true"],
      'unexpected argument "true": write booleans as --flag=true, and every flag as --flag=value',
    ],
    [["rbd"], 'unexpected argument "rbd": flags are written --flag=value'],
    [["---type=rbd"], 'unexpected argument "---type=rbd": flags are written --flag=value'],
    [["--=rbd"], 'unexpected argument "--=rbd": flags are written --flag=value'],
    [["-"], 'unexpected argument "-": flags are written --flag=value'],
    [["--cells=0"], '--cells="0": write a whole number from 1 to 64'],
    [["--cells=65"], '--cells="65": write a whole number from 1 to 64'],
    [["--rbdhardmaxclonedepth=15"], '--rbdhardmaxclonedepth="15": write a whole number from 1 to 14'],
    [["--rbdhardmaxclonedepth=0"], '--rbdhardmaxclonedepth="0": write a whole number from 1 to 14'],
    [["--maxsnapshotsonimage=501"], '--maxsnapshotsonimage="501": write a whole number from 1 to 500'],
    [["--timeout=3"], '--timeout="3": write a duration above 0, such as 30s, 1m30s or 150ms'],
    [["--polltime=-1s"], '--polltime="-1s": write a duration above 0, such as 30s, 1m30s or 150ms'],
    [["--drivername=a_b"], '--drivername="a_b": write a DNS name of at most 63'],
    [[`--drivername=${"a".repeat(64)}`], "write a DNS name of at most 63"],
    [["--endpoint=/csi/csi.sock"], '--endpoint="/csi/csi.sock": write unix:///path'],
    [["--endpoint=unix://"], "write unix:///path"],
    [[`--endpoint=unix:///${"x".repeat(107)}`], "write unix:///path"],
    [["--endpoint=tcp://host:70000"], "write unix:///path"],
    [["--csi-addons-endpoint=tcp://0.0.0.0:1"], "write unix:///path"],
    [["--config-dir=relative"], '--config-dir="relative": write an absolute path'],
    [["--clustername=a\nb"], '--clustername="a\\nb": write text without control characters'],
    [["--logtostderr=maybe"], '--logtostderr="maybe": write true or false'],
  ])("The refusal of the arguments %p is one line that says what to write", (argv, line) => {
    const text = refused(...argv);
    expect(text).toContain(line);
    expect(text).not.toContain("\n");
  });

  test("The parser refuses limits that contradict each other", () => {
    expect(refused(...RBD, "--rbdsoftmaxclonedepth=9")).toBe(
      "--rbdsoftmaxclonedepth=9: write at most 8, the value of --rbdhardmaxclonedepth",
    );
    expect(refused(...RBD, "--rbdsoftmaxclonedepth=14", "--rbdhardmaxclonedepth=14")).toBe("(accepted)");
    expect(refused(...RBD, "--maxsnapshotsonimage=200")).toBe(
      "--minsnapshotsonimage=250: write at most 200, the value of --maxsnapshotsonimage",
    );
  });
});

test("The flags --help and --version need no other flag", () => {
  expect(Result.getOrThrow(parseFlags(["--version"])).version).toBe(true);
  for (const help of ["-h", "-help", "--help"]) expect(Result.getOrThrow(parseFlags([help])).help).toBe(true);
  const text = usage();
  for (const name of [...Object.keys(FLAGS), ...Object.keys(WITHOUT_EFFECT)]) expect(text).toContain(`--${name}`);
  expect(text).toMatch(
    /Flags of ceph-csi that are accepted without effect, and why:[^]*--pidlimit +the pod's own limit/,
  );
  for (const other of Object.keys(OTHER_TYPES)) expect(text).not.toContain(`--type=${other} `);
});

test("No argument list makes the parser throw, and every refusal is one line", () => {
  const names = fc.constantFrom(...Object.keys(FLAGS), ...Object.keys(WITHOUT_EFFECT), "__proto__", "constructor");
  const value = fc.oneof(fc.string({ unit: "binary", maxLength: 20 }), fc.constantFrom("true", "1", "30s", "/a", ""));
  const argument = fc.oneof(
    fc.tuple(fc.constantFrom("-", "--"), names, value).map(([dash, name, text]) => `${dash}${name}=${text}`),
    names.map((name) => `--${name}`),
    value,
  );
  fc.assert(
    fc.property(fc.array(argument, { maxLength: 6 }), fc.boolean(), (argv, valid) => {
      const parsed = parseFlags(valid ? [...RBD, ...argv] : argv);
      if (Result.isFailure(parsed)) expect(parsed.failure).not.toMatch(/[\n\r\0]/);
    }),
    { numRuns: 2000 },
  );
});
