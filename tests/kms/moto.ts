/**
 * moto, a model of AWS by people who test against it, as an HTTP server: KMS, STS and IAM, with the
 * signature of each request checked from the end of the set-up on.
 *
 * What it answers to a wrong signature is XML, where KMS has JSON: what KMS itself answers is in tests/unit/kms.
 *
 * Not here: the driver's client.
 */
import { must } from "../rig/place.ts";
import { pythonPackages } from "../rig/python.ts";
import { freePort, untilListening } from "./listening.ts";

/** With what its server needs for these services, and not for all of AWS. */
const PACKAGES = ["moto[kms,iam]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
export const REGION = "eu-central-1";

/** Makes a key, a user who may use it, one who may not, and a role that may; prints them. */
const SET_UP = `
import base64, json, sys
import boto3
def client(service):
  return boto3.client(service, region_name="${REGION}", endpoint_url=sys.argv[1], aws_access_key_id="a", aws_secret_access_key="s")
kms, iam = client("kms"), client("iam")
key = kms.create_key()["KeyMetadata"]["Arn"]
def user(name, *actions):
  iam.create_user(UserName=name)
  if actions:
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
  key = iam.create_access_key(UserName=name)["AccessKey"]
  return {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
trust = {"Version": "2012-10-17", "Statement": []}
role = iam.create_role(RoleName="tenant", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["kms:*"], "Resource": "*"}]}
iam.put_role_policy(RoleName="tenant", PolicyName="p", PolicyDocument=json.dumps(policy))
sealed = kms.encrypt(KeyId=key, Plaintext=sys.argv[2].encode())["CiphertextBlob"]
print(json.dumps({"key": key, "user": user("driver", "kms:Encrypt", "kms:Decrypt"),
  "stranger": user("stranger"), "role": role, "wrapped": base64.b64encode(sealed).decode()}))
`;

interface AccessKey {
  readonly id: string;
  readonly secret: string;
}

export interface Moto {
  readonly url: string;
  readonly key: string;
  readonly user: AccessKey;
  /** Without any permission. */
  readonly stranger: AccessKey;
  /** May use all keys. */
  readonly role: string;
  /** `text`, encrypted by boto3, in base64. */
  readonly wrapped: string;
  /** It checks no signature of that many requests: a request for a role has none, which moto does not expect. */
  readonly guardAfter: (requests: number) => Promise<void>;
  readonly stop: () => Promise<void>;
}

/** `text` is what it encrypts once. */
export const startMoto = async (text: string): Promise<Moto> => {
  const env = { PYTHONPATH: await pythonPackages(PACKAGES) };
  const port = freePort();
  const url = `http://127.0.0.1:${port}`;
  const words = ["python3", "-m", "moto.server", "-H", "127.0.0.1", "-p", String(port)];
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...words], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  await untilListening(child, port);
  const made = JSON.parse(await must({ env }, ["python3", "-c", SET_UP, url, text])) as Omit<
    Moto,
    "url" | "guardAfter" | "stop"
  >;
  const guardAfter = async (requests: number) => {
    const answer = await fetch(`${url}/moto-api/reset-auth`, { method: "POST", body: String(requests) });
    if (!answer.ok) throw new Error(`moto does not check signatures: HTTP ${answer.status}`);
  };
  await guardAfter(0);
  return {
    ...made,
    url,
    guardAfter,
    stop: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
};
