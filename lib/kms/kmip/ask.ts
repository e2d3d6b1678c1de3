/**
 * One question to a KMIP server, on a connection of its own, and what its failures mean to an administrator.
 *
 * 1. The server has said that it speaks KMIP 1.4 before it is asked.
 */
import { randomBytes } from "node:crypto";
import * as Effect from "effect/Effect";
import type * as Scope from "effect/Scope";
import { KmsDenied, type KmsError, KmsRefused, KmsUnreachable } from "../errors.ts";
import { sectionPlace } from "../store-secret.ts";
import { type Connection, type ConnectionFailed, openConnection } from "./connection.ts";
import { type Answer, answerOf, discoverVersions, type Question, requestOf, speaksOurVersion } from "./messages.ts";
import type { KmipSettings } from "./settings.ts";
import type { Item } from "./ttlv.ts";

const BATCH_ID_BYTES = 16;

export const refused = ({ name }: KmipSettings, reason: string, remedy: string) =>
  new KmsRefused({ store: name, reason, remedy });

export const ask = (settings: KmipSettings, question: Question): Effect.Effect<Item | undefined, KmsError> =>
  Effect.scoped(
    Effect.gen(function* () {
      const connection = yield* connect(settings);
      const versions = yield* askOn(settings, connection, discoverVersions);
      if (!speaksOurVersion(versions)) {
        return yield* refused(settings, "it does not speak KMIP 1.4", "Enable that version there");
      }
      return yield* askOn(settings, connection, question);
    }),
  );

const connect = (settings: KmipSettings): Effect.Effect<Connection, KmsError, Scope.Scope> =>
  Effect.mapError(openConnection(settings.endpoint), (failed) => connectionError(settings, failed));

const askOn = Effect.fnUntraced(function* (
  settings: KmipSettings,
  { exchange }: Connection,
  question: Question,
): Effect.fn.Return<Item | undefined, KmsError> {
  const batchId = randomBytes(BATCH_ID_BYTES);
  const message = yield* Effect.mapError(exchange(requestOf(question, batchId)), (failed) =>
    connectionError(settings, failed),
  );
  const answer = answerOf(question, batchId, message);
  if (answer.kind === "success") return answer.payload;
  if (answer.kind === "other") return yield* new KmsUnreachable({ store: settings.name, reason: answer.what });
  return yield* failureOf(settings, question, answer);
});

const connectionError = (settings: KmipSettings, { kind, reason }: ConnectionFailed): KmsError => {
  const { name: store, secret, section } = settings;
  if (kind === "unreachable") return new KmsUnreachable({ store, reason });
  if (kind === "rejected") {
    const remedy = `Write a certificate and key that the server accepts as CLIENT_CERT and CLIENT_KEY into ${secret.place}`;
    return new KmsDenied({ store, reason: `the TLS handshake ended with ${reason}`, remedy });
  }
  const remedy = `Write the authority of its certificate as CA_CERT into ${secret.place}, or its name as TLS_SERVER_NAME into ${sectionPlace(section)}`;
  return new KmsRefused({ store, reason: `its certificate is not trusted (${reason})`, remedy });
};

/** Result reasons of KMIP 1.4, 9.1.3.2.29. */
const REASON = { itemNotFound: 1, notAuthenticated: 3, notSupported: 5, permissionDenied: 0x0c } as const;

const failureOf = (
  settings: KmipSettings,
  { name: operation }: Question,
  { reason, message }: Answer & { readonly kind: "failure" },
): KmsError => {
  const { name: store, secret, section, keyId } = settings;
  const said = message === "" ? `${operation} failed with reason ${reason ?? "unknown"}` : `${operation}: ${message}`;
  switch (reason) {
    case REASON.notAuthenticated: {
      const remedy = `Write a certificate that the server knows as CLIENT_CERT into ${secret.place}`;
      return new KmsDenied({ store, reason: said, remedy });
    }
    case REASON.permissionDenied: {
      const remedy = `Check there that the key ${keyId} is active, and permits ${operation} to the client of CLIENT_CERT in ${secret.place}`;
      return new KmsDenied({ store, reason: said, remedy });
    }
    case REASON.itemNotFound:
      return refused(settings, said, `Write the ID of a key of that server as UNIQUE_IDENTIFIER into ${secret.place}`);
    case REASON.notSupported: {
      const remedy = `Write "USE_CRYPTO_RPC": "false" into ${sectionPlace(section)}`;
      return refused(settings, said, remedy);
    }
    default:
      return refused(settings, said, `Check on the server that the key ${keyId} is active and permits ${operation}`);
  }
};
