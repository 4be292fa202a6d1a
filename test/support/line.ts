/** The whole line in this process: gateways and workers on a key prefix of their own. */

import { type Gateway, type GatewayTimes, gatewayConfig, startGateway } from "@throughline/gateway";
import { connectRedis, type RedisConnection } from "@throughline/kit";
import { type ServeOptions, serve, type WorkerHandle, type WorkerTimes } from "@throughline/worker";
import { TestClient, type TestClientOptions } from "./client.ts";
import { testLogger } from "./logger.ts";
import { testPrefix, testRedisUrl } from "./redis.ts";

export interface LineOptions {
  agents?: ServeOptions["agents"];
  /** How many to begin with. Default 1. */
  gateways?: number;
  /** How many to begin with. Default 1. */
  workers?: number;
  /** More of the gateways' settings. */
  env?: Record<string, string>;
  /** More of the workers' settings. */
  worker?: Partial<ServeOptions>;
  /** The gateways' and the workers' own times. */
  times?: Partial<GatewayTimes & WorkerTimes>;
  /** Default: the Redis of the test run. */
  redisUrl?: string;
}

export interface Line {
  readonly prefix: string;
  readonly redisUrl: string;
  /** A connection for the test's own looks and blows. */
  readonly redis: RedisConnection;
  readonly gateways: Gateway[];
  readonly workers: WorkerHandle[];
  addGateway(env?: Record<string, string>): Promise<Gateway>;
  addWorker(options?: Partial<ServeOptions>, times?: Partial<WorkerTimes>): Promise<WorkerHandle>;
  /** A socket on a gateway, by default the first. It is closed with the line. */
  client(gateway?: number, options?: TestClientOptions): Promise<TestClient>;
  stop(): Promise<void>;
}

export async function startLine(options: LineOptions = {}): Promise<Line> {
  const prefix = testPrefix();
  const redisUrl = options.redisUrl ?? testRedisUrl();
  const redis = connectRedis(redisUrl, "worker");
  const gateways: Gateway[] = [];
  const workers: WorkerHandle[] = [];
  const clients: TestClient[] = [];
  const line: Line = {
    prefix,
    redisUrl,
    redis,
    gateways,
    workers,
    async addGateway(env = {}) {
      const config = gatewayConfig({
        REDIS_URL: redisUrl,
        KEY_PREFIX: prefix,
        PORT: "0",
        DRAIN_MS: "0",
        ...options.env,
        ...env,
      });
      const gateway = await startGateway(config, testLogger, options.times);
      gateways.push(gateway);
      return gateway;
    },
    async addWorker(more = {}, times = {}) {
      const worker = await serve(
        {
          agents: options.agents ?? {},
          redis: redisUrl,
          prefix,
          logger: testLogger,
          drainMs: 0,
          cancelGraceMs: 200,
          ...options.worker,
          ...more,
        },
        { ...options.times, ...times },
      );
      workers.push(worker);
      return worker;
    },
    async client(gateway = 0, clientOptions = {}) {
      const client = await TestClient.open(gateways[gateway]!.url, clientOptions);
      clients.push(client);
      return client;
    },
    async stop() {
      for (const client of clients) client.drop();
      await Promise.all([...gateways, ...workers].map((each) => each.close()));
      redis.disconnect();
    },
  };
  for (let i = 0; i < (options.gateways ?? 1); i++) await line.addGateway();
  for (let i = 0; i < (options.workers ?? 1); i++) await line.addWorker();
  return line;
}
