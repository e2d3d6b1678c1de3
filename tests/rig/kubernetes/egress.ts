/**
 * `egress.ts SOCKET ADDRESS PORT`: the API server's way to the kubelet in the virtual machine, whose own address is none
 * of this machine's. The API server asks a proxy on a unix socket (HTTP CONNECT) for every address of the cluster, and
 * this one leads all of them to the port at which QEMU forwards to the kubelet.
 */
import { rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";

const [socket = "", address = "", port = ""] = process.argv.slice(2);
const END = "\r\n\r\n";

const lead = (caller: Socket, afterHead: Buffer): void => {
  const kubelet = connect(Number(port), address, () => {
    caller.write(`HTTP/1.1 200 OK${END}`);
    kubelet.write(afterHead);
    kubelet.pipe(caller);
    caller.pipe(kubelet);
  });
  kubelet.on("error", () => caller.destroy());
  caller.on("error", () => kubelet.destroy());
};

const server = createServer((caller) => {
  let head = Buffer.alloc(0);
  const read = (chunk: Buffer): void => {
    head = Buffer.concat([head, chunk]);
    const end = head.indexOf(END);
    if (end === -1) return;
    caller.off("data", read);
    caller.pause();
    lead(caller, head.subarray(end + END.length));
  };
  caller.on("data", read);
  caller.on("error", () => caller.destroy());
});
rmSync(socket, { force: true });
server.listen(socket);
