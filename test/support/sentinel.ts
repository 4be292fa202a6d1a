/** A master with a replica, and Sentinels that watch them, on the loopback. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findFreePort, findOnPath, type PrivateRedis, startPrivateRedis } from "@throughline/local";
import { Redis } from "ioredis";
import { until } from "./until.ts";

/** How long a master may be silent before a Sentinel calls it dead. */
const downAfterMs = 1_000;

export interface TestSentinels {
  /** As REDIS_URL takes it. */
  readonly url: string;
  /** The first master. */
  readonly master: PrivateRedis;
  readonly replica: PrivateRedis;
  /** SIGKILL. */
  killMaster(): void;
  stop(): Promise<void>;
}

export async function startSentinels(count = 3): Promise<TestSentinels> {
  const master = await startPrivateRedis({ args: ["--repl-diskless-sync-delay", "0"] });
  const replica = await startPrivateRedis({ args: ["--replicaof", "127.0.0.1", String(master.port)] });
  const looks = [master, replica].map(({ port }) => quietRedis(port));
  const sentinels = await Promise.all(Array.from({ length: count }, () => startSentinel(master.port)));
  looks.push(...sentinels.map(({ port }) => quietRedis(port)));
  await until(async () => (await looks[1]!.info("replication")).includes("master_link_status:up"));
  // They find each other, and the replica, through the master.
  const known = new RegExp(`slaves=1,sentinels=${count}\\b`);
  await until(async () =>
    (await Promise.all(looks.slice(2).map((each) => each.info("sentinel")))).every((info) =>
      known.test(info),
    ),
  );
  for (const look of looks) look.disconnect();
  return {
    url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(",")}/mymaster`,
    master,
    replica,
    killMaster: () => process.kill(master.pid, "SIGKILL"),
    async stop() {
      await Promise.all([...sentinels, master, replica].map((each) => each.stop()));
    },
  };
}

function quietRedis(port: number): Redis {
  const redis = new Redis(port, "127.0.0.1", { maxRetriesPerRequest: null, enableReadyCheck: false });
  redis.on("error", () => {}); // It may not be up yet.
  return redis;
}

async function startSentinel(masterPort: number): Promise<{ port: number; stop(): Promise<void> }> {
  const port = await findFreePort();
  const dir = mkdtempSync(join(tmpdir(), "throughline-sentinel-"));
  const config = join(dir, "sentinel.conf");
  const settings = [
    `port ${port}`,
    "bind 127.0.0.1",
    `dir ${dir}`,
    "logfile sentinel.log",
    `sentinel monitor mymaster 127.0.0.1 ${masterPort} 2`,
    `sentinel down-after-milliseconds mymaster ${downAfterMs}`,
    "sentinel failover-timeout mymaster 4000",
  ];
  writeFileSync(config, `${settings.join("\n")}\n`);
  // The shell ends it when our end of the pipe closes, however we end.
  const script = '"$1" "$2" --sentinel & read -r _; kill $!; wait';
  const server = findOnPath(["redis-server", "valkey-server"])!;
  const child = spawn("sh", ["-c", script, "sh", server, config], { stdio: ["pipe", "ignore", "ignore"] });
  return {
    port,
    async stop() {
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.stdin!.end();
      await gone;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
