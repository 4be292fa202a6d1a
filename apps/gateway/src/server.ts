/**
 * The gateway: an HTTP server that upgrades to WebSockets and answers /healthz and /readyz.
 *
 * It keeps no state that is not in Redis: any gateway can serve any client, and be thrown away.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { RedisCheckpointSaver } from "@throughline/checkpoint";
import { Dispatcher } from "@throughline/dispatch";
import { checkRedis, connectRedis, type Logger } from "@throughline/kit";
import { isDoneWithin } from "@throughline/kit/timing";
import { nanoid } from "nanoid";
import { type Authenticator, jwtAuthenticator, openToAll } from "./auth.ts";
import { commandHandler } from "./commands.ts";
import { type GatewayEnv, warningsOf } from "./config.ts";
import { FairTurns } from "./fair-turns.ts";
import { Hub } from "./hub.ts";
import { ReaderLeases } from "./reader-leases.ts";
import { Sockets } from "./sockets.ts";

export interface Gateway {
  readonly url: string;
  readonly port: number;
  /** What it holds now. */
  readonly connections: number;
  /** Runs that are followed, and threads that are watched. */
  readonly runs: number;
  /** TCP connections, upgraded or not. */
  readonly server: Pick<Server, "getConnections">;
  /** Takes no new sockets, tells those it has to go elsewhere, closes them and what it opened. Idempotent. */
  close(): Promise<void>;
}

/** What catching up may cost a gateway, however many sockets and runs: pages kept, and pages being read. */
const pageBytes = 256 * 1024;
const cacheBytes = 64 * 1024 * 1024;
const maxReads = 32;
/** Lists, states, histories and updates that are under way at once, and that wait for their turn. */
const maxHeavyReads = 2;
const maxHeavyWaiting = 1_024;

/** How long a gateway that stops waits for Redis to hear who reads, ms: it may be out of reach. */
const leasesMs = 1_000;

/** Times that tests change. */
export interface GatewayTimes {
  /**
   * How often the subscriber connection has to prove itself, and quiet runs are looked at, ms.
   * @default 2_000
   */
  probeMs: number;
  /**
   * How long a cancel waits for its run's end before it is answered with `cancelling`, ms.
   * @default 10_000
   */
  cancelWaitMs: number;
}

/** How long who connects may take to say what they want, and how often that is looked at, ms; bytes of headers. */
const httpLimits = {
  headersTimeout: 10_000,
  requestTimeout: 10_000,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 1_000,
  maxHeaderSize: 32_768,
};

/**
 * Starts a gateway.
 *
 * @throws RedisUrlError, RedisUnavailableError, RedisTooOldError, RedisIsClusterError, RedisDatabaseError; EADDRINUSE, EACCES as node:net has them
 */
export async function startGateway(
  env: GatewayEnv,
  logger: Logger,
  { probeMs = 2_000, cancelWaitMs = 10_000 }: Partial<GatewayTimes> = {},
): Promise<Gateway> {
  const gatewayId = nanoid(10);
  const commands = connectRedis(env.REDIS_URL, "commands", { name: "throughline-gateway", logger });
  const subscriber = connectRedis(env.REDIS_URL, "subscriber", { name: "throughline-gateway", logger });
  const reads = connectRedis(env.REDIS_URL, "commands", { name: "throughline-gateway-reads", logger });
  const disconnect = () => {
    commands.disconnect();
    reads.disconnect();
    subscriber.disconnect();
  };
  try {
    const [{ warnings }] = await Promise.all([checkRedis(commands), checkRedis(reads)]);
    for (const warning of [...warnings, ...warningsOf(env)]) logger.warn(warning);
  } catch (error) {
    disconnect();
    throw error;
  }

  const prefix = env.KEY_PREFIX;
  const dispatcher = new Dispatcher(commands, {
    prefix,
    maxInLine: env.MAX_RUNS_IN_LINE,
    limits: { maxRuns: env.MAX_RUNS_PER_OWNER, maxBytes: env.MAX_STORED_BYTES_PER_OWNER },
    retention: { endedMs: env.RUN_TTL_S * 1000, idleMs: env.RUN_IDLE_TTL_S * 1000 },
  });
  const leases = new ReaderLeases(dispatcher.runs, { gatewayId, graceMs: env.DISCONNECT_GRACE_MS }, logger);
  const hub = new Hub(
    commands,
    subscriber,
    {
      prefix,
      gatewayId,
      pageBytes,
      cacheBytes,
      maxReads,
      probeMs,
      revive: (runId) => dispatcher.revive(runId),
      leases,
    },
    logger,
  );
  const authenticator = makeAuthenticator(env, logger);
  const lists = new Dispatcher(reads, { prefix });
  const handle = commandHandler({
    dispatcher,
    reads: {
      turns: new FairTurns(maxHeavyReads, maxHeavyWaiting),
      dispatcher: lists,
      saver: new RedisCheckpointSaver(reads, { prefix }),
    },
    hub,
    authenticator,
    logger,
    maxSubscriptions: env.MAX_SUBSCRIPTIONS,
    disconnectGraceMs: env.DISCONNECT_GRACE_MS,
    cancelWaitMs,
  });
  const sockets = new Sockets(env, logger, authenticator, handle);

  const server = createServer(httpLimits, (request, response) => {
    answerHttp(request, response, async () => {
      const reasons: string[] = [];
      if (sockets.draining) reasons.push("draining");
      const pong = commands.status === "ready" ? await within(commands.ping(), 1_000) : false;
      if (!pong) reasons.push("redis does not answer");
      if (!hub.proven) reasons.push("the subscriber connection is not proven alive");
      return reasons;
    });
  });
  server.on("upgrade", (request, socket, head) => void sockets.upgrade(request, socket, head));
  try {
    await hub.probe();
    await listen(server, env.PORT, env.HOST);
  } catch (error) {
    hub.close();
    await leases.close();
    disconnect();
    throw error;
  }
  const { port } = server.address() as AddressInfo;
  const host = env.HOST.includes(":") ? `[${env.HOST.replace(/^\[|\]$/g, "")}]` : env.HOST;
  const url = `ws://${host}:${port}/v1/ws`;
  logger.info({ url, auth: env.AUTH, gatewayId }, "gateway is up");

  let closing: Promise<void> | undefined;
  const close = async () => {
    // Health checks go on being answered: not ready.
    leases.drain();
    await sockets.drain();
    server.close();
    server.closeAllConnections();
    hub.close();
    await isDoneWithin(leases.close(), leasesMs);
    await dispatcher.close();
    await lists.close();
    disconnect();
  };
  return {
    url,
    port,
    server,
    get connections() {
      return sockets.size;
    },
    get runs() {
      return hub.size;
    },
    close: () => (closing ??= close()),
  };
}

function makeAuthenticator(env: GatewayEnv, logger: Logger): Authenticator {
  if (env.AUTH === "none") return openToAll();
  const { JWT_SECRET: secret, JWT_JWKS_URL: jwksUrl, JWT_ISSUER: issuer, JWT_AUDIENCE: audience } = env;
  return jwtAuthenticator({ secret, jwksUrl, issuer, audience, requireExpiry: env.JWT_REQUIRE_EXP }, logger);
}

function answerHttp(
  request: IncomingMessage,
  response: ServerResponse,
  notReady: () => Promise<string[]>,
): void {
  const send = (status: number, body: unknown) => {
    response.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify(body)}\n`);
  };
  const path = request.url?.split("?")[0];
  if (path === "/healthz") send(200, { status: "ok" });
  else if (path === "/readyz") {
    notReady().then(
      (reasons) =>
        send(
          reasons.length === 0 ? 200 : 503,
          reasons.length === 0 ? { status: "ready" } : { status: "not ready", reasons },
        ),
      () => send(503, { status: "not ready" }),
    );
  } else if (path === "/v1/ws") {
    response.setHeader("upgrade", "websocket");
    response.setHeader("connection", "Upgrade");
    send(426, { error: "this is a WebSocket: upgrade the connection" });
  } else send(404, { error: "there are /v1/ws (a WebSocket), /healthz and /readyz here" });
}

async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
  return await isDoneWithin(promise, ms).catch(() => false);
}

function listen(server: ReturnType<typeof createServer>, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host.replace(/^\[|\]$/g, ""), 4096, () => {
      server.off("error", reject);
      resolve();
    });
  });
}
