/**
 * A token of Vault: by its Kubernetes login, or as it is given.
 *
 * 1. A token is for one request of the driver, and is in no file.
 */
import * as Effect from "effect/Effect";
import * as Redacted from "effect/Redacted";
import * as z from "zod";
import { KmsDenied, KmsRefused } from "../errors.ts";
import { ask, serverName, type VaultCall, type VaultServer } from "./http.ts";
import { joined, type Login } from "./kv.ts";

export interface KubernetesLogin {
  /** Of the authentication method, as `kubernetes`. */
  readonly mount: string;
  readonly role: string;
  /** The token of a ServiceAccount. */
  readonly jwt: Login;
}

const loginShape = z.object({ auth: z.object({ client_token: z.string().min(1) }) });

export const kubernetesLogin = (server: VaultServer, { mount, role, jwt }: KubernetesLogin, namespace: string): Login =>
  Effect.gen(function* () {
    const path = joined("auth", mount, "login");
    const remedy = `Bind the ServiceAccount of the token, and its namespace, to the role ${role} of ${path}`;
    const body = { jwt: Redacted.value(yield* jwt), role };
    const call: VaultCall = { method: "PUT", path, namespace, body, remedy };
    const answer = yield* ask(server, call);
    const token = loginShape.safeParse(answer.body).data?.auth.client_token;
    if (token !== undefined) return Redacted.make(token, { label: "token of Vault" });
    const store = serverName(server);
    const reason = `login at ${path} as role ${role}: ${answer.errors || `HTTP status ${answer.status}`}`;
    if (answer.status === 400) return yield* new KmsDenied({ store, reason, remedy });
    return yield* new KmsRefused({ store, reason, remedy: "Correct vaultAuthPath, or enable the login there" });
  });

/**
 * The mount in `vaultAuthPath`: what comes after `auth`, up to `login` or the end; the whole text where there is no such
 * thing. As ceph-csi reads it: `/v1/auth/kubernetes/login`, `auth/kubernetes` and `kubernetes` are one.
 */
export const mountIn = (authPath: string): string => {
  const parts = authPath.trim().split("/");
  const login = parts.indexOf("login");
  const before = login === -1 ? parts : parts.slice(0, login);
  const auth = before.indexOf("auth");
  const mount = auth === -1 ? [] : before.slice(auth).filter((part) => part !== "auth");
  return joined(...mount) || authPath.trim();
};
