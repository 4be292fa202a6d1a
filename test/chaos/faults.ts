/**
 * What can go wrong. A fault strikes, holds for a while, and is undone; what it strikes is drawn when it does, from its
 * own random numbers.
 */
import type { Population } from "./population.ts";
import type { Random } from "./random.ts";
import type { Instance } from "./service.ts";
import type { Stage } from "./stage.ts";

export interface Scene {
  stage: Stage;
  population: Population;
}

/** A fault that has struck. */
export interface Struck {
  /** What it struck. */
  detail: string;
  undo(): Promise<void>;
}

export interface FaultKind {
  /** How often it is drawn, beside the others. */
  weight: number;
  /** How long it holds, ms, from and to. */
  holdMs: readonly [number, number];
  /** How long the line may need to get over it once it is undone, ms. */
  aftermathMs: number;
  /** Only one at a time of those that trouble the server itself. */
  ofRedis?: true;
  /** Redis is another incarnation afterwards: runs that go on are told again from the start, in a new epoch. */
  renewsEpochs?: true;
  /** Not among those that are drawn unless it is named. */
  offByDefault?: true;
  /** undefined: there is nothing to strike at the moment. */
  strike(scene: Scene, random: Random): Promise<Struck | undefined>;
}

/** As figures find the fault that they are a consequence of. */
function label({ name, pid }: Instance): string {
  return `${name} (${pid})`;
}

/** A lost worker's runs go on within this, ms. */
export const takeoverMs = 8_000;
/** A lost connection is back within this, ms. */
const reconnectMs = 2_000;

const nothingToUndo = async () => {};

/** SIGKILL; another process takes its place after a while. */
function kill(kind: "gateway" | "worker", weight: number): FaultKind {
  return {
    weight,
    aftermathMs: kind === "worker" ? takeoverMs : reconnectMs,
    holdMs: [0, 0],
    async strike({ stage }, random) {
      const service = stage.pick(kind, random);
      if (service === undefined) return undefined;
      const detail = label(service.current!);
      const back = service.kill(random.int(300, 2_500));
      return { detail, undo: () => back };
    },
  };
}

/** SIGTERM; another process takes its place at once. */
function terminate(kind: "gateway" | "worker", weight: number): FaultKind {
  return {
    weight,
    aftermathMs: reconnectMs,
    holdMs: [0, 0],
    async strike({ stage }, random) {
      const service = stage.pick(kind, random);
      if (service === undefined) return undefined;
      const detail = label(service.current!);
      const done = service.terminate();
      return { detail, undo: () => done };
    },
  };
}

const workerFreeze: FaultKind = {
  weight: 3,
  aftermathMs: takeoverMs,
  holdMs: [6_000, 12_000],
  async strike({ stage }, random) {
    const service = stage.pick("worker", random);
    const instance = service?.current;
    if (service === undefined || instance === undefined) return undefined;
    service.freeze();
    return { detail: label(instance), undo: async () => service.thaw(instance) };
  },
};

const subscribersCut: FaultKind = {
  weight: 8,
  aftermathMs: reconnectMs,
  holdMs: [0, 0],
  async strike({ stage }) {
    const killed = await stage.redis.call("CLIENT", "KILL", "TYPE", "pubsub");
    return { detail: `${killed} connections`, undo: nothingToUndo };
  },
};

/** The connection stays open, and nothing comes out of it any more. Whoever holds it has to find out. */
const subscriberMuted: FaultKind = {
  weight: 5,
  aftermathMs: reconnectMs,
  holdMs: [3_000, 3_000],
  async strike({ stage }, random) {
    const kind = random.pick(["gateway", "worker"] as const);
    const instance = stage.pick(kind, random)?.current;
    if (instance === undefined) return undefined;
    const muted = instance.proxy.mute(`${kind}:subscriber`);
    return { detail: `${muted} of ${label(instance)}`, undo: nothingToUndo };
  },
};

/** Every other message that is published is lost on the way to one process; the connection is well. */
const messagesLost: FaultKind = {
  weight: 8,
  aftermathMs: reconnectMs,
  holdMs: [1_000, 5_000],
  async strike({ stage }, random) {
    const kind = random.pick(["gateway", "gateway", "worker"] as const);
    const instance = stage.pick(kind, random)?.current;
    if (instance === undefined) return undefined;
    const stop = instance.proxy.lose(`${kind}:subscriber`, () => random.chance(0.5));
    return { detail: label(instance), undo: async () => stop() };
  },
};

/** All connections of one process to Redis are broken off. */
const connectionsCut: FaultKind = {
  weight: 5,
  aftermathMs: takeoverMs,
  holdMs: [0, 0],
  async strike({ stage }, random) {
    const instance = stage.pick(random.pick(["gateway", "worker"] as const), random)?.current;
    if (instance === undefined) return undefined;
    instance.proxy.cut();
    return { detail: label(instance), undo: nothingToUndo };
  },
};

const redisKill: FaultKind = {
  weight: 2,
  aftermathMs: takeoverMs,
  holdMs: [200, 3_000],
  ofRedis: true,
  renewsEpochs: true,
  async strike({ stage }) {
    await stage.killRedis();
    return { detail: "SIGKILL", undo: () => stage.restartRedis() };
  },
};

const redisFreeze: FaultKind = {
  weight: 2,
  aftermathMs: takeoverMs,
  holdMs: [2_000, 8_000],
  ofRedis: true,
  async strike({ stage }) {
    stage.signalRedis("SIGSTOP");
    return { detail: "SIGSTOP", undo: async () => stage.signalRedis("SIGCONT") };
  },
};

const redisFull: FaultKind = {
  weight: 2,
  aftermathMs: takeoverMs,
  holdMs: [1_000, 5_000],
  ofRedis: true,
  async strike({ stage }) {
    await stage.redis.config("SET", "maxmemory", "1mb");
    return {
      detail: "maxmemory 1mb",
      undo: async () => void (await stage.redis.config("SET", "maxmemory", "0")),
    };
  },
};

/** A replica of a master that does not answer: it reads, and refuses to write. */
const redisReadOnly: FaultKind = {
  weight: 2,
  aftermathMs: takeoverMs,
  holdMs: [1_000, 5_000],
  ofRedis: true,
  renewsEpochs: true,
  async strike({ stage }) {
    // Port 1 is nobody's.
    await stage.redis.replicaof("127.0.0.1", 1);
    return { detail: "REPLICAOF", undo: async () => void (await stage.redis.replicaof("NO", "ONE")) };
  },
};

/** Every client of a gateway loses its socket, and all come back at once. */
const clientStorm: FaultKind = {
  weight: 5,
  aftermathMs: reconnectMs,
  holdMs: [0, 0],
  async strike({ stage, population }, random) {
    const instance = stage.pick("gateway", random)?.current;
    if (instance === undefined) return undefined;
    return { detail: `${population.cut(instance)} sockets of ${label(instance)}`, undo: nothingToUndo };
  },
};

/** Some sockets are not read from, as on a phone in a tunnel. */
const readersPaused: FaultKind = {
  weight: 4,
  aftermathMs: reconnectMs,
  holdMs: [1_000, 6_000],
  async strike({ population }, random) {
    const resume = population.pause(0.2, random);
    return { detail: "a fifth of all sockets", undo: async () => resume() };
  },
};

export const faultKinds = {
  "worker-kill": kill("worker", 5),
  "worker-freeze": workerFreeze,
  "worker-term": terminate("worker", 4),
  "gateway-kill": kill("gateway", 4),
  "gateway-term": terminate("gateway", 4),
  "subscribers-cut": subscribersCut,
  "subscriber-muted": subscriberMuted,
  "messages-lost": messagesLost,
  "connections-cut": connectionsCut,
  "redis-kill": redisKill,
  "redis-freeze": redisFreeze,
  "redis-full": redisFull,
  "redis-read-only": redisReadOnly,
  "client-storm": clientStorm,
  "readers-paused": readersPaused,
} as const satisfies Record<string, FaultKind>;

export type FaultName = keyof typeof faultKinds;
export const faultNames = Object.keys(faultKinds) as FaultName[];
