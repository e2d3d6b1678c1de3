/**
 * Kubelet's plugin watcher, as far as a registrar sees it: it watches a folder, asks each registration socket that appears,
 * then the driver behind it, tells the outcome, and forgets a driver whose socket goes.
 *
 * Not here: Node and CSINode. `refuses` stands for what fails there.
 *
 * 1. As kubelet's, it acts on what the folder's inotify tells and on what lies there when it starts, and on nothing else:
 *    it never looks again at a socket whose registration failed.
 * 2. A name is registered from before NodeGetInfo on; the same name at another socket is refused meanwhile.
 */
import { existsSync, type FSWatcher, lstatSync, readdirSync, watch } from "node:fs";
import { join } from "node:path";
import type { ServiceError } from "@grpc/grpc-js";
import { Node } from "../../lib/gen/csi_pb.ts";
import { Registration } from "../../lib/gen/pluginregistration_pb.ts";
import { client } from "./grpc-client.ts";

export interface Registered {
  readonly name: string;
  readonly socket: string;
  readonly endpoint: string;
  readonly versions: readonly string[];
  readonly nodeId: string;
}

export interface KubeletOptions {
  readonly folder: string;
  /** The path of a socket of the host as this process has it. */
  readonly onHost?: (path: string) => string;
}

export class KubeletWatcher {
  readonly registered = new Map<string, Registered>();
  /** What was done, in order. */
  readonly history: string[] = [];
  /** Why Node or CSINode cannot be written. */
  refuses: string | undefined;
  private watcher: FSWatcher | undefined;
  private readonly known = new Map<string, string>();
  private work: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: KubeletOptions) {}

  start(): void {
    const { folder } = this.options;
    this.watcher = watch(folder, (_, name) => this.seen(join(folder, String(name))));
    for (const name of readdirSync(folder)) this.seen(join(folder, name));
  }

  /** As a kubelet that ends: it knows nothing afterwards. */
  async stop(): Promise<void> {
    this.watcher?.close();
    this.watcher = undefined;
    await this.work;
    this.known.clear();
    this.registered.clear();
  }

  private seen(path: string): void {
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (name.startsWith(".")) return;
    // one after the other, as kubelet handles its events
    this.work = this.work.then(() => this.reconcile(path));
  }

  private async reconcile(path: string): Promise<void> {
    const found = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    // a number alone is given again to the next file
    const identity = found === undefined ? undefined : `${found.ino} ${found.birthtimeNs}`;
    const before = this.known.get(path);
    if (before !== undefined && before !== identity) {
      this.known.delete(path);
      for (const [name, { socket }] of this.registered) {
        if (socket !== path) continue;
        this.registered.delete(name);
        this.history.push(`forgot ${name}`);
      }
    }
    if (identity === undefined || found?.isSocket() !== true || this.known.has(path)) return;
    this.known.set(path, identity);
    await this.register(path).catch((error: ServiceError) => {
      this.history.push(`no answer: ${error.code}`);
      // kubelet tries such a socket again; here the next event does
      this.known.delete(path);
    });
  }

  private async register(path: string): Promise<void> {
    const registration = client(Registration, path);
    try {
      const info = await registration.getInfo({}, { timeoutMs: 5_000 });
      const refusal = await this.refusalOf(path, info);
      const status = { pluginRegistered: refusal === undefined, error: refusal ?? "" };
      await registration.notifyRegistrationStatus(status, { timeoutMs: 5_000 });
      this.history.push(refusal === undefined ? `registered ${info.name}` : `refused ${info.name}: ${refusal}`);
    } finally {
      registration.close();
    }
  }

  private async refusalOf(
    socket: string,
    info: { type: string; name: string; endpoint: string; supportedVersions: readonly string[] },
  ): Promise<string | undefined> {
    const { name, endpoint, supportedVersions: versions } = info;
    if (info.type !== "CSIPlugin") return `no handler for ${info.type}`;
    if (this.registered.has(name)) return `${name} is registered already`;
    if (!versions.some((version) => /^v?1\.\d/.test(version))) return "no supported version";
    const { onHost = (path: string) => path } = this.options;
    const driver = onHost(endpoint);
    if (!existsSync(driver)) return `no driver at ${endpoint}`;
    const node = client(Node, driver);
    try {
      const { nodeId } = await node.nodeGetInfo({}, { timeoutMs: 5_000 });
      if (this.refuses !== undefined) return this.refuses;
      this.registered.set(name, { name, socket, endpoint, versions, nodeId });
      return undefined;
    } catch (error) {
      return `NodeGetInfo: ${(error as ServiceError).details}`;
    } finally {
      node.close();
    }
  }
}
