/** Where a round takes place: a private Redis with an append-only file, gateways and workers, each a process. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type PrivateRedis, startPrivateRedis } from "@throughline/local";
import { Redis } from "ioredis";
import { until } from "../support/until.ts";
import type { Random } from "./random.ts";
import { type Instance, Service, type ServiceEvents } from "./service.ts";

export const maxCrashes = 6;
/** Characters of a log beyond which it is trimmed: what `bulky` says in a second or two. */
const maxLog = 150_000;

export interface StageSize {
  gateways: number;
  workers: number;
}

/**
 * `appendfsync no`: every write is in the file, as far as the kernel is concerned, before it is answered. So a SIGKILL of
 * the server loses nothing, which `everysec` does not promise: it puts writes off while an fsync is under way.
 */
const redisArgs = ["--appendfsync", "no"];

export class Stage {
  /** The processes' logs, and what Redis writes. */
  readonly dir: string;
  readonly services: Service[] = [];
  /** Straight to Redis, for faults and checks. Waits while Redis is away. */
  readonly redis: Redis;
  #server: PrivateRedis;

  private constructor(server: PrivateRedis, dir: string) {
    this.dir = dir;
    this.#server = server;
    this.redis = new Redis(server.url, { maxRetriesPerRequest: null, connectionName: "chaos" });
    this.redis.on("error", () => {}); // It is ended on purpose.
    process.once("exit", this.#abandon);
  }

  static async open(size: StageSize, events: ServiceEvents): Promise<Stage> {
    const dir = mkdtempSync(join(tmpdir(), "throughline-chaos-"));
    const server = await startPrivateRedis({ dataDir: join(dir, "redis"), args: redisArgs });
    const stage = new Stage(server, dir);
    const add = (count: number, kind: "gateway" | "worker", program: string, env: Record<string, string>) => {
      for (let i = 1; i <= count; i++) {
        stage.services.push(new Service(i, { kind, program, env }, server.url, dir, events));
      }
    };
    add(size.gateways, "gateway", "apps/gateway/dist/main.js", {
      PORT: "0",
      DRAIN_MS: "1500",
      // Out of reach, so that runs are counted and none is refused.
      MAX_RUNS_PER_OWNER: "1000000",
      MAX_STORED_BYTES_PER_OWNER: "1000000000000",
    });
    add(size.workers, "worker", "test/dist/chaos/worker.js", {
      MAX_CRASHES: String(maxCrashes),
      MAX_LOG: String(maxLog),
    });
    await Promise.all(stage.services.map((service) => service.start()));
    return stage;
  }

  of(kind: "gateway" | "worker"): Service[] {
    return this.services.filter((service) => service.kind === kind);
  }

  /** A service that has a process in this state; undefined where none has. */
  pick(kind: "gateway" | "worker", random: Random): Service | undefined {
    const up = this.of(kind).filter(({ current }) => current?.state === "up");
    return up.length === 0 ? undefined : random.pick(up);
  }

  /** A gateway for a socket, as a load balancer would choose one. Waits until there is one. */
  gateway(random: Random): Instance | undefined {
    return this.pick("gateway", random)?.current;
  }

  signalRedis(name: NodeJS.Signals): void {
    process.kill(this.#server.pid, name);
  }

  /** SIGKILL. */
  async killRedis(): Promise<void> {
    this.signalRedis("SIGKILL");
    // Buries the handle, too.
    await this.#server.stop();
  }

  /** Starts a server from what the killed one had written. */
  async restartRedis(): Promise<void> {
    const { port } = this.#server;
    this.#server = await startPrivateRedis({ dataDir: join(this.dir, "redis"), port, args: redisArgs });
  }

  /** Waits until every service has a process that is up. */
  async whole(deadlineMs: number): Promise<void> {
    await until(
      () => this.services.every(({ current }) => current?.state === "up"),
      deadlineMs,
      "the line, all of it, being up again",
    );
  }

  async closeServices(): Promise<void> {
    await Promise.all(this.services.map((service) => service.close()));
  }

  /** Broken off: a process that is frozen would never hear of it. */
  readonly #abandon = () => {
    for (const service of this.services) service.abandon();
    try {
      this.signalRedis("SIGCONT");
    } catch {
      // It does not run at the moment.
    }
    rmSync(this.dir, { recursive: true, force: true });
  };

  /** @param keepLogs leaves the processes' logs where they are */
  async close(keepLogs: boolean): Promise<void> {
    await this.closeServices();
    this.redis.disconnect();
    await this.#server.stop();
    process.off("exit", this.#abandon);
    rmSync(keepLogs ? join(this.dir, "redis") : this.dir, { recursive: true, force: true });
  }
}
