/** A Redis Cluster of our own on the loopback: masters with a replica each. */
import { findFreePort, type PrivateRedis, startPrivateRedis } from "@throughline/local";
import { Redis } from "ioredis";
import { patienceMs, until } from "./until.ts";

/** How long a node may be silent before the others call it dead. The vote for its replica takes about a second more. */
const nodeTimeoutMs = 1_500;
const slots = 16_384;

export interface ClusterNode {
  readonly id: string;
  readonly port: number;
  /** For the test's own looks and blows at this node. */
  readonly redis: Redis;
  /** SIGKILL. */
  kill(): void;
  pause(): void;
  resume(): void;
}

export interface TestCluster {
  /** As REDIS_URL takes it. */
  readonly url: string;
  readonly nodes: readonly ClusterNode[];
  /** The node that is master of this slot now. */
  master(slot: number): Promise<ClusterNode>;
  /** The masters that answer. */
  masters(): Promise<ClusterNode[]>;
  replica(master: ClusterNode): Promise<ClusterNode>;
  /** Waits until every slot has a master, and `replicas` of the masters have a replica that follows. */
  whole(replicas?: number): Promise<void>;
  stop(): Promise<void>;
}

export async function startCluster(masters = 3): Promise<TestCluster> {
  const servers = await Promise.all(Array.from({ length: 2 * masters }, startNode));
  const nodes: ClusterNode[] = await Promise.all(
    servers.map(async ({ server }, i) => {
      const redis = new Redis(server.port, "127.0.0.1", { maxRetriesPerRequest: null });
      redis.on("error", () => {}); // Some are killed on purpose.
      await redis.cluster("SET-CONFIG-EPOCH", i + 1);
      const id = (await redis.call("CLUSTER", "MYID")) as string;
      if (i > 0) {
        const [first] = servers as [NodeServer];
        await redis.call("CLUSTER", "MEET", "127.0.0.1", first.server.port, first.busPort);
      }
      return {
        id,
        port: server.port,
        redis,
        kill: () => process.kill(server.pid, "SIGKILL"),
        pause: () => process.kill(server.pid, "SIGSTOP"),
        resume: () => process.kill(server.pid, "SIGCONT"),
      };
    }),
  );
  const cluster: TestCluster = {
    url: `redis+cluster://${nodes
      .slice(0, 2)
      .map(({ port }) => `127.0.0.1:${port}`)
      .join(",")}`,
    nodes,
    async master(slot) {
      const [master] = await findMasters(nodes, (from, to) => from <= slot && slot <= to);
      if (master === undefined) throw new Error(`no master of slot ${slot} answers`);
      return master;
    },
    masters: () => findMasters(nodes, () => true),
    async replica(master) {
      for (const node of nodes.filter(({ redis }) => redis.status === "ready")) {
        const info = await node.redis.info("replication");
        if (info.includes("role:slave") && info.includes(`master_port:${master.port}\r`)) return node;
      }
      throw new Error(`${master.port} has no replica`);
    },
    async whole(replicas = masters) {
      await until(() => isWhole(nodes, replicas), patienceMs, "a whole cluster");
    },
    async stop() {
      for (const { redis } of nodes) redis.disconnect();
      await Promise.all(servers.map(({ server }) => server.stop()));
    },
  };
  await until(async () => {
    const known = await Promise.all(nodes.map(({ redis }) => redis.cluster("NODES") as Promise<string>));
    return known.every((text) => nodes.every(({ id }) => new RegExp(`^${id} .* connected`, "m").test(text)));
  });
  const share = Math.ceil(slots / masters);
  for (let i = 0; i < masters; i++) {
    const last = Math.min((i + 1) * share, slots) - 1;
    await nodes[i]!.redis.call("CLUSTER", "ADDSLOTSRANGE", i * share, last);
    await nodes[masters + i]!.redis.cluster("REPLICATE", nodes[i]!.id);
  }
  await cluster.whole();
  return cluster;
}

interface NodeServer {
  server: PrivateRedis;
  busPort: number;
}

async function startNode(): Promise<NodeServer> {
  const busPort = await findFreePort();
  const server = await startPrivateRedis({
    args: [
      ...["--cluster-enabled", "yes", "--cluster-port", String(busPort)],
      ...["--cluster-node-timeout", String(nodeTimeoutMs), "--cluster-replica-validity-factor", "0"],
      // As docs/operating.md has it: while one master is away the others serve.
      ...["--cluster-require-full-coverage", "no"],
      ...["--repl-diskless-sync-delay", "0"],
    ],
  });
  return { server, busPort };
}

/** The nodes that say so of themselves: others may be behind with their news. */
async function findMasters(
  nodes: readonly ClusterNode[],
  owns: (from: number, to: number) => boolean,
): Promise<ClusterNode[]> {
  const found: ClusterNode[] = [];
  for (const node of nodes) {
    if (node.redis.status !== "ready") continue;
    const ranges = await node.redis.cluster("SLOTS");
    if (ranges.some(([from, to, master]) => owns(from, to) && master?.[2] === node.id)) found.push(node);
  }
  return found;
}

async function isWhole(nodes: readonly ClusterNode[], replicas: number): Promise<boolean> {
  const alive = nodes.filter(({ redis }) => redis.status === "ready");
  const infos = await Promise.all(
    alive.map(async ({ redis }) => ({
      cluster: (await redis.cluster("INFO")) as string,
      replication: await redis.info("replication"),
    })),
  );
  const following = infos.filter(({ replication }) => /^master_link_status:up/m.test(replication)).length;
  return (
    following >= replicas &&
    infos.every(({ cluster }) => /^cluster_state:ok/m.test(cluster) && cluster.includes(`slots_ok:${slots}`))
  );
}

/** Moves a slot with all of its keys to another master, in the steps of `redis-cli --cluster reshard`. */
export async function moveSlot(
  cluster: TestCluster,
  slot: number,
  between: { beforeKeys?: () => Promise<void>; afterKeys?: () => Promise<void> } = {},
): Promise<void> {
  const from = await cluster.master(slot);
  const to = (await cluster.masters()).find((master) => master !== from)!;
  await to.redis.cluster("SETSLOT", slot, "IMPORTING", from.id);
  await from.redis.cluster("SETSLOT", slot, "MIGRATING", to.id);
  await between.beforeKeys?.();
  for (;;) {
    const keys = (await from.redis.cluster("GETKEYSINSLOT", slot, 10)) as string[];
    if (keys.length === 0) break;
    await from.redis.call("MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", ...keys);
  }
  await between.afterKeys?.();
  await to.redis.cluster("SETSLOT", slot, "NODE", to.id);
  await from.redis.cluster("SETSLOT", slot, "NODE", to.id);
}

/** Cuts a master's replica off for good, which goes on to be its heir: what is written from now on dies with the master. */
export async function cutReplicaOff(cluster: TestCluster, master: ClusterNode): Promise<void> {
  const { redis } = await cluster.replica(master);
  // A login that the master refuses, for it asks for none.
  await redis.config("SET", "masterauth", "nobody");
  await redis.call("CLIENT", "KILL", "TYPE", "master");
  await until(async () => (await master.redis.info("replication")).includes("connected_slaves:0"));
}
