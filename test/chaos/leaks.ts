/** What must not be left over when all runs have ended and all clients have gone. */
import { ownerScope } from "@throughline/dispatch";
import type { Redis } from "ioredis";
import { until } from "../support/until.ts";
import type { Ledger } from "./ledger.ts";
import type { Stage } from "./stage.ts";

/** Bytes that a process may hold beyond what it held when fresh. */
const growthLimit = { gateway: 16 << 20, worker: 24 << 20 };
const patienceMs = 15_000;

const runKeyNames = /^(run|log|snapshot|readers)$/;
const threadKeyNames = /^(thread|runs|told|events|head|checkpoints|blobs|writes|index)$/;
/** What BullMQ keeps of a queue without jobs. */
const queueKeyNames = /^(meta|id|events|stalled-check|marker|pc)$/;

/** A key that may stay: whether it has to expire by itself. */
type Verdict = { expires: boolean } | undefined;

/** Nobody listens to a run's channels any more, and only the chaos program and the services hold connections. */
export async function auditSubscriptions(redis: Redis, ledger: Ledger): Promise<void> {
  let left: string[] = [];
  const look = async () => {
    left = ((await redis.pubsub("CHANNELS", "*")) as string[]).filter((name) =>
      /:(live|control)$/.test(name),
    );
    return left.length === 0;
  };
  await until(look, patienceMs).catch(() => {
    ledger.violation(`${left.length} channels are still subscribed to: ${left.slice(0, 5).join(", ")}`);
  });
}

/** Every key belongs to something that is known, and expires where it should. */
export async function auditKeys(redis: Redis, ledger: Ledger): Promise<void> {
  const scope = ownerScope("local");
  const threads = new Set([...ledger.byThread().keys()].map((threadId) => `${scope}${threadId}`));
  const judge = (key: string): Verdict => {
    const queue = /^\{tl:jobs\}:default:(.+)$/.exec(key)?.[1];
    if (queue === "brought-back") return { expires: true };
    if (queue !== undefined) return queueKeyNames.test(queue) ? { expires: false } : undefined;
    const [, tag = "", name = ""] = /^tl:\{([^}]+)\}:(.+)$/.exec(key) ?? [];
    if (ledger.runs.has(tag)) return runKeyNames.test(name) ? { expires: true } : undefined;
    if (threads.has(tag)) return threadKeyNames.test(name) ? { expires: false } : undefined;
    if (tag === "agents") return { expires: name.startsWith("workers:") };
    if (name === "idempotency") return { expires: true };
    if (!tag.startsWith("owner-")) return undefined;
    return { expires: /^(active|bytes|due|gone|told|events)$/.test(name) };
  };
  let leaked: string[] = [];
  let count = 0;
  const look = async () => {
    leaked = [];
    count = 0;
    for await (const page of redis.scanStream({ count: 1_000 })) {
      const keys = [...new Set(page as string[])];
      const ttls = await Promise.all(keys.map((key) => redis.pttl(key)));
      for (const [i, key] of keys.entries()) {
        count += 1;
        const verdict = judge(key);
        if (verdict === undefined) leaked.push(key);
        else if (verdict.expires && ttls[i] === -1) leaked.push(`${key} (it never expires)`);
      }
    }
    return leaked.length === 0;
  };
  await until(look, patienceMs).catch(() => {
    ledger.violation(`${leaked.length} keys are left over: ${leaked.slice(0, 8).join(", ")}`);
  });
  ledger.count("keys looked at", count);
}

/** Gateways and workers hold about what they held when they were fresh. Answers bytes by service. */
export async function auditMemory(stage: Stage, ledger: Ledger): Promise<Map<string, number>> {
  const grown = new Map<string, number>();
  for (const service of stage.services) {
    const growth = await service.growth();
    grown.set(service.name, growth);
    if (growth <= growthLimit[service.kind]) continue;
    ledger.violation(`${service.name} holds ${growth} bytes more than when it was fresh, with nothing to do`);
  }
  return grown;
}

/** When all services have gone, so have their connections. */
export async function auditConnections(redis: Redis, ledger: Ledger): Promise<void> {
  let left: string[] = [];
  const look = async () => {
    const list = ((await redis.call("CLIENT", "LIST")) as string).trim().split("\n");
    left = list.filter((entry) => !entry.includes(" name=chaos "));
    return left.length === 0;
  };
  await until(look, patienceMs).catch(() => {
    ledger.violation(`${left.length} connections to Redis are left over: ${left.slice(0, 3).join("; ")}`);
  });
}
