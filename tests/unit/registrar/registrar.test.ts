/** The registrar and a kubelet's watcher over real sockets, in virtual time: all that ends a registration, and what comes then. */
import { afterEach, describe, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdirSync, readdirSync, rmSync, unlinkSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Fiber from "effect/Fiber";
import { Identity, Node } from "../../../lib/gen/csi_pb.ts";
import { Registration } from "../../../lib/gen/pluginregistration_pb.ts";
import { served } from "../../../lib/grpc/service.ts";
import { Code, RpcError } from "../../../lib/grpc/status.ts";
import { wrongWithRegistration } from "../../../lib/registrar/check.ts";
import { clearRegistration, makeRegistrar, type Registrar } from "../../../lib/registrar/registrar.ts";
import { client } from "../../support/grpc-client.ts";
import { eventually, grace, serving, temporaryDirectory } from "../../support/grpc-serving.ts";
import { KubeletWatcher } from "../../support/kubelet-watcher.ts";
import { type VirtualTime, virtualTime } from "../../support/virtual-time.ts";

const NAME = "d.example.com";
const HOST_PATH = "/var/lib/kubelet/plugins/d.example.com/csi.sock";
const LIMIT = 60_000;

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

interface Place {
  readonly folder: string;
  /** The driver's socket here. */
  readonly driver: string;
  readonly socket: string;
}

const aPlace = (): Place => {
  const folder = temporaryDirectory();
  const own = temporaryDirectory();
  ends.push(
    () => rmSync(own, { recursive: true }),
    () => rmSync(folder, { recursive: true, force: true }),
  );
  return { folder, driver: join(own, "csi.sock"), socket: join(folder, `${NAME}-reg.sock`) };
};

/** A driver whose node can be asked; `nodeGetInfo` may be replaced. */
const aDriver = async ({ driver: path }: Place, name = NAME) => {
  const node = { info: Effect.succeed({ nodeId: "node-1" }) as Effect.Effect<{ nodeId: string }, RpcError> };
  const services = [
    served(Identity, { getPluginInfo: () => Effect.succeed({ name }) }),
    served(Node, { nodeGetInfo: () => Effect.suspend(() => node.info) }),
  ];
  const driver = await serving({ path, services, stop: grace(0) });
  ends.push(driver.stop);
  return node;
};

const aKubelet = ({ folder, driver }: Place): KubeletWatcher => {
  const kubelet = new KubeletWatcher({ folder, onHost: (path) => (path === HOST_PATH ? driver : path) });
  ends.push(() => kubelet.stop());
  return kubelet;
};

interface Running extends Registrar {
  readonly end: () => Promise<unknown>;
}

const aRegistrar = ({ folder, driver }: Place, time: VirtualTime): Running => {
  const limit = Duration.seconds(5);
  const registrar = makeRegistrar({ driver: `unix://${driver}`, kubeletPath: HOST_PATH, folder, limit });
  const fiber = Effect.runFork(Effect.provide(Effect.scoped(registrar.run), time.layer));
  const end = () => time.until(Effect.runPromise(Fiber.interrupt(fiber)));
  ends.push(end);
  return { ...registrar, end };
};

/** Lets a second pass again and again until the condition holds. */
const passUntil = async (time: VirtualTime, condition: () => boolean, what: string): Promise<void> => {
  const limit = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > limit) throw new Error(`not within ten seconds: ${what}`);
    await time.pass("1 second");
    await Bun.sleep(1);
  }
};

const inode = (path: string) => lstatSync(path).ino;

/** A driver that kubelet has registered. */
const registeredOne = async () => {
  const place = aPlace();
  const time = virtualTime();
  const node = await aDriver(place);
  const kubelet = aKubelet(place);
  kubelet.start();
  const registrar = aRegistrar(place, time);
  await eventually(() => registrar.lacks() === undefined && kubelet.history.length > 0, "it is registered");
  return { place, time, node, kubelet, registrar };
};

describe("the registrar", () => {
  test(
    "Kubelet finds the socket, asks for the driver and its node, and has it registered",
    async () => {
      const { place, kubelet } = await registeredOne();
      expect([...kubelet.registered.values()]).toEqual([
        { name: NAME, socket: place.socket, endpoint: HOST_PATH, versions: ["1.0.0"], nodeId: "node-1" },
      ]);
      expect(kubelet.history).toEqual([`registered ${NAME}`]);
      expect(lstatSync(place.socket).mode & 0o777).toBe(0o600);
      expect(readdirSync(place.folder)).toEqual([`${NAME}-reg.sock`]);
    },
    LIMIT,
  );

  test(
    "The socket goes at the end of the registrar, and kubelet forgets the driver",
    async () => {
      const { place, kubelet, registrar } = await registeredOne();
      await registrar.end();
      expect(existsSync(place.socket)).toBe(false);
      await eventually(() => kubelet.registered.size === 0, "kubelet has seen it");
      expect(kubelet.history).toEqual([`registered ${NAME}`, `forgot ${NAME}`]);
    },
    LIMIT,
  );

  test(
    "A kubelet that starts anew finds the socket that is there, and registers the driver again",
    async () => {
      const { place, kubelet } = await registeredOne();
      const before = inode(place.socket);
      await kubelet.stop();
      kubelet.start();
      await eventually(() => kubelet.registered.size === 1, "it is registered again");
      expect(inode(place.socket)).toBe(before);
    },
    LIMIT,
  );

  test(
    "A socket that somebody removed is made anew, and so is the registration",
    async () => {
      const { place, time, kubelet, registrar } = await registeredOne();
      unlinkSync(place.socket);
      await eventually(() => kubelet.registered.size === 0, "kubelet has forgotten it");
      await passUntil(time, () => existsSync(place.socket), "the socket is there again");
      await eventually(() => kubelet.history.length === 3 && registrar.lacks() === undefined, "it is registered");
      expect(kubelet.history).toEqual([`registered ${NAME}`, `forgot ${NAME}`, `registered ${NAME}`]);
    },
    LIMIT,
  );

  test(
    "What kubelet refuses is offered again after 1 s, 2 s and 4 s, until it has the driver registered",
    async () => {
      const place = aPlace();
      const time = virtualTime();
      await aDriver(place);
      const kubelet = aKubelet(place);
      kubelet.refuses = "the node cannot be written";
      kubelet.start();
      const registrar = aRegistrar(place, time);
      const offers = () => kubelet.history.filter((line) => line.startsWith("refused")).length;
      const waits = async (count: number, seconds: number) => {
        await eventually(() => offers() === count, `offer ${count}`);
        await eventually(() => registrar.lacks()?.includes(`in ${seconds}s`) === true, `a pause of ${seconds} s`);
        expect(registrar.lacks()).toContain('it says "the node cannot be written"');
        expect(existsSync(place.socket)).toBe(false);
        await time.pass(`${seconds} seconds`);
      };
      await waits(1, 1);
      await waits(2, 2);
      await waits(3, 4);
      await eventually(() => offers() === 4, "offer 4");
      await eventually(() => registrar.lacks()?.includes("in 8s") === true, "a pause of 8 s");
      kubelet.refuses = undefined;
      await time.pass("8 seconds");
      await eventually(() => registrar.lacks() === undefined, "it is registered");
      expect([...kubelet.registered.keys()]).toEqual([NAME]);
      // the next refusal begins at 1 s again
      kubelet.refuses = "once more";
      await kubelet.stop();
      kubelet.start();
      await eventually(() => registrar.lacks()?.includes("in 1s") === true, "the first pause again");
    },
    LIMIT,
  );

  test(
    "A NodeGetInfo that fails is asked again, although kubelet never does so itself",
    async () => {
      const place = aPlace();
      const time = virtualTime();
      const node = await aDriver(place);
      const { info } = node;
      node.info = Effect.fail(new RpcError({ code: Code.UNAVAILABLE, message: "not yet" }));
      const kubelet = aKubelet(place);
      kubelet.start();
      const registrar = aRegistrar(place, time);
      await eventually(() => kubelet.history.length > 0, "the first attempt");
      expect(kubelet.history).toEqual([`refused ${NAME}: NodeGetInfo: not yet`]);
      node.info = info;
      await passUntil(time, () => registrar.lacks() === undefined, "it is registered");
    },
    LIMIT,
  );

  test(
    "A driver that is away is waited for, and no socket is there before it answers",
    async () => {
      const place = aPlace();
      const time = virtualTime();
      const kubelet = aKubelet(place);
      kubelet.start();
      const registrar = aRegistrar(place, time);
      await eventually(() => registrar.lacks()?.includes("cannot be registered yet") === true, "it says so");
      expect(readdirSync(place.folder)).toEqual([]);
      await aDriver(place);
      await passUntil(time, () => registrar.lacks() === undefined, "it is registered");
    },
    LIMIT,
  );

  test.each(["", "a/b", "..", ".hidden"])(
    "A driver that calls itself %p gets no socket",
    async (name) => {
      const place = aPlace();
      await aDriver(place, name);
      const registrar = aRegistrar(place, virtualTime());
      await eventually(() => registrar.lacks()?.includes("it calls itself") === true, "it says so");
      expect(readdirSync(place.folder)).toEqual([]);
    },
    LIMIT,
  );

  test(
    "A folder that is missing is waited for",
    async () => {
      const place = aPlace();
      const time = virtualTime();
      await aDriver(place);
      rmSync(place.folder, { recursive: true });
      const registrar = aRegistrar(place, time);
      await eventually(() => registrar.lacks()?.includes("does not exist") === true, "it says so");
      mkdirSync(place.folder);
      await passUntil(time, () => existsSync(place.socket), "the socket is there");
    },
    LIMIT,
  );

  test(
    "The newest registrar of a driver has the place; the older one waits, and has it again when that ends",
    async () => {
      const { place, time, kubelet, registrar: older } = await registeredOne();
      const newer = aRegistrar(place, time);
      await eventually(() => newer.lacks() === undefined, "the newer one is registered");
      const taken = inode(place.socket);
      await passUntil(time, () => older.lacks()?.includes("another process registers") === true, "the older one waits");
      expect(inode(place.socket)).toBe(taken);
      await newer.end();
      await passUntil(time, () => older.lacks() === undefined, "the older one is registered again");
      expect([...kubelet.registered.keys()]).toEqual([NAME]);
    },
    LIMIT,
  );

  test(
    "At its end an older registrar leaves the socket of the newer one",
    async () => {
      const { place, time, registrar: older } = await registeredOne();
      const newer = aRegistrar(place, time);
      await eventually(() => newer.lacks() === undefined, "the newer one is registered");
      const taken = inode(place.socket);
      await older.end();
      expect(inode(place.socket)).toBe(taken);
      const asked = client(Registration, place.socket);
      ends.push(asked.close);
      expect((await asked.getInfo({}, { timeoutMs: 5_000 })).name).toBe(NAME);
    },
    LIMIT,
  );
});

/** A socket's file that nobody listens on, as a node that lost its power leaves it. */
const leaveSocket = async (path: string): Promise<void> => {
  const script = `require("node:net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`;
  await Bun.spawn([process.execPath, "-e", script, path]).exited;
  expect(lstatSync(path).isSocket()).toBe(true);
};

describe("what an earlier registrar has left", () => {
  test(
    "A socket that nobody listens on is removed before anything else, and one in use stays",
    async () => {
      const { folder, socket } = aPlace();
      await leaveSocket(socket);
      await Effect.runPromise(clearRegistration(folder, NAME));
      expect(existsSync(socket)).toBe(false);
      const used = createServer();
      await new Promise<void>((resolve) => void used.listen(socket, resolve));
      ends.push(() => new Promise((resolve) => void used.close(resolve)));
      await Effect.runPromise(clearRegistration(folder, NAME));
      expect(existsSync(socket)).toBe(true);
    },
    LIMIT,
  );

  test(
    "A socket that nobody listens on makes room for the new one",
    async () => {
      const place = aPlace();
      await leaveSocket(place.socket);
      await aDriver(place);
      const kubelet = aKubelet(place);
      const registrar = aRegistrar(place, virtualTime());
      await eventually(() => registrar.offered() !== undefined, "it is offered");
      kubelet.start();
      await eventually(() => registrar.lacks() === undefined, "it is registered");
    },
    LIMIT,
  );
});

describe("a question to a registrar in another process", () => {
  const ask = ({ folder }: Place) => Effect.runPromise(wrongWithRegistration(folder, HOST_PATH, Duration.seconds(5)));

  test(
    "Nothing is wrong with a registrar that answers for the driver's path",
    async () => {
      expect(await ask((await registeredOne()).place)).toBeUndefined();
    },
    LIMIT,
  );

  test(
    "A folder without a socket, a socket that nobody listens on, and another driver's are named",
    async () => {
      const place = aPlace();
      expect(await ask(place)).toBe(
        `no registrar answers for ${HOST_PATH} in ${place.folder}: it has no registration socket`,
      );
      await leaveSocket(place.socket);
      expect(await ask(place)).toContain(`${place.socket}: No connection established`);
      const { place: other } = await registeredOne();
      const elsewhere = Effect.runPromise(wrongWithRegistration(other.folder, "/other/csi.sock", Duration.seconds(5)));
      expect(await elsewhere).toContain(`is for ${HOST_PATH}`);
    },
    LIMIT,
  );
});
