/**
 * An endpoint of a gRPC server or client, in the form of ceph-csi's flags: `unix:///path` or `tcp://host:port`.
 * Pure; opens nothing.
 *
 * Invariant: a unix path is absolute, has one leading slash, and fits into the kernel's socket address.
 */
import * as Result from "effect/Result";

export type Endpoint =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** Room for a path in `sockaddr_un`, without its final NUL. */
export const MAX_SOCKET_PATH = 107;
export const ENDPOINT_FORM = `unix:///path (at most ${MAX_SOCKET_PATH} bytes) or tcp://host:port`;

/** The failure is what to write instead. */
export const parseEndpoint = (text: string): Result.Result<Endpoint, string> => {
  const unix = /^unix:\/\/(.+)$/i.exec(text)?.[1];
  if (unix !== undefined) {
    // `unix://csi/csi.sock` has always meant /csi/csi.sock.
    const path = `/${unix.replace(/^\/+/, "")}`;
    if (path === "/" || path.endsWith("/") || Buffer.byteLength(path) > MAX_SOCKET_PATH) {
      return Result.fail(ENDPOINT_FORM);
    }
    return Result.succeed({ kind: "unix", path });
  }
  const [, bracketed, plain, digits] = /^tcp:\/\/(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]*)):(\d{1,5})$/i.exec(text) ?? [];
  const port = Number(digits);
  if (digits === undefined || port > 65_535) return Result.fail(ENDPOINT_FORM);
  return Result.succeed({ kind: "tcp", host: bracketed ?? plain ?? "", port });
};

/**
 * The address of a server elsewhere. It may also be written in the forms that csi-lib-utils and gRPC's names have for what
 * this client can reach: a path alone, `unix:path`, `host:port`, `dns:///host:port` and `passthrough:///host:port`.
 */
export const parseAddress = (text: string): Result.Result<Endpoint, string> => {
  const path = text.startsWith("/") ? text : /^unix:(?!\/\/)(.+)$/i.exec(text)?.[1];
  if (path !== undefined) return parseEndpoint(`unix:///${path}`);
  const [, place] = /^(?:(?:dns|passthrough):(?:\/\/\/)?)?((?:[^\s:/[\]]+|\[[^\s[\]]+\]):\d+)$/i.exec(text) ?? [];
  return parseEndpoint(place === undefined ? text : `tcp://${place}`);
};

/** The endpoint as text, in the one form that parseEndpoint reads back to the same. */
export const formatEndpoint = (endpoint: Endpoint): string => {
  if (endpoint.kind === "unix") return `unix://${endpoint.path}`;
  const host = endpoint.host.includes(":") ? `[${endpoint.host}]` : endpoint.host;
  return `tcp://${host}:${endpoint.port}`;
};
